//! What kernels expect of a BIOS although no firmware has run: its data area, and interrupts that can be called.
//!
//! The layout of the data area is that of the IBM PC/AT Technical Reference. A call of the BIOS comes back with the carry flag
//! set, which means that there is no such function; a kernel that asks all the same goes by what its loader told it.

use super::places::Places;
use super::{Machine, Piece};

/// Where it lies.
const AREA: u64 = 0x400;
const BYTES: usize = 0x100;

/// The first serial port.
const COM1: u16 = 0x3f8;
/// Two floppy-like bits aside: an x87, and text of 80 columns in colour.
const EQUIPMENT: u16 = 0x22;
/// The text display: mode, columns, bytes of a page, cursor shape, CRT controller, last row, lines of a character.
const MODE: u8 = 3;
const COLUMNS: u16 = 80;
const PAGE: u16 = 0x1000;
const CURSOR: u16 = 0x0607;
const CRTC: u16 = 0x3d4;
const LAST_ROW: u8 = 24;
const POINTS: u16 = 16;

/// Vectors that the first interrupt controller has after reset, and the second one as BIOSes set it.
const INTERRUPTS: [core::ops::Range<usize>; 2] = [0x08..0x10, 0x70..0x78];

/// Handlers, in the part of the data area that belongs to nobody: `push bp; mov bp, sp; or byte [bp+6], 1; pop bp; iret`,
/// where the flags are that go back to the caller, and a bare `iret`.
const HANDLERS: usize = 0xf0;
const REFUSE: [u8; 9] = [0x55, 0x89, 0xe5, 0x80, 0x4e, 0x06, 0x01, 0x5d, 0xcf];
const RETURN: u16 = AREA as u16 + HANDLERS as u16 + 8;

/// Puts the interrupt table and the data area into memory, unless something lies there.
pub fn put(machine: &Machine<'_>, places: &mut Places, pieces: &mut Vec<Piece>) {
    let low = places.ram_from(0).min(640 << 10);
    let what = "what kernels expect of a BIOS";
    if places.take(0, AREA + BYTES as u64, what).is_err() {
        return;
    }
    let vectors = (0..256).map(|vector| {
        let is_interrupt = INTERRUPTS.iter().any(|range| range.contains(&vector));
        if is_interrupt { RETURN } else { AREA as u16 + HANDLERS as u16 }
    });
    let mut bytes: Vec<u8> = vectors.flat_map(|offset| u32::from(offset).to_le_bytes()).collect();
    bytes.extend(data_area(machine, low));
    pieces.push(Piece::new(0, bytes, what));
}

fn data_area(machine: &Machine<'_>, low: u64) -> Vec<u8> {
    let mut area = vec![0; BYTES];
    let mut set = |at: usize, bytes: &[u8]| area[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x00, &COM1.to_le_bytes());
    // The extended area is said to begin where memory ends: kernels keep clear of what lies above.
    set(0x0e, &((low >> 4) as u16).to_le_bytes());
    set(0x10, &EQUIPMENT.to_le_bytes());
    set(0x13, &((low >> 10) as u16).to_le_bytes());
    if machine.text_display {
        set(0x49, &[MODE]);
        set(0x4a, &COLUMNS.to_le_bytes());
        set(0x4c, &PAGE.to_le_bytes());
        set(0x60, &CURSOR.to_le_bytes());
        set(0x63, &CRTC.to_le_bytes());
        set(0x84, &[LAST_ROW]);
        set(0x85, &POINTS.to_le_bytes());
    }
    set(HANDLERS, &REFUSE);
    area
}

#[cfg(test)]
mod tests {
    use super::super::places::{MemoryKind, MemoryRange};
    use super::*;

    fn pieces(start: u64) -> Vec<Piece> {
        let memory = [MemoryRange { start, length: 0x9_fc00 - start, kind: MemoryKind::Ram }];
        let machine = Machine { memory: &memory, rsdp: None, text_display: true };
        let mut pieces = Vec::new();
        put(&machine, &mut Places::new(&memory), &mut pieces);
        pieces
    }

    #[test]
    fn the_area_tells_of_memory_and_display_and_every_vector_has_a_handler() {
        let piece = pieces(0).remove(0);
        assert_eq!((piece.address, piece.bytes.len()), (0, 0x500));
        let word = |at: usize| u16::from_le_bytes(piece.bytes[at..at + 2].try_into().unwrap());
        assert_eq!((word(0x40e), word(0x413), word(0x44a), word(0x463)), (0x9fc0, 639, 80, 0x3d4));
        for vector in 0..256 {
            let (offset, segment) = (usize::from(word(4 * vector)), word(4 * vector + 2));
            let is_interrupt = (8..16).contains(&vector) || (0x70..0x78).contains(&vector);
            let first = if is_interrupt { 0xcf } else { 0x55 };
            assert_eq!((segment, piece.bytes[offset]), (0, first), "{vector:#x}");
        }
    }

    #[test]
    fn memory_that_is_not_there_gets_none() {
        assert_eq!(pieces(0x1000), []);
    }
}
