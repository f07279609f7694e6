//! The assembler, the check, the simulator and the listing, by hand-made programs. Whole policies are compared with other
//! implementations in `tests/seccomp_oracle`.

use super::opcode::*;
use super::*;
use crate::jail::call::{Action, Call};

fn answer(program: &[Instruction], number: u32) -> Action {
    check(program).unwrap();
    simulate(program, &Call::new(number, [0; 6])).unwrap().0
}

/// Asks whether the number is 7, with `yes` and `no` instructions between the question and the answers.
fn far(first: usize, second: usize) -> Assembler {
    let mut program = Assembler::new();
    let (yes, no) = (program.label(), program.label());
    program.load(0);
    program.branch(Test::Equal, 7, Target::To(yes), Target::To(no));
    (0..first).for_each(|_| program.load(4));
    program.place(yes);
    program.answer(Action::Allow);
    (0..second).for_each(|_| program.load(4));
    program.place(no);
    program.answer(Action::Errno(1));
    program
}

#[test]
fn jumps_of_every_length_arrive() {
    for first in [0, 1, 253, 254, 255, 256, 257, 600] {
        for second in [0, 1, 252, 253, 254, 255, 256, 257, 600] {
            let program = far(first, second).assemble().unwrap();
            assert_eq!((answer(&program, 7), answer(&program, 8)), (Action::Allow, Action::Errno(1)));
            let long = usize::from(first > 255) + usize::from(first + second + 1 > 255);
            // A jump may become long because of the other one's second instruction.
            assert!((0..=1).contains(&(program.len() - first - second - 4 - long)), "{first} {second}");
        }
    }
}

#[test]
fn a_branch_may_go_on_with_the_next_instruction() {
    for (yes_on, distance) in [(true, 10), (true, 300), (false, 10), (false, 300)] {
        let mut program = Assembler::new();
        let label = program.label();
        program.load(0);
        let (yes, no) = if yes_on { (Target::Next, Target::To(label)) } else { (Target::To(label), Target::Next) };
        program.branch(Test::Equal, 7, yes, no);
        (0..distance).for_each(|_| program.load(4));
        program.answer(Action::Errno(2));
        program.place(label);
        program.answer(Action::Allow);
        let program = program.assemble().unwrap();
        let on = [Action::Errno(2), Action::Allow];
        assert_eq!((answer(&program, 7), answer(&program, 8)), (on[usize::from(!yes_on)], on[usize::from(yes_on)]));
    }
}

#[test]
fn what_cannot_be_assembled() {
    assert_eq!(far(2000, 2093).assemble(), Err(AssembleError::TooLong(4099)));
    let mut program = Assembler::new();
    let label = program.label();
    program.jump(label);
    assert_eq!(program.assemble(), Err(AssembleError::Target));
    let mut program = Assembler::new();
    let label = program.label();
    program.place(label);
    program.load(0);
    program.jump(label);
    assert_eq!(program.assemble(), Err(AssembleError::Target));
}

#[test]
fn the_check_finds_every_flaw() {
    let end = plain(RETURN, 0);
    let jump = |code, yes, no| Instruction { code, yes, no, k: 0 };
    let jeq = JMP | Test::Equal.operation();
    for (program, flaw) in [
        (vec![], Flaw::Length(0)),
        (vec![end; 4097], Flaw::Length(4097)),
        (vec![plain(LOAD, 64), end], Flaw::Offset { at: 0, offset: 64 }),
        (vec![plain(LOAD, 2), end], Flaw::Offset { at: 0, offset: 2 }),
        // Loads of a byte or a half word, indirect ones, and BPF_MOD are not for seccomp.
        (vec![plain(0x30, 0), end], Flaw::Code { at: 0, code: 0x30 }),
        (vec![plain(0x28, 0), end], Flaw::Code { at: 0, code: 0x28 }),
        (vec![plain(0x40, 0), end], Flaw::Code { at: 0, code: 0x40 }),
        (vec![plain(0x94, 1), end], Flaw::Code { at: 0, code: 0x94 }),
        (vec![plain(0xffff, 1), end], Flaw::Code { at: 0, code: 0xffff }),
        (vec![end, plain(JUMP, 0), end, plain(JUMP, 0)], Flaw::Jump { at: 3 }),
        (vec![plain(JUMP, u32::MAX), end], Flaw::Jump { at: 0 }),
        (vec![jump(jeq, 1, 0), end], Flaw::Jump { at: 0 }),
        (vec![jump(jeq, 0, 1), end], Flaw::Jump { at: 0 }),
        (vec![plain(LOAD_CELL, 3), end], Flaw::Cell { at: 0, cell: 3 }),
        (vec![plain(STORE, 16), end], Flaw::Cell { at: 0, cell: 16 }),
        (vec![jump(jeq, 0, 1), plain(STORE, 3), plain(LOAD_X_CELL, 3), end], Flaw::Cell { at: 2, cell: 3 }),
        (vec![plain(ALU | alu::DIV, 0), end], Flaw::Operand { at: 0 }),
        (vec![plain(ALU | alu::RSH, 32), end], Flaw::Operand { at: 0 }),
        (vec![plain(LOAD, 0)], Flaw::NoReturn),
        (vec![end, plain(TAX, 0)], Flaw::NoReturn),
    ] {
        assert_eq!(check(&program), Err(flaw), "{:?}", program.first());
    }
    let stored = [jump(jeq, 0, 1), plain(STORE, 3), plain(STORE_X, 3), plain(LOAD_CELL, 3), plain(RETURN_A, 0)];
    assert_eq!(check(&stored), Ok(()));
}

#[test]
fn all_that_seccomp_takes_is_simulated() {
    let value = |steps: &[(u16, u32)]| {
        let mut program: Vec<Instruction> = steps.iter().map(|(code, k)| plain(*code, *k)).collect();
        program.push(plain(RETURN_A, 0));
        check(&program).unwrap();
        simulate(&program, &Call::new(7, [1 << 32 | 5, 0, 0, 0, 0, 9])).unwrap().0.value()
    };
    // The low half of an errno's answer is what was computed.
    let errno = |steps: &[(u16, u32)]| value(&[steps, &[(ALU | alu::OR, 0x0005_0000)]].concat()) - 0x0005_0000;
    assert_eq!(errno(&[(LOAD, 0)]), 7);
    assert_eq!((errno(&[(LOAD, 16)]), errno(&[(LOAD, 20)]), errno(&[(LOAD, 56)])), (5, 1, 9));
    assert_eq!((errno(&[(LOAD_LEN, 0)]), errno(&[(LOAD_X_LEN, 0), (TXA, 0)])), (64, 64));
    assert_eq!(errno(&[(LOAD_K, 6), (TAX, 0), (LOAD_K, 1), (STORE, 2), (STORE_X, 3), (LOAD_CELL, 3)]), 6);
    assert_eq!(errno(&[(LOAD_K, 6), (STORE, 15), (LOAD_X_CELL, 15), (TXA, 0)]), 6);
    for (operation, result) in [
        (alu::ADD, 15),
        (alu::SUB, 9),
        (alu::MUL, 36),
        (alu::DIV, 4),
        (alu::OR, 15),
        (alu::AND, 0),
        (alu::LSH, 96),
        (alu::RSH, 1),
        (alu::XOR, 15),
    ] {
        assert_eq!(errno(&[(LOAD_K, 12), (ALU | operation, 3)]), result, "{operation:#x}");
        assert_eq!(errno(&[(LOAD_X_K, 3), (LOAD_K, 12), (ALU | X | operation, 0)]), result, "{operation:#x} with x");
    }
    assert_eq!(errno(&[(LOAD_K, u32::MAX), (ALU | alu::NEG, 0)]), 1);
    assert_eq!(value(&[(LOAD_X_K, 0), (ALU | X | alu::DIV, 0)]), Action::KillThread.value());
}

#[test]
fn bytes_and_back() {
    let program = far(1, 300).assemble().unwrap();
    assert_eq!(from_bytes(to_bytes(&program)), Ok(program.clone()));
    assert_eq!(from_bytes(&to_bytes(&program)[1..]), Err(RawError::Size(program.len() * 8 - 1)));
    assert_eq!(from_bytes(&[]), Err(RawError::Flaw(Flaw::Length(0))));
    assert_eq!(from_bytes(&to_bytes(&program)[8..16]), Err(RawError::Flaw(Flaw::Jump { at: 0 })));
}

#[test]
fn the_listing_says_what_is_known() {
    let text = listing(&far(0, 0).assemble().unwrap());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "0000: ld [0]                           ; number");
    assert_eq!(lines[1], "0001: jeq #0x7, 0002, 0003             ; poll");
    assert_eq!(lines[2], "0002: ret #0x7fff0000                  ; allow");
    assert_eq!(lines[3], "0003: ret #0x00050001                  ; return EPERM (Operation not permitted)");
    // Behind a join of two loads it is not known what a number means.
    let jeq = |k| Instruction { code: JMP | Test::Equal.operation(), yes: 0, no: 1, k };
    let joined = [plain(LOAD, 0), jeq(1), plain(LOAD, 16), jeq(1), plain(RETURN, 0), plain(RETURN, 0)];
    assert!(listing(&joined).lines().nth(3).unwrap().ends_with("0005"));
}
