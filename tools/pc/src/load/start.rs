//! How a vCPU begins to run what was loaded: registers, and the tables in memory that they point to.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::Piece;
use super::error::LoadError;
use super::places::Places;

/// Selectors of the table that every start but that in real mode has: those of Linux's boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Present 4 GiB segments: code of 32 and 64 bits, data; then a task segment of 104 bytes at 0.
const GDT32: [u64; 5] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];
const GDT64: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];

/// Page tables that map the first 4 GiB one to one: a page each for levels 4 and 3, four for level 2.
const TABLES: u64 = 6 * 0x1000;

const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 0x80;

/// Control register bits (Intel SDM volume 3, 2.5).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Where and in which mode the first vCPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Real mode, at `segment:offset`, with the data segments at 0.
    Real {
        /// CS.
        segment: u16,
        /// IP.
        offset: u16,
    },
    /// Protected mode without paging, flat segments, interrupts off.
    Protected {
        /// EIP.
        entry: u32,
        /// EAX, EBX and ESI, where the protocols say who loaded what.
        eax: u32,
        /// See `eax`.
        ebx: u32,
        /// See `eax`.
        esi: u32,
        /// Address of the descriptor table.
        gdt: u64,
    },
    /// 64-bit mode, the first 4 GiB mapped one to one, interrupts off.
    Long {
        /// RIP.
        entry: u64,
        /// RSI, where Linux expects its boot parameters.
        rsi: u64,
        /// Address of the descriptor table.
        gdt: u64,
        /// Address of the page tables.
        tables: u64,
    },
}

impl Start {
    /// A start in protected mode; its descriptor table goes into `pieces`.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn protected(
        entry: u32,
        [eax, ebx, esi]: [u32; 3],
        places: &mut Places,
        pieces: &mut Vec<Piece>,
    ) -> Result<Start, LoadError> {
        let gdt = put_gdt(&GDT32, places, pieces)?;
        Ok(Start::Protected { entry, eax, ebx, esi, gdt })
    }

    /// A start in 64-bit mode; its tables go into `pieces`.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn long(entry: u64, rsi: u64, places: &mut Places, pieces: &mut Vec<Piece>) -> Result<Start, LoadError> {
        let gdt = put_gdt(&GDT64, places, pieces)?;
        let tables = places.lowest(TABLES, 0x1000, 0, 1 << 32, "the first page tables")?;
        let link = |page: u64| (tables + page * 0x1000) | PRESENT_WRITABLE;
        let mut words = vec![0u64; TABLES as usize / 8];
        words[0] = link(1);
        for gib in 0..4 {
            words[512 + gib as usize] = link(2 + gib);
        }
        for (page, word) in (0..).zip(&mut words[1024..]) {
            *word = page << 21 | LARGE | PRESENT_WRITABLE;
        }
        pieces.push(Piece::new(tables, words_le(&words), "the first page tables"));
        Ok(Start::Long { entry, rsi, gdt, tables })
    }

    /// The registers to begin with, from segment and control registers as a processor has them after reset.
    pub fn registers(&self, sregs: &mut kvm_sregs) -> kvm_regs {
        let flags = kvm_regs { rflags: 2, ..kvm_regs::default() };
        match *self {
            Start::Real { segment, offset } => {
                sregs.cs.selector = segment;
                sregs.cs.base = u64::from(segment) << 4;
                kvm_regs { rip: offset.into(), ..flags }
            }
            Start::Protected { entry, eax, ebx, esi, gdt } => {
                flat_segments(sregs, false, gdt);
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr4 = 0;
                let (rax, rbx, rsi) = (eax.into(), ebx.into(), esi.into());
                kvm_regs { rip: entry.into(), rax, rbx, rsi, ..flags }
            }
            Start::Long { entry, rsi, gdt, tables } => {
                flat_segments(sregs, true, gdt);
                sregs.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
                sregs.cr3 = tables;
                sregs.cr4 = CR4_PAE;
                sregs.efer = EFER_LME | EFER_LMA;
                kvm_regs { rip: entry, rsi, ..flags }
            }
        }
    }
}

fn put_gdt(gdt: &[u64; 5], places: &mut Places, pieces: &mut Vec<Piece>) -> Result<u64, LoadError> {
    let what = "the first descriptor table";
    let at = places.lowest(8 * gdt.len() as u64, 8, 0, 1 << 32, what)?;
    pieces.push(Piece::new(at, words_le(gdt), what));
    Ok(at)
}

fn flat_segments(sregs: &mut kvm_sregs, long: bool, gdt: u64) {
    let segment = |selector, type_| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let code = segment(CODE, 11);
    sregs.cs = if long { kvm_segment { db: 0, l: 1, ..code } } else { code };
    let data = segment(DATA, 3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, selector: TASK, type_: 11, present: 1, ..kvm_segment::default() };
    sregs.gdt = kvm_dtable { base: gdt, limit: 5 * 8 - 1, ..kvm_dtable::default() };
    sregs.idt = kvm_dtable::default();
}

fn words_le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::places::{MemoryKind, MemoryRange};
    use super::*;

    fn places() -> Places {
        Places::new(&[MemoryRange { start: 0, length: 1 << 20, kind: MemoryKind::Ram }])
    }

    #[test]
    fn real_mode_starts_at_a_segment() {
        let mut sregs = kvm_sregs::default();
        let regs = Start::Real { segment: 0x7c0, offset: 5 }.registers(&mut sregs);
        assert_eq!((sregs.cs.selector, sregs.cs.base, regs.rip, regs.rflags), (0x7c0, 0x7c00, 5, 2));
    }

    #[test]
    fn protected_mode_is_flat() {
        let mut pieces = Vec::new();
        let start = Start::protected(0x10_0000, [1, 2, 3], &mut places(), &mut pieces).unwrap();
        let mut sregs = kvm_sregs { cr4: 0xffff, ..kvm_sregs::default() };
        let regs = start.registers(&mut sregs);
        assert_eq!((regs.rip, regs.rax, regs.rbx, regs.rsi, regs.rflags), (0x10_0000, 1, 2, 3, 2));
        assert_eq!((sregs.cr0 & (CR0_PE | CR0_PG), sregs.cr4), (CR0_PE, 0));
        assert_eq!((sregs.cs.selector, sregs.cs.db, sregs.cs.l, sregs.cs.limit), (CODE, 1, 0, 0xffff_ffff));
        assert_eq!((sregs.ss.selector, sregs.ss.db, sregs.tr.limit), (DATA, 1, 0x67));
        assert_eq!((pieces[0].address, pieces[0].bytes.len() as u64), (sregs.gdt.base, u64::from(sregs.gdt.limit) + 1));
        // The table says what the registers hold: base 0, limit 0xfffff pages, 32-bit code.
        assert_eq!(pieces[0].bytes[usize::from(CODE)..][..8], [0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0]);
    }

    #[test]
    fn long_mode_maps_four_gib_one_to_one() {
        let mut pieces = Vec::new();
        let start = Start::long(0x20_0000, 0x7000, &mut places(), &mut pieces).unwrap();
        let mut sregs = kvm_sregs::default();
        let regs = start.registers(&mut sregs);
        assert_eq!((regs.rip, regs.rsi), (0x20_0000, 0x7000));
        assert_eq!((sregs.cs.l, sregs.cs.db, sregs.efer, sregs.cr4), (1, 0, 0x500, 0x20));
        let tables = pieces.iter().find(|piece| piece.address == sregs.cr3).unwrap();
        let word =
            |at: u64| u64::from_le_bytes(tables.bytes[(at - tables.address) as usize..][..8].try_into().unwrap());
        for address in [0u64, 0x20_0000, 0xfee0_0000, 0xffe0_0000] {
            let level3 = word(sregs.cr3) & !0xfff;
            let level2 = word(level3 + (address >> 30) * 8) & !0xfff;
            assert_eq!(word(level2 + (address >> 21 & 511) * 8), address | LARGE | PRESENT_WRITABLE);
        }
    }
}
