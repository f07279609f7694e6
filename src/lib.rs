//! Runs a KVM virtual machine whose hardware is another process.

pub mod event;
pub mod plugin;
pub mod sys;
