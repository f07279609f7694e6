//! A machine of plain memory for the tests of this room, and processors in each mode on it.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_segment, kvm_xsave};

use super::cpu::{Cpu, cr0, cr4, efer, flag};
use super::fault::{Refusal, Why};
use super::machine::Machine;
use super::run::execute;

/// Bytes of memory, from 0.
pub const MEMORY: usize = 0x10_0000;
/// Where the code of the tests lies.
pub const CODE: u64 = 0x1000;
/// The stack of the kernel, and that of an inner privilege.
pub const STACK: u64 = 0x8000;
pub const INNER_STACK: u64 = 0x9000;
/// Tables: descriptors, interrupts, task state, pages.
pub const GDT: u64 = 0x2000;
pub const IDT: u64 = 0x3000;
pub const TASK: u64 = 0x4000;
pub const TABLES: u64 = 0x1_0000;
/// Selectors.
pub const CODE32: u16 = 0x08;
pub const DATA: u16 = 0x10;
pub const CODE64: u16 = 0x18;
pub const USER_CODE32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2b;
pub const USER_CODE64: u16 = 0x33;
/// Like [`CODE64`], for tests to break.
pub const OTHER_CODE64: u16 = 0x38;

/// Memory and the registers that are seldom needed.
pub struct Bench {
    pub memory: Vec<u8>,
    pub fpu: kvm_fpu,
    pub xsave: kvm_xsave,
    pub xcr0: u64,
    pub random: u64,
    pub flushes: u32,
    pub steps: u32,
}

impl Machine for Bench {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> bool {
        let Some(from) = self.place(address, bytes.len()) else { return false };
        bytes.copy_from_slice(&self.memory[from..from + bytes.len()]);
        true
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.place(address, bytes.len()) else { return false };
        self.memory[to..to + bytes.len()].copy_from_slice(bytes);
        true
    }

    fn compare_exchange(&mut self, address: u64, current: u64, new: u64) -> Option<u64> {
        let at = self.place(address, 8)?;
        let found = u64::from_le_bytes(self.memory[at..at + 8].try_into().ok()?);
        if found == current {
            self.memory[at..at + 8].copy_from_slice(&new.to_le_bytes());
        }
        Some(found)
    }

    fn compare_exchange_16(&mut self, address: u64, current: u128, new: u128) -> Option<u128> {
        let at = self.place(address, 16)?;
        let found = u128::from_le_bytes(self.memory[at..at + 16].try_into().ok()?);
        if found == current {
            self.memory[at..at + 16].copy_from_slice(&new.to_le_bytes());
        }
        Some(found)
    }

    fn fpu(&mut self) -> Result<kvm_fpu, Why> {
        Ok(self.fpu)
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Why> {
        self.fpu = *fpu;
        Ok(())
    }

    fn xsave(&mut self) -> Result<kvm_xsave, Why> {
        Ok(kvm_xsave { region: self.xsave.region, ..kvm_xsave::default() })
    }

    fn set_xsave(&mut self, xsave: &kvm_xsave) -> Result<(), Why> {
        self.xsave.region = xsave.region;
        Ok(())
    }

    fn xcr0(&mut self) -> Result<u64, Why> {
        Ok(self.xcr0)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Why> {
        // AVX and the opmasks, as processors of Intel have them.
        Ok(match (leaf, subleaf) {
            (0xd, 2) => [256, 576, 0, 0],
            (0xd, 5) => [64, 1088, 0, 0],
            _ => [0; 4],
        })
    }

    fn msr(&mut self, index: u32) -> Result<u64, Why> {
        match index {
            0xda0 => Ok(0),
            _ => Err(Why::State(format!("no MSR {index:#x}"))),
        }
    }

    fn random(&mut self) -> Result<u64, Why> {
        Ok(self.random)
    }

    fn forget_translations(&mut self, _cpu: &Cpu) -> Result<(), Why> {
        self.flushes += 1;
        Ok(())
    }

    fn note_single_step(&mut self) -> Result<(), Why> {
        self.steps += 1;
        Ok(())
    }
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            memory: vec![0; MEMORY],
            fpu: kvm_fpu::default(),
            xsave: kvm_xsave::default(),
            xcr0: 7,
            random: 0,
            flushes: 0,
            steps: 0,
        }
    }

    fn place(&self, address: u64, bytes: usize) -> Option<usize> {
        let end = address.checked_add(bytes as u64)?;
        (end <= self.memory.len() as u64).then_some(address as usize)
    }

    pub fn put(&mut self, address: u64, bytes: &[u8]) {
        assert!(self.write(address, bytes), "{address:#x}");
    }

    pub fn put64(&mut self, address: u64, value: u64) {
        self.put(address, &value.to_le_bytes());
    }

    pub fn get(&mut self, address: u64, bytes: usize) -> u64 {
        let mut value = [0; 8];
        assert!(self.read(address, &mut value[..bytes]), "{address:#x}");
        u64::from_le_bytes(value)
    }

    /// Carries out the instruction at the processor's place, whose bytes KVM did not tell.
    pub fn step(&mut self, cpu: &mut Cpu, code: &[u8]) -> Result<(), Refusal> {
        let at = cpu.sregs.cs.base + cpu.regs.rip;
        self.put(at, code);
        execute(cpu, self, &[])
    }

    /// The same, and it has to go well.
    #[track_caller]
    pub fn does(&mut self, cpu: &mut Cpu, code: &[u8]) {
        self.step(cpu, code).unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// An interrupt gate of the mode that the processor is in, to this selector and address.
    pub fn gate(&mut self, cpu: &Cpu, vector: u8, selector: u16, address: u64, dpl: u64, kind: u64) {
        let low = address & 0xffff
            | u64::from(selector) << 16
            | (0x8000 | dpl << 13 | kind << 8) << 32
            | (address >> 16 & 0xffff) << 48;
        if cpu.is_long() {
            self.put64(IDT + 16 * u64::from(vector), low);
            self.put64(IDT + 16 * u64::from(vector) + 8, address >> 32);
        } else {
            self.put64(IDT + 8 * u64::from(vector), low);
        }
    }
}

fn data(selector: u16, dpl: u8, type_: u8) -> kvm_segment {
    kvm_segment { limit: 0xffff_ffff, selector, type_, present: 1, dpl, db: 1, s: 1, g: 1, ..kvm_segment::default() }
}

/// A processor in real mode with all segments at 0.
pub fn real() -> Cpu {
    let mut cpu = Cpu::default();
    let flat = kvm_segment { limit: 0xffff, type_: 3, present: 1, s: 1, ..kvm_segment::default() };
    let sregs = &mut cpu.sregs;
    (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (flat, flat, flat, flat, flat, flat);
    sregs.idt = kvm_dtable { base: 0, limit: 0x3ff, ..kvm_dtable::default() };
    (cpu.regs.rip, cpu.regs.rsp, cpu.regs.rflags) = (CODE, STACK, flag::ONE | flag::IF);
    cpu
}

/// A kernel in protected mode without paging, its tables in memory.
pub fn protected(bench: &mut Bench) -> Cpu {
    for (at, descriptor) in [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00af_9b00_0000_ffff,
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00af_9b00_0000_ffff,
    ]
    .into_iter()
    .enumerate()
    {
        bench.put64(GDT + 8 * at as u64, descriptor);
    }
    let mut cpu = Cpu::default();
    let sregs = &mut cpu.sregs;
    sregs.cr0 = cr0::PE | cr0::NE;
    let flat = data(DATA, 0, 3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (flat, flat, flat, flat, flat);
    sregs.cs = data(CODE32, 0, 11);
    sregs.gdt = kvm_dtable { base: GDT, limit: 8 * 8 - 1, ..kvm_dtable::default() };
    sregs.idt = kvm_dtable { base: IDT, limit: 0xfff, ..kvm_dtable::default() };
    sregs.tr = kvm_segment { base: TASK, limit: 0x67, type_: 11, present: 1, ..kvm_segment::default() };
    bench.put(TASK + 4, &(INNER_STACK as u32).to_le_bytes());
    bench.put(TASK + 8, &DATA.to_le_bytes());
    (cpu.regs.rip, cpu.regs.rsp, cpu.regs.rflags) = (CODE, STACK, flag::ONE | flag::IF);
    cpu
}

/// A kernel in 64-bit mode, memory mapped one to one by large pages that users may touch.
pub fn long(bench: &mut Bench) -> Cpu {
    let mut cpu = protected(bench);
    bench.put64(TABLES, TABLES + 0x1000 + 7);
    bench.put64(TABLES + 0x1000, TABLES + 0x2000 + 7);
    bench.put64(TABLES + 0x2000, 0x87);
    bench.put64(TASK + 4, INNER_STACK);
    let sregs = &mut cpu.sregs;
    sregs.cs = kvm_segment { db: 0, l: 1, ..data(CODE64, 0, 11) };
    sregs.cr0 |= cr0::PG | cr0::WP;
    sregs.cr3 = TABLES;
    sregs.cr4 = cr4::PAE;
    sregs.efer = efer::LMA | 1 << 8;
    cpu
}

/// Puts the processor of [`protected`] or [`long`] to user privilege.
pub fn as_user(mut cpu: Cpu) -> Cpu {
    let long = cpu.is_long();
    let sregs = &mut cpu.sregs;
    let flat = data(USER_DATA, 3, 3);
    (sregs.ds, sregs.es, sregs.ss) = (flat, flat, flat);
    sregs.cs = data(if long { USER_CODE64 } else { USER_CODE32 }, 3, 11);
    if long {
        (sregs.cs.db, sregs.cs.l) = (0, 1);
    }
    cpu
}
