//! Thin system calls: one small function each, borrowed and owned descriptors in the signatures, and
//! nothing decided here. The only place of this crate that calls libc.
//!
//! `unsafe` is allowed in these files and denied above them; what they offer is safe to call unless it is
//! marked otherwise.

pub mod affinity;
pub mod creds;
pub mod descriptors;
pub mod errno;
pub mod eventfd;
pub mod exec;
pub mod file;
pub mod ioctl;
pub mod kvm_data;
pub mod kvm_requests;
pub mod kvm_vm_fd;
pub mod landlock;
pub mod memfd;
pub mod message;
pub mod mount;
pub mod namespaces;
pub mod peer;
pub mod pipe;
pub mod process;
pub mod rlimit;
pub mod seccomp;
pub mod signal;
pub mod terminal;
pub mod tun;
pub mod uring;

pub use errno::Errno;

/// Bytes of a page of x86-64, the unit of memory slots and dirty logs.
pub const PAGE: u64 = 4096;
