//! The bytes between the outboard VMM and a plugin.
//!
//! Two processes that do not trust each other meet here: the VMM, which owns the virtual machine, and the
//! plugin, which emulates its hardware. They share
//!
//! - a **control socket** (`AF_UNIX`, `SOCK_SEQPACKET`) that carries one [`frame`] per message: requests of the
//!   plugin and replies of the VMM, all listed in [`control`];
//! - two **memfds** with one [`block`] per vCPU in each: `to_plugin`, which only the VMM writes, and `to_vmm`, which
//!   only the plugin writes. A block starts with one cache line ([`mod@line`]) that carries an event or its answer;
//!   behind it lie the [`posted`] write ring, register files, string data and a bulk area.
//!
//! [`vmm_end`] and [`plugin_end`] are the two ends of a vCPU's exchange. Both run without a system call while the
//! other side is spinning ([`spin`]) and sleep on a futex otherwise.
//!
//! `PROTOCOL.md` beside this crate is the normative text: bytes, offsets, order, ownership, errors and versions.
//! Nothing in this crate knows KVM handles, files of the VMM, or threads.

pub mod block;
#[cfg(not(loom))]
pub mod clock;
pub mod control;
pub mod details;
pub mod error;
pub mod frame;
#[cfg(not(loom))]
pub mod futex;
pub mod kvm_abi;
pub mod limits;
pub mod line;
#[cfg(loom)]
pub mod model;
#[cfg(not(loom))]
pub mod page;
pub mod plugin_end;
pub mod posted;
pub mod prefetch;
pub mod socket;
pub mod spin;
#[cfg(not(loom))]
pub mod stats;
pub mod sync;
#[cfg(not(loom))]
pub mod trace;
pub mod vmm_end;
pub mod words;

#[cfg(loom)]
pub use model::{clock, futex, page};
