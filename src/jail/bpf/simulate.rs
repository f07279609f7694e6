//! What a program answers to a call, computed as the kernel would.

use super::Instruction;
use super::check::CELLS;
use super::opcode::{
    ALU, CLASS, JUMP, LOAD, LOAD_CELL, LOAD_K, LOAD_LEN, LOAD_X_CELL, LOAD_X_K, LOAD_X_LEN, OPERATION, RETURN,
    RETURN_A, STORE, STORE_X, TAX, TXA, Test, X, alu,
};
use crate::jail::call::{Action, Call, DATA_SIZE};

/// Where a program that [`check`](super::check()) refuses cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program cannot go on at instruction {0}")]
pub struct Stuck(pub usize);

/// Runs the program for a call. Gives the answer and how many instructions it took.
///
/// # Errors
/// [`Stuck`], for no program that passes the check.
pub fn simulate(program: &[Instruction], call: &Call) -> Result<(Action, usize), Stuck> {
    let (mut a, mut x, mut cells) = (0_u32, 0_u32, [0_u32; CELLS as usize]);
    let (mut at, mut steps) = (0, 0);
    // Jumps only go forward, so no program runs for more steps than it has instructions.
    while let Some(Instruction { code, yes, no, k }) = program.get(at) {
        steps += 1;
        let operand = if code & X == 0 { *k } else { x };
        let mut skip = 0;
        match *code {
            RETURN => return Ok((Action::of(*k), steps)),
            RETURN_A => return Ok((Action::of(a), steps)),
            LOAD => a = call.word(*k).ok_or(Stuck(at))?,
            LOAD_LEN => a = DATA_SIZE,
            LOAD_X_LEN => x = DATA_SIZE,
            LOAD_K => a = *k,
            LOAD_X_K => x = *k,
            LOAD_CELL => a = *cells.get(*k as usize).ok_or(Stuck(at))?,
            LOAD_X_CELL => x = *cells.get(*k as usize).ok_or(Stuck(at))?,
            STORE => *cells.get_mut(*k as usize).ok_or(Stuck(at))? = a,
            STORE_X => *cells.get_mut(*k as usize).ok_or(Stuck(at))? = x,
            TAX => x = a,
            TXA => a = x,
            JUMP => skip = *k as usize,
            code => match Test::of(code) {
                Some(test) => skip = usize::from(if test.holds(a, operand) { *yes } else { *no }),
                // A division by zero that the check could not foresee ends a program with 0 (bpf_convert_filter).
                None if code == ALU | X | alu::DIV && x == 0 => return Ok((Action::of(0), steps)),
                None => a = arithmetic(code, a, operand).ok_or(Stuck(at))?,
            },
        }
        at = at.saturating_add(1 + skip);
    }
    Err(Stuck(at))
}

fn arithmetic(code: u16, a: u32, operand: u32) -> Option<u32> {
    if code & CLASS != ALU {
        return None;
    }
    Some(match code & OPERATION {
        alu::ADD => a.wrapping_add(operand),
        alu::SUB => a.wrapping_sub(operand),
        alu::MUL => a.wrapping_mul(operand),
        alu::DIV => a.checked_div(operand)?,
        alu::OR => a | operand,
        alu::AND => a & operand,
        // The shifts of the machine that the program is translated for look at five bits.
        alu::LSH => a.wrapping_shl(operand),
        alu::RSH => a.wrapping_shr(operand),
        alu::NEG => a.wrapping_neg(),
        alu::XOR => a ^ operand,
        _ => return None,
    })
}
