//! The vCPUs' threads: each takes its vCPU's events and hands them to the bus.

use std::sync::Arc;
use std::thread;

use outboard_plugin::{Connection, Error, Event, Exit, Exits, Registers, Vcpu};

use crate::cpu;
use crate::emulate::{self, Completion};
use crate::ending::{End, Ending};
use crate::machine::Machine;

/// `KVM_CAP_EXIT_ON_EMULATION_FAILURE` of linux/kvm.h.
const EXIT_ON_EMULATION_FAILURE: u32 = 204;

/// Sets the registers of a vCPU that has not run.
pub type Begin = Arc<dyn Fn(&mut Registers) -> Result<(), Error> + Send + Sync>;

/// The registers of processor `id`: its identification, and for the first one what `start` says.
pub fn begin(about: cpu::About, start: Option<Begin>) -> Begin {
    Arc::new(move |registers| {
        registers.set_cpuid(&cpu::cpuid(&about, registers.id()))?;
        match &start {
            Some(start) if registers.id() == 0 => start(registers),
            _ => Ok(()), // in reset: the first one at the end of the firmware, the others until they are called
        }
    })
}

/// Has the VMM tell of the instructions that KVM cannot emulate, where it can.
///
/// # Errors
/// Those of the connection.
pub fn ask_for_refused_instructions(vm: &mut Connection) -> Result<(), Error> {
    match vm.check_extension(EXIT_ON_EMULATION_FAILURE)? {
        0 => Ok(()),
        _ => vm.subscribe(Exits::EMULATION_FAILURES, &[]),
    }
}

/// Serves a vCPU until the machine ends.
pub fn run(vcpu: Vcpu, machine: &Machine, begin: &Begin) {
    let ending = &machine.ending;
    match serve(vcpu, machine, begin) {
        Ok(()) => ending.end(End::Shutdown),
        Err(error) => ending.end(End::Failed(error.to_string())),
    }
}

fn serve(mut vcpu: Vcpu, machine: &Machine, begin: &Begin) -> Result<(), Error> {
    let (bus, ending) = (&machine.bus, &machine.ending);
    loop {
        match vcpu.wait()? {
            Event::Read(read) => {
                let access = read.access();
                let (width, items) = items(access.width, access.length);
                bus.read(access.space, access.address, width, items, |next| read.answer_items(next));
            }
            Event::Write(write) => {
                let access = write.access();
                let (width, _) = items(access.width, access.length);
                bus.write(access.space, access.address, width, write.items());
                stand_still_at_end(ending);
            }
            Event::Posted(write) => {
                bus.write(write.space, write.address, usize::from(write.length), core::iter::once(write.data));
            }
            Event::Init(mut init) => begin(&mut init)?,
            Event::Exit(exited) if matches!(exited.exit(), Exit::EmulationFailure { .. }) => {
                if let Completion::Refused(refusal) = emulate::complete(exited, &machine.memory)? {
                    ending.end(End::Failed(refusal.to_string()));
                }
            }
            Event::Shutdown => return Ok(()),
            _ => {}
        }
    }
}

/// Bytes of an item and number of items.
fn items(width: u8, length: u32) -> (usize, u64) {
    let width = usize::from(width).clamp(1, 8);
    (width, u64::from(length).div_ceil(width as u64))
}

/// Keeps the guest where it is while the main thread ends the machine: a write that resets or switches off has nothing
/// behind it.
fn stand_still_at_end(ending: &Ending) {
    while ending.ended() {
        thread::park();
    }
}
