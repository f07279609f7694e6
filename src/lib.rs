//! Runs a KVM virtual machine whose hardware is another process.
#![warn(missing_docs)]

pub mod event;
pub mod sys;
