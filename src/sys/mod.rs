//! Thin system calls: one small function each, borrowed and owned descriptors in the signatures, no policy.

pub mod errno;
pub mod message;
pub mod process;
pub mod uring;
