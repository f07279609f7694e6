//! From bytes to the end of an instruction: what is decoded, what becomes an exception, what is refused.

use proptest::prelude::*;

use super::super::cpu::{cr0, cr4, flag};
use super::super::testing::*;
use super::*;

#[test]
fn the_bytes_that_kvm_gives_are_taken_before_memory() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.regs.rbx = 7;
    execute(&mut cpu, &mut bench, &[0xf3, 0x48, 0x0f, 0xb8, 0xc3, 0x90]).unwrap();
    assert_eq!((cpu.regs.rax, cpu.regs.rip), (3, CODE + 5));
    // Too few of them: memory has the rest.
    bench.put(CODE + 5, &[0xf3, 0x48, 0x0f, 0xb8, 0xc3]);
    cpu.regs.rbx = 1;
    execute(&mut cpu, &mut bench, &[0xf3, 0x48]).unwrap();
    assert_eq!((cpu.regs.rax, cpu.regs.rip), (1, CODE + 10));
}

#[test]
fn an_instruction_may_cross_pages_and_end_before_the_next() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    // Small pages, of which the second one is missing.
    bench.put64(TABLES + 0x2000, TABLES + 0x3000 + 7);
    for page in 0..256 {
        bench.put64(TABLES + 0x3000 + 8 * page, page << 12 | 7);
    }
    bench.put64(TABLES + 0x3000 + 8 * 6, 0);
    cpu.regs.rip = 0x5ffb;
    cpu.regs.rbx = 3;
    bench.put(0x5ffb, &[0xf3, 0x48, 0x0f, 0xb8, 0xc3]);
    execute(&mut cpu, &mut bench, &[]).unwrap();
    assert_eq!((cpu.regs.rax, cpu.regs.rip), (2, 0x6000));
    // One byte later it goes on in the missing page.
    cpu.regs.rip = 0x5ffc;
    bench.put(0x5ffc, &[0xf3, 0x48, 0x0f, 0xb8]);
    bench.gate(&cpu, 14, CODE64, 0x7000, 0, 14);
    execute(&mut cpu, &mut bench, &[]).unwrap();
    assert_eq!((cpu.regs.rip, cpu.sregs.cr2), (0x7000, 0x6000));
    assert_eq!(bench.get(cpu.regs.rsp + 8, 8), 0x5ffc, "it is begun once more");
}

#[test]
fn bytes_that_are_no_instruction_give_the_guest_an_exception() {
    for code in [&[0x0f, 0x0b][..], &[0x0f, 0xff, 0xc0], &[0xf0, 0x90]] {
        let mut bench = Bench::new();
        let mut cpu = long(&mut bench);
        bench.gate(&cpu, 6, CODE64, 0x7000, 0, 14);
        bench.does(&mut cpu, code);
        assert_eq!((cpu.regs.rip, bench.get(cpu.regs.rsp, 8)), (0x7000, CODE), "{code:x?}");
        assert_ne!(bench.get(cpu.regs.rsp + 16, 8) & flag::RF, 0, "the pushed flags");
    }
}

#[test]
fn what_nobody_knows_is_named_and_changes_nothing() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    let before = cpu;
    let refusal = bench.step(&mut cpu, &[0x62, 0xf1, 0x75, 0x48, 0xef, 0xc2]).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "cannot carry out the instruction vpxord zmm0,zmm1,zmm2 (62 f1 75 48 ef c2) at address 0x1000, which KVM refuses: it is \
         not among those that are carried out here"
    );
    assert_eq!(cpu, before);
}

#[test]
fn a_users_program_gets_an_exception_for_what_nobody_knows() {
    let mut bench = Bench::new();
    let mut cpu = as_user(long(&mut bench));
    bench.gate(&cpu, 6, CODE64, 0x7000, 0, 14);
    bench.does(&mut cpu, &[0x62, 0xf1, 0x75, 0x48, 0xef, 0xc2]);
    assert_eq!((cpu.regs.rip, cpu.cpl()), (0x7000, 0));
}

#[test]
fn memory_that_is_not_there_is_named() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    cpu.regs.rbx = 0xfee0_0000;
    let refusal = bench.step(&mut cpu, &[0xf3, 0x0f, 0xb8, 0x03]).unwrap_err();
    assert_eq!(refusal.why, Why::NoMemory(0xfee0_0000));
    assert_eq!(refusal.instruction, "popcnt eax,[ebx]");
    cpu.regs.rip = 0xfee0_0000;
    let refusal = execute(&mut cpu, &mut bench, &[]).unwrap_err();
    assert_eq!((refusal.why, refusal.bytes.len()), (Why::NoCode, 0));
}

#[test]
fn a_page_fault_reaches_its_handler_with_code_and_address() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.gate(&cpu, 14, CODE64, 0x7000, 0, 14);
    cpu.regs.rbx = 0x4000_0000;
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0x03]); // popcnt rax, [rbx]
    assert_eq!((cpu.regs.rip, cpu.sregs.cr2), (0x7000, 0x4000_0000));
    assert_eq!((bench.get(cpu.regs.rsp, 8), bench.get(cpu.regs.rsp + 8, 8)), (0, CODE));
}

#[test]
fn two_faults_become_a_double_fault_and_three_end_it() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.gate(&cpu, 8, CODE64, 0x7800, 0, 14);
    // The gate of page faults names a selector that is none.
    bench.gate(&cpu, 14, 0x100, 0x7000, 0, 14);
    cpu.regs.rbx = 0x4000_0000;
    let before = cpu;
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0x03]);
    assert_eq!((cpu.regs.rip, bench.get(cpu.regs.rsp, 8)), (0x7800, 0));
    cpu = before;
    cpu.sregs.idt.limit = 0;
    let before = cpu;
    let refusal = bench.step(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0x03]).unwrap_err();
    assert!(matches!(refusal.why, Why::Nested(_)), "{refusal}");
    assert_eq!(cpu, before);
}

#[test]
fn a_benign_exception_gives_way_to_the_one_behind_it() {
    let page = Exception { vector: 14, code: Some(0), address: Some(0) };
    let undefined = Exception::INVALID_OPCODE;
    assert_eq!(after(undefined, page), page);
    assert_eq!(after(Exception::PROTECTION, page), page);
    assert_eq!(after(page, page), DOUBLE_FAULT);
    assert_eq!(after(page, Exception::PROTECTION), DOUBLE_FAULT);
    assert_eq!(after(Exception::PROTECTION, Exception::coded(11, 0)), DOUBLE_FAULT);
}

#[test]
fn a_single_step_ends_behind_the_instruction() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.gate(&cpu, 1, CODE64, 0x7000, 0, 14);
    cpu.set_flag(flag::TF, true);
    bench.does(&mut cpu, &[0xf3, 0x48, 0x0f, 0xb8, 0xc3]);
    assert_eq!((cpu.regs.rip, bench.get(cpu.regs.rsp, 8), bench.steps), (0x7000, CODE + 5, 1));
    assert_eq!(bench.get(cpu.regs.rsp + 16, 8) & (flag::RF | flag::TF), flag::TF);
    assert!(!cpu.has(flag::TF));
}

#[test]
fn the_instruction_pointer_stays_within_its_width() {
    let mut bench = Bench::new();
    let mut cpu = real();
    cpu.regs.rip = 0xfffc;
    bench.does(&mut cpu, &[0xf3, 0x0f, 0xb8, 0xc3]); // popcnt ax, bx
    assert_eq!(cpu.regs.rip, 0);
}

/// Beginnings of the instructions that are carried out here, so that chance finds them.
const PREFIXES: &[&[u8]] = &[
    &[],
    &[0xcc],
    &[0xcd],
    &[0xcf],
    &[0x48, 0xcf],
    &[0x66],
    &[0xf3, 0x48],
    &[0x0f, 0xc7],
    &[0x48, 0x0f, 0xc7],
    &[0x48, 0x0f, 0xae],
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x66, 0x0f],
    &[0x66, 0x0f, 0x38],
    &[0xc4, 0xe2],
    &[0xd9],
    &[0xdb],
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever bytes and registers a guest comes with, nothing here panics, and a refusal changes no register.
    #[test]
    fn any_bytes_end_in_some_way(
        mode in 0..4usize,
        prefix in prop::sample::select(PREFIXES),
        bytes in prop::collection::vec(any::<u8>(), 15),
        registers in prop::collection::vec(prop_oneof![any::<u64>(), 0..0x2_0000u64, Just(u64::MAX)], 9),
        tables in prop::collection::vec(prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some)], 4),
        noise in prop::collection::vec((0..MEMORY as u64 - 8, any::<u64>()), 0..8),
    ) {
        let mut bench = Bench::new();
        let mut cpu = match mode {
            0 => real(),
            1 => protected(&mut bench),
            2 => long(&mut bench),
            _ => as_user(long(&mut bench)),
        };
        let regs = &mut cpu.regs;
        [regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp] = registers[..7].try_into().unwrap();
        if registers[7] & 1 != 0 {
            regs.rsp = registers[8];
        }
        let sregs = &mut cpu.sregs;
        sregs.cr4 |= cr4::OSXSAVE | cr4::OSFXSR | cr4::FSGSBASE;
        for (place, table) in [&mut sregs.gdt.base, &mut sregs.idt.base, &mut sregs.tr.base, &mut sregs.fs.base].into_iter().zip(tables) {
            *place = table.unwrap_or(*place);
        }
        sregs.cr0 &= !cr0::TS;
        for vector in 0..32 {
            bench.gate(&cpu, vector, if mode == 1 { CODE32 } else { CODE64 }, 0x7000, 3, 14);
        }
        for (at, value) in noise {
            bench.put64(at, value);
        }
        let code = [prefix, &bytes].concat();
        let before = cpu;
        if execute(&mut cpu, &mut bench, &code[..15]).is_err() {
            prop_assert!(cpu == before);
        }
    }
}
