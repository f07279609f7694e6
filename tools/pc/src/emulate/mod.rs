//! Instructions that KVM's emulator refuses, carried out here.
//!
//! Most processors run a guest's instructions themselves, and KVM emulates little but accesses to devices. Some hosts have KVM
//! emulate all that a guest's kernel does, and its emulator does not know every instruction. It hands those to the plugin as
//! [`Exit::EmulationFailure`], and [`complete`] carries them out on the registers that came along.
//!
//! [`execute`] is the core: one instruction on a [`Cpu`] and a [`Machine`], without KVM. Rooms within:
//! `run` decodes, dispatches and turns faults into exceptions of the guest; `deliver` and `ret` enter and leave handlers;
//! `paging` and `segments` find addresses; `integer`, `system`, `vector` and `xsave` say what instructions do; `legacy` is where x87 and SSE lie in an XSAVE area.

mod core;
mod cpu;
mod deliver;
mod fault;
mod guest;
mod integer;
mod legacy;
mod machine;
mod paging;
mod ret;
mod run;
mod segments;
mod system;
#[cfg(test)]
mod testing;
mod vector;
mod xsave;

pub use cpu::Cpu;
pub use fault::{Exception, Refusal, Why};
pub use guest::{Completion, PhysicalMemory, complete};
pub use machine::Machine;
pub use run::{MAX_BYTES, execute};

#[cfg(doc)]
use outboard_plugin::Exit;
