//! The extended state there and back, in both forms of the area.

use super::super::cpu::Cpu;
use super::super::testing::*;
use super::*;

const XSAVE: &[u8] = &[0x48, 0x0f, 0xae, 0x27]; // xsave64 [rdi]
const XSAVEC: &[u8] = &[0x48, 0x0f, 0xc7, 0x27]; // xsavec64 [rdi]
const XRSTOR: &[u8] = &[0x48, 0x0f, 0xae, 0x2f]; // xrstor64 [rdi]
const XRSTORS: &[u8] = &[0x48, 0x0f, 0xc7, 0x1f]; // xrstors64 [rdi]
const PLACE: u64 = 0x5000;

/// x87, SSE, AVX and the opmasks in use, every byte its own.
fn bench() -> (Bench, Cpu) {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.sregs.cr4 |= cr4::OSXSAVE;
    (cpu.regs.rdi, cpu.regs.rax) = (PLACE, u64::MAX);
    bench.xcr0 = 0x27;
    let mut area: Vec<u8> = (0..AREA).map(|at| (at % 251) as u8).collect();
    area[24..32].copy_from_slice(&[0x80, 0x1f, 0, 0, 0xff, 0xff, 0, 0]);
    area[512..576].fill(0);
    area[512] = 0x27;
    fill(&mut bench, &area);
    (bench, cpu)
}

fn fill(bench: &mut Bench, area: &[u8]) {
    for (to, from) in bench.xsave.region.iter_mut().zip(area.chunks_exact(4)) {
        *to = u32::from_le_bytes(from.try_into().unwrap());
    }
}

fn cleared(bench: &mut Bench) {
    let mut area = vec![0; AREA];
    area[28..32].copy_from_slice(&0xffff_u32.to_le_bytes());
    fill(bench, &area);
}

#[test]
fn the_standard_form_comes_back_as_it_was() {
    let (mut bench, mut cpu) = bench();
    let before = bench.xsave.region;
    bench.does(&mut cpu, XSAVE);
    assert_eq!((bench.get(PLACE + 512, 8), bench.get(PLACE + 520, 8)), (0x27, 0));
    assert_eq!(bench.get(PLACE + 576, 1), 576 % 251);
    cleared(&mut bench);
    cpu.regs.rip = CODE;
    bench.does(&mut cpu, XRSTOR);
    let bytes = |region: [u32; 1024]| area(&kvm_xsave { region, ..kvm_xsave::default() });
    let (was, now) = (bytes(before), bytes(bench.xsave.region));
    for range in [0..28, 32..416, 512..520, 576..832, 1088..1152] {
        assert_eq!(was[range.clone()], now[range.clone()], "{range:?}");
    }
}

#[test]
fn the_compacted_form_has_its_components_side_by_side() {
    let (mut bench, mut cpu) = bench();
    let before = area(&bench.xsave().unwrap());
    bench.does(&mut cpu, XSAVEC);
    assert_eq!((bench.get(PLACE + 512, 8), bench.get(PLACE + 520, 8)), (0x27, 0x27 | COMPACTED));
    assert_eq!(bench.get(PLACE + 832, 1), 1088 % 251, "the opmasks right behind AVX");
    for code in [XRSTOR, XRSTORS] {
        cleared(&mut bench);
        cpu.regs.rip = CODE;
        bench.does(&mut cpu, code);
        let now = area(&bench.xsave().unwrap());
        assert_eq!((&now[576..832], &now[1088..1152]), (&before[576..832], &before[1088..1152]));
    }
}

#[test]
fn only_what_is_asked_for_moves() {
    let (mut bench, mut cpu) = bench();
    bench.put64(PLACE + 512, 1 << 1);
    cpu.regs.rax = AVX;
    bench.does(&mut cpu, XSAVE);
    assert_eq!(bench.get(PLACE + 512, 8), AVX | SSE, "bits of the others stay");
    assert_eq!((bench.get(PLACE, 8), bench.get(PLACE + 160, 8)), (0, 0));
    assert_ne!(bench.get(PLACE + 576, 8), 0);
    // A component that the area does not have goes back to its state after reset.
    bench.put64(PLACE + 512, 0);
    cpu.regs.rip = CODE;
    bench.does(&mut cpu, XRSTOR);
    assert_eq!(word(&area(&bench.xsave().unwrap()), STATE_BV), 0x27 & !AVX);
}

/// The vector that XRSTOR gives.
fn refused(code: &[u8], change: impl FnOnce(&mut Bench, &mut Cpu)) -> u64 {
    let (mut bench, mut cpu) = bench();
    for number in 0..32 {
        bench.gate(&cpu, number, CODE64, 0x7000 + u64::from(number), 0, 14);
    }
    bench.put64(PLACE + 24, 0x1f80);
    change(&mut bench, &mut cpu);
    bench.does(&mut cpu, code);
    cpu.regs.rip - 0x7000
}

#[test]
fn wrong_areas_are_faults() {
    assert_eq!(refused(XRSTOR, |_, cpu| cpu.regs.rdi += 32), 13, "not aligned");
    assert_eq!(refused(XRSTOR, |bench, _| bench.put64(PLACE + 512, 1 << 9)), 13, "a component that is off");
    assert_eq!(refused(XRSTOR, |bench, _| bench.put64(PLACE + 520, 1)), 13, "half compacted");
    assert_eq!(refused(XRSTOR, |bench, _| bench.put64(PLACE + 536, 1)), 13, "a reserved byte");
    assert_eq!(refused(XRSTOR, |bench, _| bench.put64(PLACE + 24, 1 << 20)), 13, "a bit of MXCSR that is none");
    assert_eq!(refused(XRSTORS, |_, _| {}), 13, "not compacted");
    assert_eq!(refused(XRSTOR, |_, cpu| cpu.sregs.cr4 &= !cr4::OSXSAVE), 6);
    assert_eq!(refused(XSAVE, |_, cpu| cpu.sregs.cr0 |= cr0::TS), 7);
}
