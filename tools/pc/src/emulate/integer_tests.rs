//! Each instruction on each width, against a slow way to the same result.

use proptest::prelude::*;

use super::super::cpu::{Cpu, flag};
use super::super::testing::{Bench, long};
use super::*;

/// Runs code with RBX and RCX set and returns the processor.
fn run(code: &[u8], rbx: u64, rcx: u64) -> Cpu {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    (cpu.regs.rax, cpu.regs.rbx, cpu.regs.rcx) = (0xdead_beef_dead_beef, rbx, rcx);
    cpu.regs.rflags |= flag::ARITHMETIC;
    let start = cpu.regs.rip;
    bench.does(&mut cpu, code);
    assert_eq!(cpu.regs.rip, start + code.len() as u64);
    cpu
}

fn flags(cpu: &Cpu) -> u64 {
    cpu.regs.rflags & flag::ARITHMETIC
}

proptest! {
    #[test]
    fn counts(value: u64) {
        let bits = |value: u64| (0..64).filter(|bit| value >> bit & 1 != 0).count() as u64;
        let cpu = run(&[0xf3, 0x48, 0x0f, 0xb8, 0xc3], value, 0); // popcnt rax, rbx
        prop_assert_eq!((cpu.regs.rax, flags(&cpu)), (bits(value), if value == 0 { flag::ZF } else { 0 }));
        let cpu = run(&[0xf3, 0x0f, 0xb8, 0xc3], value, 0); // popcnt eax, ebx
        prop_assert_eq!(cpu.regs.rax, bits(value & 0xffff_ffff));
        let cpu = run(&[0x66, 0xf3, 0x0f, 0xb8, 0xc3], value, 0); // popcnt ax, bx
        prop_assert_eq!(cpu.regs.rax, 0xdead_beef_dead_0000 | bits(value & 0xffff));

        let cpu = run(&[0xf3, 0x48, 0x0f, 0xbd, 0xc3], value, 0); // lzcnt rax, rbx
        prop_assert_eq!(cpu.regs.rax, (0..64).take_while(|bit| value >> (63 - bit) & 1 == 0).count() as u64);
        let cpu = run(&[0x66, 0xf3, 0x0f, 0xbd, 0xc3], value, 0); // lzcnt ax, bx
        prop_assert_eq!(cpu.regs.rax & 0xffff, (0..16).take_while(|bit| value >> (15 - bit) & 1 == 0).count() as u64);
        let cpu = run(&[0xf3, 0x0f, 0xbc, 0xc3], value, 0); // tzcnt eax, ebx
        prop_assert_eq!(cpu.regs.rax, (0..32).take_while(|bit| value >> bit & 1 == 0).count() as u64);
    }

    #[test]
    fn spreads_and_gathers(source: u64, mask: u64) {
        let deposited = run(&[0xc4, 0xe2, 0xe3, 0xf5, 0xc1], source, mask).regs.rax; // pdep rax, rbx, rcx
        prop_assert_eq!(deposited & !mask, 0);
        let back = run(&[0xc4, 0xe2, 0xe2, 0xf5, 0xc1], deposited, mask).regs.rax; // pext rax, rbx, rcx
        prop_assert_eq!(back, if mask.count_ones() == 64 { source } else { source & ((1 << mask.count_ones()) - 1) });
    }

    #[test]
    fn bits_of_a_word(source: u64, other: u64) {
        prop_assert_eq!(run(&[0xc4, 0xe2, 0xe0, 0xf2, 0xc1], source, other).regs.rax, !source & other); // andn rax, rbx, rcx
        let blsr = run(&[0xc4, 0xe2, 0xf8, 0xf3, 0xcb], source, 0).regs.rax; // blsr rax, rbx
        let blsi = run(&[0xc4, 0xe2, 0xf8, 0xf3, 0xdb], source, 0).regs.rax; // blsi rax, rbx
        prop_assert_eq!((blsr ^ blsi, blsi.count_ones() <= 1), (source, true));
        let blsmsk = run(&[0xc4, 0xe2, 0xf8, 0xf3, 0xd3], source, 0).regs.rax; // blsmsk rax, rbx
        prop_assert_eq!(blsmsk & source, blsi);
        let count = other & 0xff;
        let bzhi = run(&[0xc4, 0xe2, 0xf0, 0xf5, 0xc3], source, other); // bzhi rax, rbx, rcx
        prop_assert_eq!(bzhi.regs.rax, (0..64).filter(|bit| *bit < count).fold(0, |all, bit| all | source & 1 << bit));
        prop_assert_eq!(bzhi.has(flag::CF), count >= 64);
        let bextr = run(&[0xc4, 0xe2, 0xf0, 0xf7, 0xc3], source, other).regs.rax; // bextr rax, rbx, rcx
        let wanted = (0..other >> 8 & 0xff).take(64).filter(|bit| bit + count < 64);
        prop_assert_eq!(bextr, wanted.fold(0, |all, bit| all | (source >> (bit + count) & 1) << bit));
    }

    #[test]
    fn shifts(source: u64, count: u64) {
        let by = (count & 63) as u32;
        prop_assert_eq!(run(&[0xc4, 0xe2, 0xf1, 0xf7, 0xc3], source, count).regs.rax, source << by); // shlx
        prop_assert_eq!(run(&[0xc4, 0xe2, 0xf3, 0xf7, 0xc3], source, count).regs.rax, source >> by); // shrx
        prop_assert_eq!(run(&[0xc4, 0xe2, 0xf2, 0xf7, 0xc3], source, count).regs.rax as i64, source as i64 >> by); // sarx
        prop_assert_eq!(run(&[0xc4, 0xe3, 0xfb, 0xf0, 0xc3, 13], source, 0).regs.rax, source.rotate_right(13)); // rorx
        let narrow = run(&[0xc4, 0xe2, 0x72, 0xf7, 0xc3], source, count).regs.rax; // sarx eax, ebx, ecx
        prop_assert_eq!(narrow, u64::from((source as u32 as i32 >> (count & 31)) as u32));
    }

    #[test]
    fn sums_with_a_carry_of_their_own(a: u64, b: u64, carry: bool) {
        let mut bench = Bench::new();
        let mut cpu = long(&mut bench);
        (cpu.regs.rax, cpu.regs.rbx) = (a, b);
        cpu.set_flag(flag::CF, carry);
        bench.does(&mut cpu, &[0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3]); // adcx rax, rbx
        let sum = u128::from(a) + u128::from(b) + u128::from(carry);
        prop_assert_eq!((cpu.regs.rax, cpu.has(flag::CF), cpu.has(flag::OF)), (sum as u64, sum >> 64 != 0, false));
    }

    #[test]
    fn products(a: u64, b: u64) {
        let mut bench = Bench::new();
        let mut cpu = long(&mut bench);
        (cpu.regs.rdx, cpu.regs.rbx) = (a, b);
        bench.does(&mut cpu, &[0xc4, 0xe2, 0xf3, 0xf6, 0xc3]); // mulx rax, rcx, rbx
        let product = u128::from(a) * u128::from(b);
        prop_assert_eq!((cpu.regs.rcx, cpu.regs.rax), (product as u64, (product >> 64) as u64));
    }
}

#[test]
fn a_checksum_is_the_published_one() {
    // CRC-32C of "123456789" is 0xe3069283 (RFC 3720, B.4 gives the polynomial).
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rax = 0xffff_ffff;
    cpu.regs.rbx = u64::from_le_bytes(*b"12345678");
    bench.does(&mut cpu, &[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc3]); // crc32 rax, rbx
    cpu.regs.rbx = u64::from(b'9');
    bench.does(&mut cpu, &[0xf2, 0x0f, 0x38, 0xf0, 0xc3]); // crc32 eax, bl
    assert_eq!(!cpu.regs.rax as u32, 0xe306_9283);
}

#[test]
fn movbe_turns_bytes() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rbx = 0x5000;
    bench.put(0x5000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    bench.does(&mut cpu, &[0x48, 0x0f, 0x38, 0xf0, 0x03]); // movbe rax, [rbx]
    assert_eq!(cpu.regs.rax, 0x0102_0304_0506_0708);
    bench.does(&mut cpu, &[0x66, 0x0f, 0x38, 0xf1, 0x03]); // movbe [rbx], ax
    assert_eq!(bench.get(0x5000, 4), 0x0403_0807);
}

#[test]
fn sixteen_bytes_are_compared_and_exchanged() {
    const CODE: &[u8] = &[0xf0, 0x48, 0x0f, 0xc7, 0x0e]; // lock cmpxchg16b [rsi]
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    (cpu.regs.rsi, cpu.regs.rax, cpu.regs.rdx, cpu.regs.rbx, cpu.regs.rcx) = (0x5000, 1, 2, 3, 4);
    bench.put64(0x5000, 1);
    bench.put64(0x5008, 2);
    bench.does(&mut cpu, CODE);
    assert_eq!((bench.get(0x5000, 8), bench.get(0x5008, 8), cpu.has(flag::ZF)), (3, 4, true));
    bench.does(&mut cpu, CODE);
    assert_eq!((cpu.regs.rax, cpu.regs.rdx, cpu.has(flag::ZF)), (3, 4, false));
    assert_eq!((bench.get(0x5000, 8), bench.get(0x5008, 8)), (3, 4));

    cpu.regs.rsi = 0x5008;
    bench.gate(&cpu, 13, super::super::testing::CODE64, 0x7000, 0, 14);
    bench.does(&mut cpu, CODE);
    assert_eq!((cpu.regs.rip, bench.get(cpu.regs.rsp, 8)), (0x7000, 0), "general protection for what is not aligned");
}

#[test]
fn memory_operands_are_read_and_written() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    (cpu.regs.rbx, cpu.regs.rsi) = (0x5000, 8);
    bench.put64(0x5014, 0x0f0f);
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0x44, 0x73, 0x04]); // popcnt rax, [rbx+rsi*2+4]
    assert_eq!(cpu.regs.rax, 8);
    let next = super::super::testing::CODE + 7 + 9;
    bench.put64(next + 0x100, 0xff);
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0x05, 0, 1, 0, 0]); // popcnt rax, [rip+0x100]
    assert_eq!(cpu.regs.rax, 8);
}

#[test]
fn known_words_are_spread_as_the_manual_shows() {
    assert_eq!(deposit(0b1011, 0b1010_1010), 0b1000_1010);
    assert_eq!(extract(0b1000_1010, 0b1010_1010), 0b1011);
}
