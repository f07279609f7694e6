//! Back from handlers, into each mode and privilege.

use super::super::cpu::{Cpu, flag};
use super::super::fault::{Why, vector};
use super::super::testing::*;

const BACK: u64 = 0x6000;
const USER_STACK: u64 = 0xb000;

fn frame(bench: &mut Bench, cpu: &Cpu, width: u64, values: &[u64]) {
    for (at, value) in (0..).zip(values) {
        bench.put(cpu.regs.rsp + at * width, &value.to_le_bytes()[..width as usize]);
    }
}

#[test]
fn real_mode() {
    let mut bench = Bench::new();
    let mut cpu = real();
    frame(&mut bench, &cpu, 2, &[BACK, 0x20, flag::CF | flag::TF]);
    bench.does(&mut cpu, &[0xcf]);
    assert_eq!((cpu.regs.rip, cpu.sregs.cs.base, cpu.regs.rsp), (BACK, 0x200, STACK + 6));
    assert_eq!(cpu.regs.rflags, flag::CF | flag::TF | flag::ONE);
}

#[test]
fn protected_mode_to_the_same_privilege() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    frame(&mut bench, &cpu, 4, &[BACK, CODE32.into(), flag::CF | flag::IOPL]);
    bench.does(&mut cpu, &[0xcf]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp, cpu.cpl()), (BACK, STACK + 12, 0));
    assert_eq!(cpu.regs.rflags, flag::CF | flag::IOPL | flag::ONE);
}

#[test]
fn protected_mode_to_a_user() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    let values = [BACK, USER_CODE32.into(), flag::IF, USER_STACK, USER_DATA.into()];
    frame(&mut bench, &cpu, 4, &values);
    bench.does(&mut cpu, &[0xcf]);
    assert_eq!((cpu.regs.rip, cpu.regs.rsp, cpu.cpl()), (BACK, USER_STACK, 3));
    assert_eq!((cpu.sregs.cs.selector, cpu.sregs.ss.selector), (USER_CODE32, USER_DATA));
    assert_eq!((cpu.sregs.ds.unusable, cpu.sregs.gs.unusable), (1, 1), "the kernel's segments are gone");

    // And back again by the gate.
    bench.gate(&cpu, 0x80, CODE32, 0x7000, 3, 14);
    cpu.regs.rip = BACK;
    bench.does(&mut cpu, &[0xcd, 0x80]);
    assert_eq!((cpu.cpl(), cpu.regs.rsp), (0, INNER_STACK - 20));
    let user = cpu.regs.rsp;
    bench.does(&mut cpu, &[0xcf]);
    assert_eq!((cpu.cpl(), cpu.regs.rip, cpu.regs.rsp), (3, BACK + 2, USER_STACK));
    assert_eq!(user, INNER_STACK - 20);
}

#[test]
fn a_user_cannot_change_what_is_the_kernels() {
    let mut bench = Bench::new();
    let kernel = protected(&mut bench);
    let mut cpu = as_user(kernel);
    frame(&mut bench, &cpu, 4, &[BACK, USER_CODE32.into(), flag::IOPL | flag::CF]);
    bench.does(&mut cpu, &[0xcf]);
    assert_eq!(cpu.regs.rflags, flag::CF | flag::IF | flag::ONE);
}

#[test]
fn long_mode_to_the_kernel_and_to_users_of_both_kinds() {
    for (cs, ss, cpl, wide) in [
        (CODE64, 0, 0, true),
        (CODE64, DATA, 0, true),
        (USER_CODE64, USER_DATA, 3, true),
        (USER_CODE32, USER_DATA, 3, false),
    ] {
        let mut bench = Bench::new();
        let mut cpu = long(&mut bench);
        let rsp = if wide { USER_STACK } else { 0xdead_0000_0000 | USER_STACK };
        frame(&mut bench, &cpu, 8, &[BACK, cs.into(), flag::IF | flag::AC, rsp, ss.into()]);
        bench.does(&mut cpu, &[0x48, 0xcf]);
        assert_eq!((cpu.regs.rip, cpu.regs.rsp, cpu.cpl()), (BACK, USER_STACK, cpl));
        assert_eq!((cpu.sregs.cs.selector, cpu.sregs.ss.selector, cpu.sregs.cs.l), (cs, ss, u8::from(wide)));
        assert_eq!(cpu.regs.rflags, flag::IF | flag::AC | flag::ONE);
    }
}

#[test]
fn the_accessed_bit_of_the_code_is_set() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.put(GDT + u64::from(CODE64) + 5, &[0x9a]);
    frame(&mut bench, &cpu, 8, &[BACK, CODE64.into(), 2, STACK, 0]);
    bench.does(&mut cpu, &[0x48, 0xcf]);
    assert_eq!(bench.get(GDT + u64::from(CODE64) + 5, 1), 0x9b);
}

/// The vector and error code of an IRETQ with this frame.
fn refused(values: [u64; 5], change: impl FnOnce(&mut Bench, &mut Cpu)) -> (u64, u64) {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    for number in [vector::NOT_PRESENT, vector::STACK, vector::PROTECTION] {
        bench.gate(&cpu, number, CODE64, 0x7000 + u64::from(number), 0, 14);
    }
    change(&mut bench, &mut cpu);
    frame(&mut bench, &cpu, 8, &values);
    let code = [0x48, 0xcf];
    bench.does(&mut cpu, &code);
    assert_eq!(bench.get(cpu.regs.rsp + 8, 8), CODE);
    (cpu.regs.rip - 0x7000, bench.get(cpu.regs.rsp, 8))
}

#[test]
fn wrong_frames_are_faults() {
    let good = [BACK, OTHER_CODE64.into(), 2, STACK, 0];
    let protection = u64::from(vector::PROTECTION);
    let with = |at: usize, value: u64| {
        let mut values = good;
        values[at] = value;
        values
    };
    assert_eq!(refused(with(1, 0), |_, _| {}), (protection, 0));
    assert_eq!(refused(with(1, 0x100), |_, _| {}), (protection, 0x100));
    assert_eq!(refused(with(1, DATA.into()), |_, _| {}), (protection, DATA.into()));
    assert_eq!(refused(with(0, 1 << 47), |_, _| {}), (protection, 0), "not canonical");
    assert_eq!(refused(with(4, USER_DATA.into()), |_, _| {}), (protection, u64::from(USER_DATA & !3)));
    let absent = refused(good, |bench, _| bench.put(GDT + u64::from(OTHER_CODE64) + 5, &[0x1b]));
    assert_eq!(absent, (vector::NOT_PRESENT.into(), OTHER_CODE64.into()));
    let no_stack = refused([BACK, USER_CODE64.into(), 2, STACK, USER_DATA.into()], |bench, _| {
        bench.put(GDT + u64::from(USER_DATA & !7) + 5, &[0x73]);
    });
    assert_eq!(no_stack, (vector::STACK.into(), u64::from(USER_DATA & !3)));
    assert_eq!(refused(good, |_, cpu| cpu.set_flag(flag::NT, true)), (protection, 0));
}

#[test]
fn what_is_not_done_here_is_said() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    frame(&mut bench, &cpu, 4, &[BACK, CODE32.into(), flag::VM, 0, 0]);
    assert_eq!(bench.step(&mut cpu, &[0xcf]).unwrap_err().why, Why::Form("to virtual 8086 mode"));
    cpu.set_flag(flag::NT, true);
    assert_eq!(bench.step(&mut cpu, &[0xcf]).unwrap_err().why, Why::Form("to another task"));
}
