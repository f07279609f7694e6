//! The vCPUs' threads: each takes its vCPU's events and hands them to the bus.

use std::sync::Arc;
use std::thread;

use outboard_plugin::{Access, Connection, Error, Event, Exit, Exits, PostedWrite, Registers, Vcpu};

use crate::bus::Cycle;
use crate::clock::Clock;
use crate::cpu;
use crate::emulate::{self, Completion};
use crate::ending::{End, Ending};
use crate::machine::Machine;

/// `KVM_CAP_EXIT_ON_EMULATION_FAILURE` of linux/kvm.h.
const EXIT_ON_EMULATION_FAILURE: u32 = 204;

/// Sets the registers of a vCPU that has not run.
pub type Begin = Arc<dyn Fn(&mut Registers) -> Result<(), Error> + Send + Sync>;

/// The registers of processor `id`: its identification, and for the first one what `start` says. The machine's time begins
/// with the first one.
pub fn begin(about: cpu::About, clock: Clock, start: Option<Begin>) -> Begin {
    Arc::new(move |registers| {
        if registers.id() == 0 {
            clock.begin(registers.exit_tsc());
        }
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
                let (cycle, items) = cycle(access, read.exit_tsc());
                bus.read(cycle, items, |next| read.answer_items(next));
            }
            Event::Write(write) => {
                let access = write.access();
                let (cycle, _) = cycle(access, write.exit_tsc());
                bus.write(cycle, write.items());
                stand_still_at_end(ending);
            }
            Event::Posted(write) => {
                let PostedWrite { space, address, length, data, tsc } = write;
                bus.write(Cycle { space, address, width: length.into(), tsc }, core::iter::once(data));
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

/// An access as the bus takes it, and its number of items.
fn cycle(access: Access, tsc: u64) -> (Cycle, u64) {
    let width = usize::from(access.width).clamp(1, 8);
    let items = u64::from(access.length).div_ceil(width as u64);
    (Cycle { space: access.space, address: access.address, width, tsc }, items)
}

/// Keeps the guest where it is while the main thread ends the machine: a write that resets or switches off has nothing
/// behind it.
fn stand_still_at_end(ending: &Ending) {
    while ending.ended() {
        thread::park();
    }
}
