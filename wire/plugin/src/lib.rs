//! Write the hardware of a virtual machine as a program of its own.
//!
//! `outboard run --plugin PATH` starts a KVM virtual machine and this program beside it. The program (the *plugin*) gives
//! the guest memory, reserves the addresses where its devices live, and answers the guest's accesses. This library is its
//! side of the conversation; `PROTOCOL.md` of the crate `outboard-wire` says what goes over the wire.
//!
//! A whole plugin: one port that prints what the guest writes to it.
//!
//! ```no_run
//! use outboard_plugin::{Error, Event, Space};
//!
//! fn main() -> Result<(), Error> {
//!     let mut vm = outboard_plugin::connect()?;
//!     let memory = vm.add_memory(0, 0x10_0000)?;
//!     memory.write(0x1000, &[0xb0, b'!', 0xe6, 0xe9, 0xf4])?; // mov al, '!'; out 0xe9, al; hlt
//!     vm.reserve(Space::Port, 0xe9..0xea)?;
//!     vm.start()?;
//!     let mut vcpu = vm.vcpu(0)?;
//!     loop {
//!         match vcpu.wait()? {
//!             Event::Init(mut init) => init.start_real_mode(0, 0x1000)?,
//!             Event::Write(write) => print!("{}", write.value() as u8 as char),
//!             Event::Shutdown => return Ok(()),
//!             _ => {}
//!         }
//!     }
//! }
//! ```
//!
//! - [`connect`] and [`Connection`]: requests to the VMM. One thread at a time; other threads get their own.
//! - [`GuestMemory`]: memory that guest and plugin share.
//! - [`Vcpu`]: waits for [`Event`]s. Each event that stops the vCPU gives access to its [`Registers`] and lets it run on
//!   when it is answered or dropped. [`wait_any`] and [`Vcpu::event_fd`] serve several vCPUs, or vCPUs and other
//!   things, in one thread.
//! - [`Exit`] and [`Connection::subscribe`]: MSRs, HLT, hypercalls, breakpoints and the like.
//! - [`IrqRoute`], [`Connection::pic`] and what stands beside it: KVM's own interrupt controllers, timer and clock.
//! - [`IrqEvent`] and [`IoEvent`]: interrupts and doorbells that work without either process being asked.
//! - [`Error`]: everything that can fail, each with an errno.
//!
//! A plugin that exits ends the VM; its exit status becomes the VMM's. When the VMM ends first, every wait delivers
//! [`Event::Shutdown`].

mod connection;
mod error;
mod event;
mod eventfd;
mod exit;
mod guest;
mod machine;
mod platform;
mod registers;
mod requests;
mod space;
mod stopped;
mod subscribe;
mod sys;
mod vcpu;

pub use bytemuck;
pub use connection::{Connection, connect, inherited_file};
pub use error::Error;
pub use event::{Access, Event, Exited, Paused, PostedWrite, RawEvent, Read, Write};
pub use eventfd::EventFd;
pub use exit::Exit;
pub use guest::GuestMemory;
pub use kvm_bindings;
pub use platform::{IrqRoute, IrqTarget, NetConfig};
pub use registers::Registers;
pub use requests::{Hint, HintDetail, IoEvent, IrqEvent, MemorySlot, Region};
pub use space::{Files, Space};
pub use stopped::Stopped;
pub use subscribe::{Exits, MsrRange};
pub use vcpu::{Vcpu, wait_any};

/// The TSC now, the counter of [`Registers::exit_tsc`] and [`PostedWrite::tsc`], in ticks of [`Connection::tsc_khz`]: for
/// devices whose time is that of the guest's accesses, and who do something between two of them.
#[inline]
pub fn tsc() -> u64 {
    outboard_wire::clock::now()
}
