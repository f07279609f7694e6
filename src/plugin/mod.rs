//! The VMM's picture of the plugin process.

pub mod lifecycle;
pub mod process;
