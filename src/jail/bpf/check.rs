//! The checks that the kernel makes before it takes a seccomp filter (`bpf_check_classic` in `net/core/filter.c`,
//! `seccomp_check_filter` in `kernel/seccomp.c`), so that a file is refused with a reason.

use super::opcode::{
    ALU, CLASS, JUMP, LOAD, LOAD_CELL, LOAD_K, LOAD_LEN, LOAD_X_CELL, LOAD_X_K, LOAD_X_LEN, OPERATION, RETURN,
    RETURN_A, STORE, STORE_X, TAX, TXA, Test, X, alu,
};
use super::{Instruction, MAX_INSTRUCTIONS};
use crate::jail::call::DATA_SIZE;

/// Cells of the scratch memory (`BPF_MEMWORDS`).
pub(super) const CELLS: u32 = 16;

/// Why the kernel would not take a program. Instructions are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// No instruction, or too many.
    #[error("it has {0} instructions: the kernel takes 1 to {MAX_INSTRUCTIONS}")]
    Length(usize),
    /// An instruction that seccomp does not have.
    #[error("instruction {at} has the code {code:#06x}, which seccomp does not take")]
    Code {
        /// Which.
        at: usize,
        /// Its code.
        code: u16,
    },
    /// A jump past the end.
    #[error("instruction {at} jumps past the end")]
    Jump {
        /// Which.
        at: usize,
    },
    /// A load of something that is not a word of the data.
    #[error("instruction {at} loads from offset {offset}: expected a multiple of 4 below {DATA_SIZE}")]
    Offset {
        /// Which.
        at: usize,
        /// The offset.
        offset: u32,
    },
    /// A cell that does not exist, or that nothing was stored in on some way there.
    #[error("instruction {at} uses cell {cell} of the scratch memory, which does not exist or was not stored before")]
    Cell {
        /// Which.
        at: usize,
        /// The cell.
        cell: u32,
    },
    /// A division by a constant zero, or a shift by 32 or more.
    #[error("instruction {at} divides by zero or shifts by more than 31")]
    Operand {
        /// Which.
        at: usize,
    },
    /// The last instruction is no return.
    #[error("the last instruction is no return")]
    NoReturn,
}

/// Checks a program as the kernel does.
///
/// # Errors
/// The first [`Flaw`].
pub fn check(program: &[Instruction]) -> Result<(), Flaw> {
    if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
        return Err(Flaw::Length(program.len()));
    }
    // Cells that are certainly stored when an instruction is reached; all of them, until a way there is known.
    let mut stored = vec![u16::MAX; program.len()];
    stored[0] = 0;
    for (at, instruction) in program.iter().enumerate() {
        single(at, instruction)?;
        let mut now = stored[at];
        let bit = 1_u16.checked_shl(instruction.k).unwrap_or(0);
        match instruction.code {
            STORE | STORE_X => now |= bit,
            LOAD_CELL | LOAD_X_CELL if now & bit == 0 => return Err(Flaw::Cell { at, cell: instruction.k }),
            _ => {}
        }
        for skip in skips(instruction) {
            let next = at.checked_add(1 + skip).filter(|next| *next < program.len());
            let next = next.ok_or(if is_jump(instruction) { Flaw::Jump { at } } else { Flaw::NoReturn })?;
            stored[next] &= now;
        }
    }
    match program.last() {
        Some(Instruction { code: RETURN | RETURN_A, .. }) => Ok(()),
        _ => Err(Flaw::NoReturn),
    }
}

fn is_jump(instruction: &Instruction) -> bool {
    instruction.code == JUMP || Test::of(instruction.code).is_some()
}

/// How many instructions are skipped on each way on.
pub(super) fn skips(instruction: &Instruction) -> Vec<usize> {
    match instruction.code {
        RETURN | RETURN_A => vec![],
        JUMP => vec![instruction.k as usize],
        code if Test::of(code).is_some() => vec![instruction.yes.into(), instruction.no.into()],
        _ => vec![0],
    }
}

/// What can be said of an instruction by itself.
fn single(at: usize, Instruction { code, k, .. }: &Instruction) -> Result<(), Flaw> {
    match *code {
        LOAD if !k.is_multiple_of(4) || *k >= DATA_SIZE => Err(Flaw::Offset { at, offset: *k }),
        STORE | STORE_X | LOAD_CELL | LOAD_X_CELL if *k >= CELLS => Err(Flaw::Cell { at, cell: *k }),
        LOAD | LOAD_LEN | LOAD_X_LEN | LOAD_K | LOAD_X_K | LOAD_CELL | LOAD_X_CELL | STORE | STORE_X => Ok(()),
        TAX | TXA | RETURN | RETURN_A | JUMP => Ok(()),
        code if Test::of(code).is_some() => Ok(()),
        code if code & CLASS == ALU && code & !(CLASS | OPERATION | X) == 0 => arithmetic(at, code, *k),
        code => Err(Flaw::Code { at, code }),
    }
}

fn arithmetic(at: usize, code: u16, k: u32) -> Result<(), Flaw> {
    let by_constant = code & X == 0;
    match code & OPERATION {
        alu::DIV if by_constant && k == 0 => Err(Flaw::Operand { at }),
        alu::LSH | alu::RSH if by_constant && k >= 32 => Err(Flaw::Operand { at }),
        alu::NEG if !by_constant => Err(Flaw::Code { at, code }),
        alu::ADD | alu::SUB | alu::MUL | alu::DIV | alu::OR | alu::AND | alu::LSH | alu::RSH | alu::XOR | alu::NEG => {
            Ok(())
        }
        _ => Err(Flaw::Code { at, code }),
    }
}
