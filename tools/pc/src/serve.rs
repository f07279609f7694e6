//! The vCPUs' threads: each takes its vCPU's events and hands them to the bus.

use outboard_plugin::{Access, Connection, Error, Event, Exit, Exits, PostedWrite, Registers, Vcpu};

use crate::bus::Cycle;
use crate::clock::Clock;
use crate::cpu;
use crate::emulate::{self, Completion};
use crate::ending::End;
use crate::kernel::Begin;
use crate::machine::Machine;
use crate::snapshot::Snapshot;

/// `KVM_CAP_EXIT_ON_EMULATION_FAILURE` of linux/kvm.h.
const EXIT_ON_EMULATION_FAILURE: u32 = 204;

/// How the vCPUs begin.
pub struct Beginning {
    /// What they say they are.
    pub about: cpu::About,
    /// The machine's time, which begins with the first one.
    pub clock: Clock,
    /// How the first one starts a kernel; without it, it comes out of reset at the end of the firmware. The others are in
    /// reset until they are called.
    pub start: Option<Begin>,
    /// MSRs that a reset puts back.
    pub msrs: Vec<u32>,
}

impl Beginning {
    /// A vCPU begins for the first time; what a reset puts back.
    fn first(&self, registers: &mut Registers) -> Result<Snapshot, Error> {
        if registers.id() == 0 {
            self.clock.begin(registers.exit_tsc());
        }
        registers.set_cpuid(&cpu::cpuid(&self.about, registers.id()))?;
        let snapshot = Snapshot::take(registers, &self.msrs)?;
        self.start(registers)?;
        Ok(snapshot)
    }

    fn start(&self, registers: &mut Registers) -> Result<(), Error> {
        match &self.start {
            Some(start) if registers.id() == 0 => start(registers),
            _ => Ok(()),
        }
    }
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
pub fn run(vcpu: Vcpu, machine: &Machine, beginning: &Beginning) {
    let ending = &machine.ending;
    match serve(vcpu, machine, beginning) {
        Ok(()) => ending.end(End::Shutdown),
        Err(error) => ending.end(End::Failed(error.to_string())),
    }
}

fn serve(mut vcpu: Vcpu, machine: &Machine, beginning: &Beginning) -> Result<(), Error> {
    let (bus, ending) = (&machine.bus, &machine.ending);
    let mut out_of_reset = None;
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
                ending.hold();
            }
            Event::Posted(write) => {
                let PostedWrite { space, address, length, data, tsc } = write;
                bus.write(Cycle { space, address, width: length.into(), tsc }, core::iter::once(data));
            }
            Event::Init(mut init) => out_of_reset = Some(beginning.first(&mut init)?),
            Event::Paused(mut paused) => {
                // Nobody else asks for pauses than who resets the machine.
                ending.arrive();
                if let Some(state) = &out_of_reset {
                    state.put_back(&mut paused)?;
                }
                beginning.start(&mut paused)?;
            }
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
