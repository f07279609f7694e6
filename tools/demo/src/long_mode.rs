//! Starts a vCPU in 64-bit mode, without a boot loader's detour through the older modes.

use outboard_plugin::kvm_bindings::{kvm_regs, kvm_segment};
use outboard_plugin::{Error, GuestMemory, Registers};

use crate::map::{CODE, GDT, PAGE_TABLES};

/// Table entries: present and writable (Intel SDM volume 3, 5.5).
const ENTRY: u64 = 0x3;
/// In a directory entry: a page of 2 MiB instead of a further table.
const LARGE: u64 = 0x80;
const CR0_PE_NE_PG: u64 = 1 | 1 << 5 | 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;

/// Segment selectors: the second and third entry of the table.
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
/// Null, 64-bit code, data.
const SEGMENTS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Writes segment descriptors and page tables that map the low 4 GiB to themselves.
pub fn prepare(memory: &GuestMemory) -> Result<(), Error> {
    memory.write_obj(GDT, &SEGMENTS)?;
    let (pointers, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    memory.write_obj(PAGE_TABLES, &(pointers | ENTRY))?;
    for gib in 0..4 {
        memory.write_obj(pointers + gib * 8, &((directories + gib * 0x1000) | ENTRY))?;
    }
    for page in 0..4 * 512 {
        memory.write_obj(directories + page * 8, &((page << 21) | LARGE | ENTRY))?;
    }
    Ok(())
}

/// Sets the registers of a vCPU that has not run yet.
pub fn enter(vcpu: &mut Registers) -> Result<(), Error> {
    let mut sregs = vcpu.sregs()?;
    sregs.cr0 = CR0_PE_NE_PG;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = size_of_val(&SEGMENTS) as u16 - 1;
    sregs.cs = segment(CODE_SELECTOR, 0xb);
    sregs.cs.l = 1;
    let data = kvm_segment { db: 1, ..segment(DATA_SELECTOR, 0x3) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: CODE, rflags: 2, ..kvm_regs::default() })
}

/// A flat segment of ring 0.
fn segment(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment { limit: u32::MAX, selector, type_, present: 1, s: 1, g: 1, ..kvm_segment::default() }
}
