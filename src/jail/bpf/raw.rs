//! Programs as files: arrays of `struct sock_filter`, eight bytes each, in this machine's byte order.

use super::Instruction;
use super::check::{Flaw, check};
use super::opcode::RETURN;
use crate::jail::call::Action;

/// Why bytes are no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The length is no multiple of eight.
    #[error("it has {0} bytes, which is no multiple of 8, the size of an instruction")]
    Size(usize),
    /// The kernel would not take it.
    #[error("{0}")]
    Flaw(#[from] Flaw),
}

/// Reads a program and checks it as the kernel will.
///
/// # Errors
/// [`RawError`].
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Instruction>, RawError> {
    let (instructions, rest) = bytes.as_chunks::<{ size_of::<Instruction>() }>();
    if !rest.is_empty() {
        return Err(RawError::Size(bytes.len()));
    }
    let program: Vec<Instruction> = instructions.iter().map(|bytes| bytemuck::pod_read_unaligned(bytes)).collect();
    check(&program)?;
    Ok(program)
}

/// Puts other answers in the place of those that a program returns. What it computes to return stays as it is.
pub fn replace_answers(program: &mut [Instruction], mut replace: impl FnMut(Action) -> Action) {
    for instruction in program.iter_mut().filter(|instruction| instruction.code == RETURN) {
        instruction.k = replace(Action::of(instruction.k)).value();
    }
}

/// The bytes of a program.
pub fn to_bytes(program: &[Instruction]) -> &[u8] {
    bytemuck::cast_slice(program)
}
