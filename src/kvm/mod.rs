//! Typed handles over the KVM ioctls. No policy: what a VM consists of and what an exit means is decided
//! above.
//!
//! [`System`] is `/dev/kvm`; it creates a [`Vm`], which creates [`Vcpu`]s. A vCPU's [`RunPage`] says why
//! [`Vcpu::run`] has returned, as an [`Exit`].

mod access;
mod decode;
mod error;
pub mod exit;
mod run;
mod system;
mod vcpu;
mod vm;

pub use crate::sys::kvm_vm_fd::Held;
pub use access::{Access, Space};
pub use error::{KvmError, Object, OpenError};
pub use exit::{Direction, Exit, HypervExit, InternalError, Mmio, PortIo};
pub use run::{KickHandle, KickScope, RunPage, install_kick_handler};
pub use system::System;
pub use vcpu::Vcpu;
pub use vm::{DirtyLogs, IoEvent, Vm};

#[cfg(test)]
mod tests;
