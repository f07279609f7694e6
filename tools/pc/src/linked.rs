//! The machine linked into the program that runs the VM, in place of a plugin: for comparison, and for debugging with one
//! process to look at. What completes instructions that KVM refuses is not part of it.

use std::io;
use std::time::Duration;

use outboard_plugin::Space;
use outboard_plugin::kvm_bindings::kvm_cpuid_entry2;

use crate::console::output::Output;
use crate::cpu;
use crate::ending::Ending;
use crate::error::PcError;
use crate::files::Files;
use crate::host::Host;
use crate::machine::Machine;
use crate::options::Options;

/// A machine whose accesses are calls.
pub struct Linked {
    machine: Machine,
    output: Output,
    about: cpu::About,
}

impl Linked {
    /// Builds the machine with firmware on a host. What the guest prints goes to standard output.
    ///
    /// # Errors
    /// A sentence that says what cannot be had.
    pub fn new(host: &mut dyn Host, options: &Options, about: cpu::About) -> Result<Linked, PcError> {
        let ending = Ending::default();
        let output = Output::new(Box::new(io::stdout()), options.exit_on.as_deref(), ending.clone())?;
        let machine = Machine::new(host, options, &mut Files::default(), about.cpus, &output, None, &ending)?;
        Ok(Linked { machine, output, about })
    }

    /// The leaves of a processor.
    pub fn cpuid(&self, id: u32) -> Vec<kvm_cpuid_entry2> {
        cpu::cpuid(&self.about, id)
    }

    /// The guest reads items of `width` bytes, 1 to 8, at an address, which fill `data`.
    pub fn read(&self, space: Space, address: u64, width: usize, data: &mut [u8]) {
        let items = data.len().div_ceil(width) as u64;
        self.machine.bus.read(space, address, width, items, |next| {
            for item in data.chunks_mut(width) {
                item.copy_from_slice(&next().to_le_bytes()[..item.len()]);
            }
        });
    }

    /// The guest writes items of `width` bytes, 1 to 8, to an address.
    pub fn write(&self, space: Space, address: u64, width: usize, data: &[u8]) {
        let value = |item: &[u8]| item.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        self.machine.bus.write(space, address, width, data.chunks(width).map(value));
    }

    /// The exit status, once the machine has ended.
    pub fn ended(&self) -> Option<u8> {
        if !self.machine.ending.ended() {
            return None;
        }
        self.output.flush();
        self.machine.ending.wait(Some(Duration::ZERO)).map(|end| end.status())
    }
}
