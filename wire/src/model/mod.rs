//! What stands in for the operating system under the model checker (`--cfg loom`).

pub mod clock;
pub mod futex;
pub mod page;
