//! A PC as a plugin: unmodified firmware and kernels run on it.
//!
//! Rooms, from the outside in. A room uses those below it only.
//!
//! - `run`: the plugin's whole life; `serve`: the vCPUs' threads; `snapshot`: what a reset puts back into a vCPU.
//! - [`Linked`]: the machine without a process of its own.
//! - `machine`: which device is where, and what connects them.
//! - `console`: the user's terminal, or pipes in its place.
//! - `load`: guests from files, decided as a list of what goes where in memory and how the first vCPU begins.
//! - `emulate`: completes instructions that KVM's emulator refuses.
//! - `acpi`, `smbios`: the tables that tell the guest of the devices and what they are called.
//! - `device`: the devices, one room each.
//! - `bus`: which device an access belongs to.
//! - `clock`: the machine's time, which is that of the guest's accesses.
//! - `memory`, `firmware`, `kernel`, `cpu`: what the guest finds at its first instruction.
//! - `files`: what the machine is made of, opened.
//! - [`host`]: what the machine asks of whoever runs the VM.
//! - [`options`]: the command line.
//! - `calendar`: dates.

mod acpi;
mod bus;
mod calendar;
mod clock;
mod console;
pub mod cpu;
mod device;
pub mod emulate;
mod ending;
pub mod error;
pub mod files;
mod firmware;
pub mod host;
mod kernel;
mod linked;
pub mod load;
mod machine;
mod memory;
pub mod options;
mod report;
mod run;
mod serve;
mod smbios;
mod snapshot;

use std::ffi::OsString;

use clap::Parser;

pub use calendar::Date;
pub use linked::Linked;
pub use options::Options;
pub use run::main;

/// A PC as a plugin of `outboard run`.
#[derive(Parser)]
#[command(name = "outboard-pc", version, about)]
struct Words {
    #[command(flatten)]
    options: Options,
}

/// The plugin, by its command line; the exit status.
pub fn plugin(words: impl Iterator<Item = OsString>) -> u8 {
    match Words::try_parse_from(words) {
        Ok(Words { options }) => main(&options, None),
        Err(error) => {
            // Clap knows that help goes to standard output and errors to standard error.
            let _ = error.print();
            if error.use_stderr() { USAGE } else { 0 }
        }
    }
}

/// Exit status for a command line that is wrong, that of the VMM.
pub const USAGE: u8 = 35;
