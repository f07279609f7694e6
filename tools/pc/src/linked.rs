//! The machine linked into the program that runs the VM, in place of a plugin: for comparison, and for debugging with one
//! process to look at. What completes instructions that KVM refuses is not part of it, and a
//! reset is its end.

use std::io;

use outboard_plugin::Space;
use outboard_plugin::kvm_bindings::kvm_cpuid_entry2;

use crate::bus::Cycle;
use crate::clock::Clock;
use crate::console::output::Output;
use crate::cpu;
use crate::ending::Ending;
use crate::error::PcError;
use crate::files::Files;
use crate::host::Host;
use crate::machine::{Around, Machine};
use crate::options::Options;

/// A machine whose accesses are calls.
pub struct Linked {
    machine: Machine,
    output: Output,
    about: cpu::About,
}

impl Linked {
    /// Builds the machine with firmware on a host whose TSC has so many kHz. Its time begins, and what the guest prints goes
    /// to standard output.
    ///
    /// # Errors
    /// A sentence that says what cannot be had.
    pub fn new(host: &mut dyn Host, options: &Options, about: cpu::About, host_khz: u64) -> Result<Linked, PcError> {
        let ending = Ending::new(true);
        let output = Output::new(Box::new(io::stdout()), options.exit_on.as_deref(), ending.clone())?;
        let clock = Clock::new(host_khz);
        clock.begin(outboard_plugin::tsc());
        let around = Around { cpus: about.cpus, clock: &clock, output: &output, debug: None, ending: &ending };
        let machine = Machine::new(host, options, &mut Files::default(), around)?;
        Ok(Linked { machine, output, about })
    }

    /// The leaves of a processor.
    pub fn cpuid(&self, id: u32) -> Vec<kvm_cpuid_entry2> {
        cpu::cpuid(&self.about, id)
    }

    /// The guest reads items of `width` bytes, 1 to 8, at an address, which fill `data`.
    pub fn read(&self, space: Space, address: u64, width: usize, data: &mut [u8]) {
        let items = data.len().div_ceil(width) as u64;
        let cycle = Cycle { space, address, width, tsc: outboard_plugin::tsc() };
        self.machine.bus.read(cycle, items, |next| {
            for item in data.chunks_mut(width) {
                item.copy_from_slice(&next().to_le_bytes()[..item.len()]);
            }
        });
    }

    /// The guest writes items of `width` bytes, 1 to 8, to an address.
    pub fn write(&self, space: Space, address: u64, width: usize, data: &[u8]) {
        let value = |item: &[u8]| item.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let cycle = Cycle { space, address, width, tsc: outboard_plugin::tsc() };
        self.machine.bus.write(cycle, data.chunks(width).map(value));
    }

    /// The exit status, once the machine has ended.
    pub fn ended(&self) -> Option<u8> {
        if !self.machine.ending.ended() {
            return None;
        }
        self.output.flush();
        self.machine.ending.reason().map(|end| end.status())
    }
}
