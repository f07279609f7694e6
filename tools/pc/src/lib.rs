//! A PC as a plugin: unmodified firmware and kernels run on it.
//!
//! Rooms, from the outside in. A room uses those below it only.
//!
//! - [`options`]: the command line, and the files that the plugin's cage has to show.
//! - `load`: guests from files, decided as a list of what goes where in memory and how the first vCPU begins.
//! - `emulate`: completes instructions that KVM's emulator refuses.

pub mod emulate;
pub mod load;
pub mod options;

pub use options::Options;
