//! Tables of each shape, rights, and the bits that a walk leaves behind.

use super::super::cpu::{Cpu, cr0, cr4, efer, flag};
use super::super::testing::*;
use super::*;

fn translated(cpu: &Cpu, bench: &mut Bench, linear: u64, access: Access) -> Result<u64, u32> {
    match translate(cpu, bench, linear, access) {
        Ok(physical) => Ok(physical),
        Err(Stop::Exception(Exception { vector: vector::PAGE, code: Some(code), address: Some(address) })) => {
            assert_eq!(address, linear);
            Err(code)
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn without_paging_addresses_are_what_they_are() {
    let mut bench = Bench::new();
    let cpu = protected(&mut bench);
    assert_eq!(translated(&cpu, &mut bench, 0x1_2345_6789, Access::Read), Ok(0x2345_6789));
}

#[test]
fn two_levels() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    cpu.sregs.cr0 |= cr0::PG;
    cpu.sregs.cr3 = TABLES;
    bench.put(TABLES + 4 * 0x48, &(TABLES as u32 + 0x1000 + 7).to_le_bytes());
    bench.put(TABLES + 0x1000 + 4 * 0x345, &0x0005_6003_u32.to_le_bytes());
    let linear = 0x48 << 22 | 0x345 << 12 | 0x678;
    assert_eq!(translated(&cpu, &mut bench, linear, Access::Read), Ok(0x5_6678));
    assert_eq!(bench.get(TABLES + 4 * 0x48, 4) & 0x60, 0x20, "accessed");
    assert_eq!(bench.get(TABLES + 0x1000 + 4 * 0x345, 4) & 0x60, 0x20);
    assert_eq!(translated(&cpu, &mut bench, linear, Access::Write), Ok(0x5_6678));
    assert_eq!(bench.get(TABLES + 0x1000 + 4 * 0x345, 8), 0x5_6063, "dirty, and its neighbour as it was");
    assert_eq!(translated(&cpu, &mut bench, linear + 0x1000, Access::Write), Err(CODE_WRITE));

    // Large pages are such only if they are switched on; their high bits follow bit 13.
    bench.put(TABLES + 4 * 0x49, &0x0040_2087_u32.to_le_bytes());
    cpu.sregs.cr4 = cr4::PSE;
    assert_eq!(translated(&cpu, &mut bench, 0x49 << 22 | 0x12_3456, Access::Read), Ok(0x1_0052_3456));
}

#[test]
fn three_levels() {
    let mut bench = Bench::new();
    let mut cpu = protected(&mut bench);
    cpu.sregs.cr0 |= cr0::PG;
    cpu.sregs.cr4 = cr4::PAE;
    cpu.sregs.cr3 = TABLES + 0x20;
    bench.put64(TABLES + 0x20 + 8 * 3, TABLES + 0x1000 + 1);
    bench.put64(TABLES + 0x1000 + 8 * 5, TABLES + 0x2000 + 7);
    bench.put64(TABLES + 0x2000 + 8 * 7, 0x1_0005_6007);
    bench.put64(TABLES + 0x1000 + 8 * 6, 0x2_0020_0087);
    let linear = 3 << 30 | 5 << 21 | 7 << 12 | 0x89;
    assert_eq!(translated(&cpu, &mut bench, linear, Access::Write), Ok(0x1_0005_6089));
    assert_eq!(bench.get(TABLES + 0x20 + 8 * 3, 8), TABLES + 0x1000 + 1, "the root entries have no accessed bit");
    assert_eq!(translated(&cpu, &mut bench, 3 << 30 | 6 << 21 | 0x1_2345, Access::Write), Ok(0x2_0021_2345));
    assert_eq!(translated(&cpu, &mut bench, 0, Access::Read), Err(0));
}

#[test]
fn four_and_five_levels() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    let linear = 0xffff_8000_0000_0000 | 2 << 30 | 3 << 21 | 4 << 12 | 5;
    bench.put64(TABLES + 8 * 256, TABLES + 0x3000 + 3);
    bench.put64(TABLES + 0x3000 + 8 * 2, TABLES + 0x4000 + 3);
    bench.put64(TABLES + 0x4000 + 8 * 3, TABLES + 0x5000 + 3);
    bench.put64(TABLES + 0x5000 + 8 * 4, 0x7003);
    assert_eq!(translated(&cpu, &mut bench, linear, Access::Read), Ok(0x7005));
    bench.put64(TABLES + 0x3000 + 8 * 2, 0x4000_0083);
    assert_eq!(
        translated(&cpu, &mut bench, linear, Access::Read),
        Ok(0x4000_0000 | 3 << 21 | 4 << 12 | 5),
        "a page of 1 GiB"
    );
    cpu.sregs.cr4 |= cr4::LA57;
    cpu.sregs.cr3 = TABLES + 0x6000;
    bench.put64(TABLES + 0x6000 + 8 * 511, TABLES + 3);
    assert_eq!(translated(&cpu, &mut bench, linear, Access::Read), Ok(0x4000_0000 | 3 << 21 | 4 << 12 | 5));
}

/// Result of an access to a page of a 64-bit kernel with these bits, after `change`.
fn access(page: u64, access: Access, change: impl FnOnce(&mut Cpu)) -> Result<u64, u32> {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    bench.put64(TABLES + 0x2000 + 8, 0x20_0080 | page);
    change(&mut cpu);
    translated(&cpu, &mut bench, 0x20_0000, access)
}

const OK: Result<u64, u32> = Ok(0x20_0000);

#[test]
fn rights_of_kernel_and_users() {
    let user = |cpu: &mut Cpu| *cpu = as_user(*cpu);
    assert_eq!(access(PRESENT, Access::Read, |_| {}), OK);
    assert_eq!(access(PRESENT, Access::Write, |_| {}), Err(CODE_PRESENT | CODE_WRITE));
    assert_eq!(access(PRESENT, Access::Write, |cpu| cpu.sregs.cr0 &= !cr0::WP), OK);
    assert_eq!(access(PRESENT | WRITABLE, Access::Read, user), Err(CODE_PRESENT | CODE_USER));
    assert_eq!(access(PRESENT | WRITABLE, Access::ReadTable, user), OK);
    assert_eq!(access(PRESENT | WRITABLE, Access::WriteTable, user), OK);
    assert_eq!(access(PRESENT | USER, Access::Read, user), OK);
    assert_eq!(access(PRESENT | USER, Access::Write, user), Err(CODE_PRESENT | CODE_WRITE | CODE_USER));
    assert_eq!(access(PRESENT | USER | WRITABLE, Access::Write, user), OK);
}

#[test]
fn pages_may_forbid_execution_and_the_kernel_may_be_kept_out_of_user_pages() {
    let nx = |cpu: &mut Cpu| cpu.sregs.efer |= efer::NXE;
    assert_eq!(access(PRESENT | NO_EXECUTE, Access::Fetch, nx), Err(CODE_PRESENT | CODE_FETCH));
    assert_eq!(access(PRESENT | NO_EXECUTE, Access::Read, nx), OK);
    let smep = |cpu: &mut Cpu| cpu.sregs.cr4 |= cr4::SMEP;
    assert_eq!(access(PRESENT | USER, Access::Fetch, smep), Err(CODE_PRESENT | CODE_FETCH));
    assert_eq!(access(PRESENT | USER, Access::Read, smep), OK);
    let smap = |cpu: &mut Cpu| cpu.sregs.cr4 |= cr4::SMAP;
    assert_eq!(access(PRESENT | USER, Access::Read, smap), Err(CODE_PRESENT));
    let open = |cpu: &mut Cpu| {
        cpu.sregs.cr4 |= cr4::SMAP;
        cpu.set_flag(flag::AC, true);
    };
    assert_eq!(access(PRESENT | USER, Access::Read, open), OK);
    assert_eq!(access(PRESENT | USER, Access::ReadTable, open), Err(CODE_PRESENT));
}

#[test]
fn a_refused_access_leaves_no_dirty_bit() {
    let mut bench = Bench::new();
    let cpu = long(&mut bench);
    bench.put64(TABLES + 0x2000 + 8, 0x20_0081);
    translated(&cpu, &mut bench, 0x20_0000, Access::Write).unwrap_err();
    assert_eq!(bench.get(TABLES + 0x2000 + 8, 8), 0x20_0081);
}

#[test]
fn tables_outside_of_memory_are_named() {
    let mut bench = Bench::new();
    let mut cpu = long(&mut bench);
    cpu.sregs.cr3 = 1 << 40;
    assert_eq!(translate(&cpu, &mut bench, 0, Access::Read), Err(Stop::Refused(Why::NoMemory(1 << 40))));
}
