//! What the VM consists of: memory slots, reserved ranges, interrupts, doorbells.
//!
//! [`Machine`] belongs to the control thread; what the vCPU threads need of it they see through [`rules`].

pub mod memory;
pub mod ranges;
pub mod rules;
pub mod tap;
pub mod wiring;
pub mod written;

mod chips;
mod controllers;
mod ids;
mod lists;
mod routes;
mod subscriptions;
mod vm;

pub use controllers::IrqChip;
pub use lists::List;
pub use vm::Machine;
