//! **outboard** runs a KVM virtual machine whose hardware is emulated by another process, the plugin.
//!
//! Modules in dependency order: a module imports only from those above it.
//!
//! - [`sys`]: thin system calls, the only place that calls libc.
//! - [`kvm`]: typed handles over the KVM ioctls, no policy.
//! - [`observe`]: counters and histograms.
//! - [`machine`]: what the VM consists of.
//! - [`vcpu`]: one thread per vCPU.
//! - [`event`]: the completion loop of the control thread.
//! - [`jail`]: what the plugin sees, and what it and the VMM may still do.
//! - [`plugin`]: the plugin process, its connections and its requests.
//! - [`floor`], [`report`]: what an exit costs without a plugin, and the end report.
//! - [`config`], `cli`: the command line; the latter, with the tools that it carries, takes the feature `cli`, a default one.

pub mod sys;

pub mod kvm;
pub mod observe;

pub mod event;
pub mod jail;
pub mod machine;
pub mod vcpu;

pub mod plugin;

pub mod config;
pub mod floor;
pub mod report;

#[cfg(feature = "cli")]
pub mod cli;
