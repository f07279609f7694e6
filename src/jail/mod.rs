//! The jail: what a plugin can see and do, decided before it runs.
//!
//! - [`plan`]: the whole jail as data: checked, printable, then carried out. It is made of [`ids`] (who the plugin is),
//!   [`mounts`] (what is in its file system) and [`program`] (what its dynamic loader needs).
//! - [`environment`]: which variables it gets.
//! - [`step`]: the child half: what the process does to itself before it becomes the plugin.
//! - [`parent`]: the parent half: clone, id maps; [`hints`]: what to do where that fails.
//! - [`vmm`]: the VMM's own cage, with the filters of [`own`].
//! - [`policy`]: seccomp policy files: read, judged, compiled.
//! - [`bpf`]: programs of classic BPF: assembled, checked, listed, simulated.
//! - [`choice`]: which policy a plugin gets.
//! - [`filter`]: the plugin's filter, from the parent through the child half to the listener.
//! - [`call`]: a system call as a filter sees it, and what a filter may answer.
//! - [`syscalls`], [`constants`]: what the names in a policy stand for.

pub mod bpf;
pub mod call;
pub mod choice;
pub mod constants;
pub mod environment;
pub mod filter;
pub mod hints;
pub mod ids;
pub mod mounts;
pub mod own;
pub mod parent;
pub mod plan;
pub mod policy;
pub mod program;
pub mod step;
pub mod syscalls;
pub mod vmm;
