//! The instruction codes of classic BPF (`linux/bpf_common.h`), as far as seccomp takes them.

use super::Instruction;

/// Loads the word at offset `k` of the data into A (`BPF_LD | BPF_W | BPF_ABS`).
pub const LOAD: u16 = 0x20;
/// Loads the size of the data into A (`BPF_LD | BPF_W | BPF_LEN`).
pub const LOAD_LEN: u16 = 0x80;
/// Loads the size of the data into X (`BPF_LDX | BPF_W | BPF_LEN`).
pub const LOAD_X_LEN: u16 = 0x81;
/// Loads `k` into A (`BPF_LD | BPF_IMM`).
pub const LOAD_K: u16 = 0x00;
/// Loads `k` into X (`BPF_LDX | BPF_IMM`).
pub const LOAD_X_K: u16 = 0x01;
/// Loads cell `k` of the scratch memory into A (`BPF_LD | BPF_MEM`).
pub const LOAD_CELL: u16 = 0x60;
/// Loads cell `k` into X (`BPF_LDX | BPF_MEM`).
pub const LOAD_X_CELL: u16 = 0x61;
/// Stores A in cell `k` (`BPF_ST`).
pub const STORE: u16 = 0x02;
/// Stores X in cell `k` (`BPF_STX`).
pub const STORE_X: u16 = 0x03;
/// Copies A to X (`BPF_MISC | BPF_TAX`).
pub const TAX: u16 = 0x07;
/// Copies X to A (`BPF_MISC | BPF_TXA`).
pub const TXA: u16 = 0x87;
/// Returns `k` (`BPF_RET | BPF_K`).
pub const RETURN: u16 = 0x06;
/// Returns A (`BPF_RET | BPF_A`).
pub const RETURN_A: u16 = 0x16;
/// Skips `k` instructions (`BPF_JMP | BPF_JA`).
pub const JUMP: u16 = 0x05;

/// The class of an instruction: the lowest three bits.
pub const CLASS: u16 = 0x07;
/// Class of arithmetic.
pub const ALU: u16 = 0x04;
/// Class of jumps.
pub const JMP: u16 = 0x05;
/// The operand is X instead of `k`.
pub const X: u16 = 0x08;
/// The operation within a class.
pub const OPERATION: u16 = 0xf0;

/// Operations of the arithmetic class (`BPF_ADD` and so on).
pub mod alu {
    /// A + operand
    pub const ADD: u16 = 0x00;
    /// A - operand
    pub const SUB: u16 = 0x10;
    /// A * operand
    pub const MUL: u16 = 0x20;
    /// A / operand
    pub const DIV: u16 = 0x30;
    /// A | operand
    pub const OR: u16 = 0x40;
    /// A & operand
    pub const AND: u16 = 0x50;
    /// A << operand
    pub const LSH: u16 = 0x60;
    /// A >> operand
    pub const RSH: u16 = 0x70;
    /// -A
    pub const NEG: u16 = 0x80;
    /// A ^ operand
    pub const XOR: u16 = 0xa0;
}

/// What a conditional jump asks about A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A == k (`BPF_JEQ`)
    Equal,
    /// A > k (`BPF_JGT`)
    Greater,
    /// A >= k (`BPF_JGE`)
    GreaterOrEqual,
    /// A & k (`BPF_JSET`)
    AnyBit,
}

impl Test {
    /// The operation within the class of jumps.
    pub fn operation(self) -> u16 {
        match self {
            Test::Equal => 0x10,
            Test::Greater => 0x20,
            Test::GreaterOrEqual => 0x30,
            Test::AnyBit => 0x40,
        }
    }

    /// The test of a jump's code, unless that is unconditional or no jump.
    pub fn of(code: u16) -> Option<Test> {
        let all = [Test::Equal, Test::Greater, Test::GreaterOrEqual, Test::AnyBit];
        all.into_iter().find(|test| code & !X == JMP | test.operation())
    }

    /// Whether it holds.
    pub fn holds(self, a: u32, operand: u32) -> bool {
        match self {
            Test::Equal => a == operand,
            Test::Greater => a > operand,
            Test::GreaterOrEqual => a >= operand,
            Test::AnyBit => a & operand != 0,
        }
    }
}

/// An instruction without jumps.
pub fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, k }
}
