//! **outboard** runs a KVM virtual machine whose hardware is emulated by another process, the plugin.
//!
//! Modules in dependency order: a module imports only from those above it.
//!
//! - [`sys`]: thin system calls, the only place that calls libc.
//! - [`kvm`]: typed handles over the KVM ioctls.

pub mod sys;

pub mod kvm;
