//! Handlers entered in each mode: what lies on which stack, and what is refused.

use super::super::cpu::{cr4, flag};
use super::super::fault::{Why, vector};
use super::super::testing::*;

const HANDLER: u64 = 0x7000;

#[test]
fn real_mode_pushes_three_words() {
    let mut bench = Bench::new();
    let mut cpu = real();
    (cpu.sregs.cs.selector, cpu.sregs.cs.base) = (0x10, 0x100);
    bench.put(4 * 0x21, &[0x34, 0x12, 0x00, 0x20]);
    bench.does(&mut cpu, &[0xcd, 0x21]);
    assert_eq!((cpu.regs.rip, cpu.sregs.cs.selector, cpu.sregs.cs.base), (0x1234, 0x2000, 0x2_0000));
    assert_eq!(cpu.regs.rsp, STACK - 6);
    assert_eq!((bench.get(STACK - 6, 2), bench.get(STACK - 4, 2)), (CODE + 2, 0x10));
    assert_ne!(bench.get(STACK - 2, 2) & flag::IF, 0);
    assert!(!cpu.has(flag::IF));
}

#[test]
fn int3_and_into_have_their_vectors() {
    let mut bench = Bench::new();
    let mut cpu = real();
    bench.put(4 * 3, &[0x00, 0x30, 0, 0]);
    bench.put(4 * 4, &[0x00, 0x40, 0, 0]);
    bench.does(&mut cpu, &[0xcc]);
    assert_eq!((cpu.regs.rip, bench.get(cpu.regs.rsp, 2)), (0x3000, CODE + 1));
    bench.does(&mut cpu, &[0xce]);
    assert_eq!(cpu.regs.rip, 0x3001, "no overflow");
    cpu.set_flag(flag::OF, true);
    bench.does(&mut cpu, &[0xce]);
    assert_eq!(cpu.regs.rip, 0x4000);
}

#[test]
fn the_stack_of_real_mode_wraps_at_its_end() {
    let mut bench = Bench::new();
    let mut cpu = real();
    bench.put(4 * 3, &[0x00, 0x30, 0, 0]);
    cpu.regs.rsp = 0xabcd_0004;
    bench.does(&mut cpu, &[0xcc]);
    assert_eq!(cpu.regs.rsp, 0xabcd_fffe);
    assert_eq!(bench.get(0xfffe, 2), CODE + 1);
}

#[test]
fn protected_mode_stays_on_the_stack_of_its_privilege() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    bench.gate(&cpu, 0x80, CODE32, HANDLER, 3, 14);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp), (HANDLER, STACK - 12));
    let frame: Vec<u64> = (0..3).map(|at| bench.get(cpu.regs.rsp + 4 * at, 4)).collect();
    assert_eq!(frame, [CODE + 2, CODE32.into(), flag::ONE | flag::IF]);
    assert!(!cpu.has(flag::IF), "an interrupt gate");
    bench.gate(&cpu, 0x80, CODE32, HANDLER, 3, 15);
    cpu.set_flag(flag::IF, true);
    cpu.regs.rip = CODE;
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert!(cpu.has(flag::IF), "a trap gate");
}

#[test]
fn an_inner_privilege_has_its_own_stack() {
    let mut bench = Bench::new();
    let kernel = protected(&mut bench);
    let mut cpu = as_user(kernel);
    bench.gate(&cpu, 0x80, CODE32, HANDLER, 3, 14);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp, cpu.cpl()), (HANDLER, INNER_STACK - 20, 0));
    assert_eq!((cpu.sregs.cs.selector, cpu.sregs.ss.selector), (CODE32, DATA));
    let frame: Vec<u64> = (0..5).map(|at| bench.get(cpu.regs.rsp + 4 * at, 4)).collect();
    assert_eq!(frame, [CODE + 2, USER_CODE32.into(), flag::ONE | flag::IF, STACK, USER_DATA.into()]);
}

#[test]
fn gates_of_sixteen_bits_push_words() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    bench.gate(&cpu, 0x80, CODE32, 0x1_7000, 3, 6);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp, bench.get(STACK - 6, 2)), (0x7000, STACK - 6, CODE + 2));
}

#[test]
fn long_mode_aligns_and_always_pushes_the_stack() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rsp = STACK - 4;
    bench.gate(&cpu, 3, CODE64, 0xf_0000, 0, 14);
    bench.does(&mut cpu, &[0xcc]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp), (0xf_0000, STACK - 16 - 40));
    let frame: Vec<u64> = (0..5).map(|at| bench.get(cpu.regs.rsp + 8 * at, 8)).collect();
    assert_eq!(frame, [CODE + 1, CODE64.into(), flag::ONE | flag::IF, STACK - 4, DATA.into()]);
    assert_eq!(cpu.sregs.ss.selector, DATA, "the same privilege keeps its stack segment");
}

#[test]
fn long_mode_takes_the_stack_of_the_task_for_users_and_of_the_gate_for_anybody() {
    let mut bench = Bench::new();
    let kernel = long(&mut bench);
    let mut cpu = as_user(kernel);
    bench.gate(&cpu, 0x80, CODE64, HANDLER, 3, 14);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!((cpu.regs.rsp, cpu.cpl(), cpu.sregs.ss.selector, cpu.sregs.ss.unusable), (INNER_STACK - 40, 0, 0, 1));
    assert_eq!(bench.get(cpu.regs.rsp + 32, 8), u64::from(USER_DATA));

    let mut cpu = kernel;
    bench.put64(TASK + 0x24 + 8, 0xa000);
    bench.gate(&cpu, 0x80, CODE64, HANDLER, 3, 14);
    bench.put(IDT + 0x80 * 16 + 4, &[2]);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!(cpu.regs.rsp, 0xa000 - 40);
}

/// What an `int 0x80` of a user pushes as the error code of general protection or of what is not present.
fn refused(change: impl FnOnce(&mut Bench, &mut super::super::cpu::Cpu)) -> (u64, u64) {
    let mut bench = Bench::new();
    let kernel = protected(&mut bench);
    let mut cpu = as_user(kernel);
    bench.gate(&cpu, vector::PROTECTION, CODE32, 0x7d00, 0, 14);
    bench.gate(&cpu, vector::NOT_PRESENT, CODE32, 0x7b00, 0, 14);
    bench.gate(&cpu, vector::INVALID_TSS, CODE32, 0x7a00, 0, 14);
    bench.gate(&cpu, 0x80, CODE32, HANDLER, 3, 14);
    change(&mut bench, &mut cpu);
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!(bench.get(cpu.regs.rsp + 4, 4), CODE, "the instruction is begun once more");
    (cpu.regs.rip, bench.get(cpu.regs.rsp, 4))
}

#[test]
fn gates_that_are_wrong_are_faults_with_their_number() {
    let of_gate = 0x80 * 8 + 2;
    let kernel_only = refused(|bench, cpu| bench.gate(cpu, 0x80, CODE32, HANDLER, 0, 14));
    assert_eq!(kernel_only, (0x7d00, of_gate));
    let not_there = refused(|bench, _| bench.put(IDT + 0x80 * 8 + 5, &[0x6e]));
    assert_eq!(not_there, (0x7b00, of_gate));
    let no_gate = refused(|bench, _| bench.put(IDT + 0x80 * 8 + 5, &[0xe2]));
    assert_eq!(no_gate, (0x7d00, of_gate));
    let short_table = refused(|_, cpu| cpu.sregs.idt.limit = 0x80 * 8 + 6);
    assert_eq!(short_table, (0x7d00, of_gate));
    let to_data = refused(|bench, cpu| bench.gate(cpu, 0x80, DATA, HANDLER, 3, 14));
    assert_eq!(to_data, (0x7d00, DATA.into()));
    let to_nothing = refused(|bench, cpu| bench.gate(cpu, 0x80, 0, HANDLER, 3, 14));
    assert_eq!(to_nothing, (0x7d00, 0));
}

#[test]
fn what_is_not_done_here_is_said() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    bench.gate(&cpu, 0x80, CODE32, HANDLER, 3, 5);
    assert_eq!(bench.step(&mut cpu, &[0xcd, 0x80]).unwrap_err().why, Why::Form("through a task gate"));
    cpu.regs.rflags |= flag::VM;
    assert_eq!(bench.step(&mut cpu, &[0xcd, 0x80]).unwrap_err().why, Why::Form("in virtual 8086 mode"));
    let mut cpu = as_user(long(&mut bench));
    cpu.sregs.cr4 |= cr4::CET;
    bench.gate(&cpu, 0x80, CODE64, HANDLER, 3, 14);
    assert!(matches!(bench.step(&mut cpu, &[0xcd, 0x80]).unwrap_err().why, Why::Form(_)));
}
