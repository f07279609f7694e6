//! The jail: what a process may still do, decided before it runs.
//!
//! - [`policy`]: seccomp policy files: read, judged, compiled.
//! - [`bpf`]: programs of classic BPF: assembled, checked, listed, simulated.
//! - [`call`]: a system call as a filter sees it, and what a filter may answer.
//! - [`syscalls`], [`constants`]: what the names in a policy stand for.

pub mod bpf;
pub mod call;
pub mod constants;
pub mod policy;
pub mod syscalls;
