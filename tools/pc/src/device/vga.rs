//! The registers of a VGA display as text needs them: indexed registers that remember, and the cursor's place. The
//! display's memory is RAM, which the guest writes without leaving the CPU.
//!
//! Ports and numbers are those of the IBM VGA (XGA technical reference, section 2).

use crate::bus::ByteDevice;

/// First port.
pub const FIRST: u64 = 0x3c0;
/// Ports.
pub const LENGTH: u64 = 0x20;

const ATTRIBUTE: u64 = 0x00;
const MISCELLANEOUS: u64 = 0x02;
const SEQUENCER: u64 = 0x04;
const PALETTE_READ: u64 = 0x07;
const PALETTE_WRITE: u64 = 0x08;
const PALETTE_DATA: u64 = 0x09;
const MISCELLANEOUS_READ: u64 = 0x0c;
const GRAPHICS: u64 = 0x0e;
const CRTC: u64 = 0x14;
const STATUS: u64 = 0x1a;

/// Registers of the CRTC.
const CURSOR_START: usize = 0x0a;
const START: usize = 0x0c;
const CURSOR: usize = 0x0e;
const CURSOR_OFF: u8 = 0x20;

/// Input status: the beam is in the retrace.
const RETRACE: u8 = 0x09;

/// A bank of registers behind an index.
#[derive(Clone, Copy)]
struct Bank {
    index: u8,
    registers: [u8; 32],
}

impl Bank {
    const NEW: Bank = Bank { index: 0, registers: [0; 32] };

    fn access(&mut self) -> &mut u8 {
        &mut self.registers[usize::from(self.index & 0x1f)]
    }
}

/// Ports 0x3c0 to 0x3df.
pub struct Vga {
    attribute: Bank,
    sequencer: Bank,
    graphics: Bank,
    crtc: Bank,
    miscellaneous: u8,
    /// The next write to the attribute port is an index.
    attribute_index: bool,
    palette: [u8; 768],
    palette_at: usize,
    retrace: bool,
}

/// Where text and cursor are, in characters from the beginning of the text memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The character at the top left.
    pub start: u16,
    /// The cursor, unless it is off.
    pub cursor: Option<u16>,
}

impl Default for Vga {
    /// As the display's firmware leaves it: text of 80 columns and 25 lines.
    fn default() -> Vga {
        let mut crtc = Bank::NEW;
        // Mode 3: the values of the IBM VGA's parameter table.
        let mode = [
            0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28,
            0x1f, 0x96, 0xb9, 0xa3, 0xff,
        ];
        crtc.registers[..mode.len()].copy_from_slice(&mode);
        Vga {
            attribute: Bank::NEW,
            sequencer: Bank::NEW,
            graphics: Bank::NEW,
            crtc,
            miscellaneous: 0x67,
            attribute_index: true,
            palette: [0; 768],
            palette_at: 0,
            retrace: false,
        }
    }
}

impl Vga {
    /// What is to be seen.
    pub fn view(&self) -> View {
        let word = |at: usize| u16::from_be_bytes([self.crtc.registers[at], self.crtc.registers[at + 1]]);
        let off = self.crtc.registers[CURSOR_START] & CURSOR_OFF != 0;
        View { start: word(START), cursor: (!off).then(|| word(CURSOR)) }
    }
}

impl ByteDevice for Vga {
    fn reset(&mut self) {
        *self = Vga::default();
    }

    fn read(&mut self, register: u64) -> u8 {
        match register {
            ATTRIBUTE => self.attribute.index,
            0x01 => *self.attribute.access(),
            SEQUENCER => self.sequencer.index,
            0x05 => *self.sequencer.access(),
            PALETTE_READ => 0,
            PALETTE_WRITE => (self.palette_at / 3) as u8,
            PALETTE_DATA => {
                let value = self.palette[self.palette_at % 768];
                self.palette_at = (self.palette_at + 1) % 768;
                value
            }
            MISCELLANEOUS_READ => self.miscellaneous,
            GRAPHICS => self.graphics.index,
            0x0f => *self.graphics.access(),
            CRTC => self.crtc.index,
            0x15 => *self.crtc.access(),
            STATUS => {
                self.attribute_index = true;
                self.retrace = !self.retrace;
                if self.retrace { RETRACE } else { 0 }
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, register: u64, value: u8) {
        match register {
            ATTRIBUTE => {
                if self.attribute_index {
                    self.attribute.index = value & 0x3f;
                } else {
                    *self.attribute.access() = value;
                }
                self.attribute_index = !self.attribute_index;
            }
            MISCELLANEOUS => self.miscellaneous = value,
            SEQUENCER => self.sequencer.index = value,
            0x05 => *self.sequencer.access() = value,
            PALETTE_READ | PALETTE_WRITE => self.palette_at = usize::from(value) * 3,
            PALETTE_DATA => {
                self.palette[self.palette_at % 768] = value & 0x3f;
                self.palette_at = (self.palette_at + 1) % 768;
            }
            GRAPHICS => self.graphics.index = value,
            0x0f => *self.graphics.access() = value,
            CRTC => self.crtc.index = value,
            0x15 => *self.crtc.access() = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Bytewise, Device};

    #[test]
    fn the_cursor_is_where_the_guest_puts_it() {
        let mut vga = Bytewise(Vga::default());
        vga.write(CRTC, 2, 0x010e);
        vga.write(CRTC, 2, 0x230f);
        vga.write(CRTC, 1, 0x0c);
        vga.write(CRTC + 1, 1, 0x07);
        assert_eq!(vga.0.view(), View { start: 0x700, cursor: Some(0x123) });
        vga.write(CRTC, 2, 0x200a);
        assert_eq!(vga.0.view().cursor, None);
        assert_eq!(vga.read(CRTC, 2), 0x200a);
    }

    #[test]
    fn the_retrace_comes_and_goes_and_the_attribute_port_takes_turns() {
        let mut vga = Vga::default();
        assert_ne!(vga.read(STATUS), vga.read(STATUS));
        vga.write(ATTRIBUTE, 0x10);
        vga.write(ATTRIBUTE, 0x0c);
        vga.write(ATTRIBUTE, 0x11);
        vga.read(STATUS);
        vga.write(ATTRIBUTE, 0x10);
        assert_eq!(vga.read(0x01), 0x0c);
    }

    #[test]
    fn the_palette_counts_on() {
        let mut vga = Vga::default();
        vga.write(PALETTE_WRITE, 255);
        [1, 2, 3, 4].iter().for_each(|value| vga.write(PALETTE_DATA, *value));
        vga.write(PALETTE_READ, 255);
        assert_eq!([0; 4].map(|_| vga.read(PALETTE_DATA)), [1, 2, 3, 4]);
    }
}
