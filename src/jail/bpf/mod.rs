//! Programs of classic BPF as seccomp takes them: assembled, checked, listed, simulated.
//!
//! A program reads the words of `struct seccomp_data` and returns an [`Action`](super::call::Action). It only jumps
//! forward, so it ends.

mod assembler;
mod check;
mod listing;
mod opcode;
mod raw;
mod simulate;
#[cfg(test)]
mod tests;

pub use crate::sys::seccomp::Instruction;
pub use assembler::{AssembleError, Assembler, Label, Target};
pub use check::{Flaw, check};
pub use listing::listing;
pub use opcode::Test;
pub use raw::{RawError, from_bytes, replace_answers, to_bytes};
pub use simulate::{Stuck, simulate};

/// Most instructions of a program (`BPF_MAXINSNS`, `linux/bpf_common.h`).
pub const MAX_INSTRUCTIONS: usize = 4096;
