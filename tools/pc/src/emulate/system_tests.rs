//! Instructions of kernels, with what they may not do.

use super::super::cpu::{Cpu, cr0, cr4, flag};
use super::super::fault::{Why, vector};
use super::super::testing::*;

/// The vector of the exception that an instruction gives; its handlers lie at 0x7000 and on.
fn exception(code: &[u8], change: impl FnOnce(&mut Bench, &mut Cpu)) -> u64 {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    for number in 0..32 {
        bench.gate(&cpu, number, CODE64, 0x7000 + u64::from(number), 0, 14);
    }
    change(&mut bench, &mut cpu);
    bench.does(&mut cpu, code);
    cpu.regs.rip - 0x7000
}

fn user(_: &mut Bench, cpu: &mut Cpu) {
    *cpu = as_user(*cpu);
}

#[test]
fn access_to_user_pages_is_opened_and_closed() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.does(&mut cpu, &[0x0f, 0x01, 0xcb]); // stac
    assert!(cpu.has(flag::AC));
    bench.does(&mut cpu, &[0x0f, 0x01, 0xca]); // clac
    assert!(!cpu.has(flag::AC));
    assert_eq!(exception(&[0x0f, 0x01, 0xcb], user), 6);
}

#[test]
fn a_shadow_stack_that_is_off_has_no_pointer() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rsi = 1;
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0x1e, 0xce]); // rdsspq rsi
    bench.does(&mut cpu, &[0xf3, 0x0f, 0x1e, 0xce]); // rdsspd esi
    assert_eq!((cpu.regs.rsi, cpu.regs.rip), (1, CODE + 9));
    cpu.sregs.cr4 |= cr4::CET;
    let why = bench.step(&mut cpu, &[0xf3, 0x48, 0x0f, 0x1e, 0xce]).unwrap_err().why;
    assert_eq!(why, Why::Form("with control-flow enforcement"));
}

#[test]
fn wait_looks_at_the_task_switch_and_at_pending_errors() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.does(&mut cpu, &[0x9b]);
    assert_eq!(cpu.regs.rip, CODE + 1);
    let switched = |_: &mut Bench, cpu: &mut Cpu| cpu.sregs.cr0 |= cr0::MP | cr0::TS;
    assert_eq!(exception(&[0x9b], switched), u64::from(vector::NO_DEVICE));
    assert_eq!(exception(&[0x9b], |bench, _| bench.fpu.fsw = 0x80), u64::from(vector::X87));
}

#[test]
fn extended_control_registers_are_read() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.sregs.cr4 |= cr4::OSXSAVE;
    bench.xcr0 = 0x1_0000_0007;
    (cpu.regs.rax, cpu.regs.rcx) = (u64::MAX, 0);
    bench.does(&mut cpu, &[0x0f, 0x01, 0xd0]); // xgetbv
    assert_eq!((cpu.regs.rax, cpu.regs.rdx), (7, 1));
    assert_eq!(exception(&[0x0f, 0x01, 0xd0], |_, _| {}), 6);
    let other = |_: &mut Bench, cpu: &mut Cpu| (cpu.sregs.cr4, cpu.regs.rcx) = (cpu.sregs.cr4 | cr4::OSXSAVE, 2);
    assert_eq!(exception(&[0x0f, 0x01, 0xd0], other), 13);
}

#[test]
fn invpcid_flushes() {
    const CODE: &[u8] = &[0x66, 0x0f, 0x38, 0x82, 0x03]; // invpcid rax, [rbx]
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    (cpu.regs.rax, cpu.regs.rbx) = (2, 0x5000);
    bench.does(&mut cpu, CODE);
    assert_eq!(bench.flushes, 1);
    assert_eq!(exception(CODE, |_, cpu| (cpu.regs.rax, cpu.regs.rbx) = (4, 0x5000)), 13);
    assert_eq!(
        exception(CODE, |bench, cpu| {
            cpu.regs.rbx = 0x5000;
            bench.put64(0x5000, 1 << 12);
        }),
        13
    );
    assert_eq!(exception(CODE, user), 13);
}

#[test]
fn random_numbers_have_the_width_of_their_register() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    (cpu.regs.rax, bench.random) = (u64::MAX, 0x1122_3344_5566_7788);
    bench.does(&mut cpu, &[0x66, 0x0f, 0xc7, 0xf0]); // rdrand ax
    assert_eq!((cpu.regs.rax, cpu.has(flag::CF)), (0xffff_ffff_ffff_7788, true));
    bench.does(&mut cpu, &[0x48, 0x0f, 0xc7, 0xf8]); // rdseed rax
    assert_eq!(cpu.regs.rax, 0x1122_3344_5566_7788);
}

#[test]
fn segment_bases_are_read_and_written_where_that_is_on() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.sregs.cr4 |= cr4::FSGSBASE;
    (cpu.sregs.gs.base, cpu.regs.rbx) = (0xffff_8000_1234_5678, 0x7fff_0000_0000);
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xc8]); // rdgsbase rax
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xae, 0xd3]); // wrfsbase rbx
    assert_eq!((cpu.regs.rax, cpu.sregs.fs.base), (0xffff_8000_1234_5678, 0x7fff_0000_0000));
    assert_eq!(exception(&[0xf3, 0x48, 0x0f, 0xae, 0xc8], |_, _| {}), 6);
    let crooked =
        |_: &mut Bench, cpu: &mut Cpu| (cpu.sregs.cr4, cpu.regs.rbx) = (cpu.sregs.cr4 | cr4::FSGSBASE, 1 << 50);
    assert_eq!(exception(&[0xf3, 0x48, 0x0f, 0xae, 0xd3], crooked), 13);
}

#[test]
fn segments_are_looked_at() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    let mut look = |code: &[u8], selector: u16, user: bool| {
        cpu.regs.rip = CODE;
        (cpu.regs.rbx, cpu.regs.rax) = (selector.into(), 0x55);
        let mut now = if user { as_user(cpu) } else { cpu };
        bench.does(&mut now, code);
        now.has(flag::ZF).then_some(now.regs.rax)
    };
    const VERR: &[u8] = &[0x0f, 0x00, 0xe3]; // verr bx
    const VERW: &[u8] = &[0x0f, 0x00, 0xeb]; // verw bx
    const LAR: &[u8] = &[0x0f, 0x02, 0xc3]; // lar eax, bx
    const LSL: &[u8] = &[0x0f, 0x03, 0xc3]; // lsl eax, bx
    assert!(look(VERW, DATA, false).is_some());
    assert!(look(VERW, CODE64, false).is_none());
    assert!(look(VERR, CODE64, false).is_some());
    assert!(look(VERR, 0, false).is_none());
    assert!(look(VERW, DATA, true).is_none(), "a user does not see the kernel's");
    assert!(look(VERW, USER_DATA, true).is_some());
    assert_eq!(look(LAR, DATA, false), Some(0x00cf_9300 & 0x00f0_ff00));
    assert_eq!(look(LSL, DATA, false), Some(0xffff_ffff));
    assert_eq!(look(LSL, 0x200, false), None);
    assert_eq!(exception(&[0x0f, 0x0b], |_, _| {}), 6);
}

#[test]
fn hints_do_nothing() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rbx = 0x5000;
    for code in
        [&[0x66, 0x0f, 0xae, 0x3b][..], &[0x66, 0x0f, 0xae, 0x33], &[0xf3, 0x0f, 0x1e, 0xfa], &[0x0f, 0x01, 0xe8]]
    {
        cpu.regs.rip = CODE;
        bench.does(&mut cpu, code);
        assert_eq!(cpu.regs.rip, CODE + code.len() as u64);
    }
    assert_eq!(
        exception(&[0x66, 0x0f, 0xae, 0x3b], |_, cpu| cpu.regs.rbx = 1 << 30),
        14,
        "clflushopt where nothing is"
    );
}
