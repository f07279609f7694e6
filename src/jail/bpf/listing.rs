//! A program as text, one instruction a line, in the notation of `bpf_asm` with what is known beside it.

use std::fmt::Write as _;

use super::Instruction;
use super::check::skips;
use super::opcode::{
    ALU, CLASS, JUMP, LOAD, LOAD_CELL, LOAD_K, LOAD_LEN, LOAD_X_CELL, LOAD_X_K, LOAD_X_LEN, OPERATION, RETURN,
    RETURN_A, STORE, STORE_X, TAX, TXA, Test, X, alu,
};
use crate::jail::call::{ARCH_X86_64, Action};
use crate::jail::syscalls;

/// Lists a program that [`check`](super::check()) accepts.
pub fn listing(program: &[Instruction]) -> String {
    let loaded = loaded(program);
    let mut text = String::new();
    for (at, instruction) in program.iter().enumerate() {
        let (code, comment) = (mnemonic(at, instruction), comment(instruction, loaded[at]));
        let _ = match comment {
            Some(comment) => writeln!(text, "{at:04}: {code:<32} ; {comment}"),
            None => writeln!(text, "{at:04}: {code}"),
        };
    }
    text
}

/// What A holds before each instruction: the offset that it was loaded from, if that is the same on all ways there.
fn loaded(program: &[Instruction]) -> Vec<Option<u32>> {
    // The outer option: whether any way there is known yet.
    let mut before: Vec<Option<Option<u32>>> = vec![None; program.len()];
    for (at, instruction) in program.iter().enumerate() {
        let held = match instruction.code {
            LOAD => Some(instruction.k),
            code if code == JUMP || Test::of(code).is_some() => before[at].flatten(),
            _ => None,
        };
        for skip in skips(instruction) {
            if let Some(place) = before.get_mut(at + 1 + skip) {
                *place = Some(place.map_or(held, |other| other.filter(|offset| Some(*offset) == held)));
            }
        }
    }
    before.into_iter().map(Option::flatten).collect()
}

fn mnemonic(at: usize, instruction: &Instruction) -> String {
    let Instruction { code, yes, no, k } = *instruction;
    let place = |skip: u64| format!("{:04}", at as u64 + 1 + skip);
    let operand = if code & X == 0 { format!("#{k:#x}") } else { "x".to_owned() };
    match code {
        LOAD => format!("ld [{k}]"),
        LOAD_LEN => "ld len".to_owned(),
        LOAD_X_LEN => "ldx len".to_owned(),
        LOAD_K => format!("ld #{k:#x}"),
        LOAD_X_K => format!("ldx #{k:#x}"),
        LOAD_CELL => format!("ld M[{k}]"),
        LOAD_X_CELL => format!("ldx M[{k}]"),
        STORE => format!("st M[{k}]"),
        STORE_X => format!("stx M[{k}]"),
        TAX => "tax".to_owned(),
        TXA => "txa".to_owned(),
        RETURN => format!("ret #{k:#010x}"),
        RETURN_A => "ret a".to_owned(),
        JUMP => format!("ja {}", place(k.into())),
        code => match Test::of(code) {
            Some(test) => {
                let name = match test {
                    Test::Equal => "jeq",
                    Test::Greater => "jgt",
                    Test::GreaterOrEqual => "jge",
                    Test::AnyBit => "jset",
                };
                format!("{name} {operand}, {}, {}", place(yes.into()), place(no.into()))
            }
            None => arithmetic(code, &operand),
        },
    }
}

fn arithmetic(code: u16, operand: &str) -> String {
    if code & CLASS != ALU {
        return format!(".code {code:#06x} {operand}");
    }
    let name = match code & OPERATION {
        alu::ADD => "add",
        alu::SUB => "sub",
        alu::MUL => "mul",
        alu::DIV => "div",
        alu::OR => "or",
        alu::AND => "and",
        alu::LSH => "lsh",
        alu::RSH => "rsh",
        alu::XOR => "xor",
        _ => return "neg".to_owned(),
    };
    format!("{name} {operand}")
}

fn comment(instruction: &Instruction, loaded: Option<u32>) -> Option<String> {
    match (instruction.code, loaded) {
        (LOAD, _) => Some(field(instruction.k)),
        (RETURN, _) => Some(Action::of(instruction.k).to_string()),
        (code, Some(0)) if Test::of(code).is_some() => syscalls::name(instruction.k).map(str::to_owned),
        (code, Some(4)) if Test::of(code).is_some() && instruction.k == ARCH_X86_64 => Some("x86-64".to_owned()),
        _ => None,
    }
}

/// The field of `struct seccomp_data` at an offset.
fn field(offset: u32) -> String {
    match offset {
        0 => "number".to_owned(),
        4 => "architecture".to_owned(),
        8 => "instruction pointer, low half".to_owned(),
        12 => "instruction pointer, high half".to_owned(),
        _ => format!("arg{}, {} half", (offset - 16) / 8, if offset.is_multiple_of(8) { "low" } else { "high" }),
    }
}
