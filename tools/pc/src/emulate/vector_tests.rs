//! Each kind of work on vectors, and a processor whose vectors are off.

use proptest::prelude::*;

use super::super::cpu::Cpu;
use super::super::testing::*;
use super::*;

fn ready() -> (Bench, Cpu) {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.sregs.cr4 |= cr4::OSFXSR;
    (bench, cpu)
}

/// What `66 0f <opcode> /r` makes of XMM0 and XMM9.
fn made(opcode: &[u8], a: u128, b: u128) -> u128 {
    let (mut bench, mut cpu) = ready();
    bench.fpu.xmm[0] = a.to_le_bytes();
    bench.fpu.xmm[9] = b.to_le_bytes();
    let code = [&[0x66, 0x41, 0x0f], opcode].concat();
    bench.does(&mut cpu, &code);
    assert_eq!(cpu.regs.rip, CODE + code.len() as u64);
    u128::from_le_bytes(bench.fpu.xmm[0])
}

fn by_lanes(width: u32, a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let mask = u128::MAX >> (128 - width);
    (0..128 / width).fold(0, |all, at| {
        let lane = |value: u128| (value >> (at * width) & mask) as u64;
        all | (u128::from(f(lane(a), lane(b))) & mask) << (at * width)
    })
}

proptest! {
    #[test]
    fn logic_and_sums(a: u128, b: u128) {
        prop_assert_eq!(made(&[0xef, 0xc1], a, b), a ^ b); // pxor xmm0, xmm9
        prop_assert_eq!(made(&[0xeb, 0xc1], a, b), a | b);
        prop_assert_eq!(made(&[0xdb, 0xc1], a, b), a & b);
        prop_assert_eq!(made(&[0xdf, 0xc1], a, b), !a & b);
        for (opcode, width) in [(0xfc, 8), (0xfd, 16), (0xfe, 32), (0xd4, 64)] {
            prop_assert_eq!(made(&[opcode, 0xc1], a, b), by_lanes(width, a, b, u64::wrapping_add));
        }
        for (opcode, width) in [(0xf8, 8), (0xf9, 16), (0xfa, 32), (0xfb, 64)] {
            prop_assert_eq!(made(&[opcode, 0xc1], a, b), by_lanes(width, a, b, u64::wrapping_sub));
        }
        let same = a & 0xffff_0000_ffff_0000 | b & 0xffff_0000_ffff;
        for (opcode, width) in [(0x74, 8), (0x75, 16), (0x76, 32)] {
            let wanted = by_lanes(width, same, b, |a, b| if a == b { u64::MAX } else { 0 });
            prop_assert_eq!(made(&[opcode, 0xc1], same, b), wanted);
        }
    }

    #[test]
    fn shifts_by_a_register(a: u128, by in 0..80u64) {
        let shifted = |width: u32, left: bool| by_lanes(width, a, 0, |a, _| match by < width.into() {
            true if left => a << by,
            true => a >> by,
            false => 0,
        });
        for (opcode, width) in [(0xf1, 16), (0xf2, 32), (0xf3, 64)] {
            prop_assert_eq!(made(&[opcode, 0xc1], a, by.into()), shifted(width, true));
        }
        for (opcode, width) in [(0xd1, 16), (0xd2, 32), (0xd3, 64)] {
            prop_assert_eq!(made(&[opcode, 0xc1], a, by.into()), shifted(width, false));
        }
    }
}

#[test]
fn lanes_change_their_places() {
    let (a, b) = (0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100, 0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110);
    assert_eq!(made(&[0x60, 0xc1], a, b), 0x1707_1606_1505_1404_1303_1202_1101_1000); // punpcklbw
    assert_eq!(made(&[0x62, 0xc1], a, b), 0x1716_1514_0706_0504_1312_1110_0302_0100); // punpckldq
    assert_eq!(made(&[0x6d, 0xc1], a, b), 0x1f1e_1d1c_1b1a_1918_0f0e_0d0c_0b0a_0908); // punpckhqdq
    assert_eq!(made(&[0x70, 0xc1, 0x1b], a, b), 0x1312_1110_1716_1514_1b1a_1918_1f1e_1d1c); // pshufd, reversed
    assert_eq!(made(&[0x38, 0x00, 0xc1], a, 0x8001), 0x0000_0000_0000_0000_0000_0000_0000_0001); // pshufb
    assert_eq!(made(&[0xf4, 0xc1], u128::MAX, u128::MAX), 0xffff_fffe_0000_0001_ffff_fffe_0000_0001); // pmuludq
}

#[test]
fn shifts_by_a_number() {
    let (mut bench, mut cpu) = ready();
    bench.fpu.xmm[1] = 0x0102_0304_0506_0708_u128.to_le_bytes();
    bench.does(&mut cpu, &[0x66, 0x0f, 0x73, 0xf9, 0x03]); // pslldq xmm1, 3
    assert_eq!(u128::from_le_bytes(bench.fpu.xmm[1]), 0x0102_0304_0506_0708 << 24);
    bench.does(&mut cpu, &[0x66, 0x0f, 0x73, 0xd9, 0x10]); // psrldq xmm1, 16
    assert_eq!(bench.fpu.xmm[1], [0; 16]);
    bench.fpu.xmm[1] = [0x11; 16];
    bench.does(&mut cpu, &[0x66, 0x0f, 0x72, 0xf1, 0x04]); // pslld xmm1, 4
    assert_eq!(bench.fpu.xmm[1], [0x10, 0x11, 0x11, 0x11].repeat(4)[..]);
}

#[test]
fn moves_know_their_width_and_alignment() {
    let (mut bench, mut cpu) = ready();
    cpu.regs.rbx = 0x5001;
    bench.put(0x5001, &[9; 16]);
    bench.does(&mut cpu, &[0xf3, 0x0f, 0x6f, 0x13]); // movdqu xmm2, [rbx]
    assert_eq!(bench.fpu.xmm[2], [9; 16]);
    cpu.regs.rax = 0x1122_3344_5566_7788;
    bench.does(&mut cpu, &[0x66, 0x0f, 0x6e, 0xd0]); // movd xmm2, eax
    assert_eq!(u128::from_le_bytes(bench.fpu.xmm[2]), 0x5566_7788);
    bench.does(&mut cpu, &[0x66, 0x48, 0x0f, 0x6e, 0xd0]); // movq xmm2, rax
    bench.does(&mut cpu, &[0x66, 0x48, 0x0f, 0x7e, 0xd1]); // movq rcx, xmm2
    assert_eq!(cpu.regs.rcx, 0x1122_3344_5566_7788);
    bench.does(&mut cpu, &[0x0f, 0x11, 0x13]); // movups [rbx], xmm2
    assert_eq!((bench.get(0x5001, 8), bench.get(0x5009, 8)), (0x1122_3344_5566_7788, 0));
    bench.gate(&cpu, 13, CODE64, 0x7000, 0, 14);
    bench.does(&mut cpu, &[0x0f, 0x29, 0x13]); // movaps [rbx], xmm2
    assert_eq!(cpu.regs.rip, 0x7000);
}

#[test]
fn control_words_are_loaded_and_stored() {
    let (mut bench, mut cpu) = ready();
    cpu.regs.rbx = 0x5000;
    bench.put(0x5000, &[0x3f, 0xe3]);
    bench.does(&mut cpu, &[0xd9, 0x2b]); // fldcw [rbx]
    assert_eq!(bench.fpu.fcw, 0x037f);
    bench.fpu.fsw = 0xb881;
    bench.does(&mut cpu, &[0xdb, 0xe2]); // fnclex
    assert_eq!(bench.fpu.fsw, 0x3800);
    bench.put(0x5000, &0x1fa0_u32.to_le_bytes());
    bench.does(&mut cpu, &[0x0f, 0xae, 0x13]); // ldmxcsr [rbx]
    assert_eq!(bench.fpu.mxcsr, 0x1fa0);
    cpu.regs.rbx = 0x5010;
    bench.does(&mut cpu, &[0x0f, 0xae, 0x1b]); // stmxcsr [rbx]
    assert_eq!(bench.get(0x5010, 8), 0x1fa0);
}

#[test]
fn what_is_off_gives_its_exception() {
    let vector_of = |code: &[u8], change: fn(&mut Cpu)| {
        let (mut bench, mut cpu) = ready();
        for number in 0..32 {
            bench.gate(&cpu, number, CODE64, 0x7000 + u64::from(number), 0, 14);
        }
        cpu.regs.rbx = 0x5000;
        bench.put(0x5000, &[0xff; 4]);
        change(&mut cpu);
        bench.does(&mut cpu, code);
        cpu.regs.rip - 0x7000
    };
    const PXOR: &[u8] = &[0x66, 0x0f, 0xef, 0xc1];
    assert_eq!(vector_of(PXOR, |cpu| cpu.sregs.cr4 &= !cr4::OSFXSR), 6);
    assert_eq!(vector_of(PXOR, |cpu| cpu.sregs.cr0 |= cr0::EM), 6);
    assert_eq!(vector_of(PXOR, |cpu| cpu.sregs.cr0 |= cr0::TS), 7);
    assert_eq!(vector_of(&[0xd9, 0x2b], |cpu| cpu.sregs.cr0 |= cr0::EM), 7);
    assert_eq!(vector_of(&[0x0f, 0xae, 0x13], |_| {}), 13, "a bit of MXCSR that is none");
}
