//! The guest of every row: a chunk of one access, then a write to [`BARRIER`], for ever.
//!
//! The barrier is where bench and plugin take turns, so that floor and plugin are measured alternately within
//! milliseconds: the speed of a host drifts by more than what is measured here.

/// The port that ends a chunk.
pub const BARRIER: u16 = 0x10;
/// The port of the rows.
pub const PORT: u16 = 0x3f8;
/// Where the code lies.
pub const CODE: u16 = 0x1000;
/// Bytes of guest memory from address 0.
pub const MEMORY: usize = 0x1_0000;
/// An address behind the memory, for the rows with MMIO. The base of the data segment.
pub const NOWHERE: u64 = 0x2_0000;

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// In the MMIO space, else a port.
    pub is_mmio: bool,
    /// A write, else a read.
    pub is_write: bool,
    /// Bytes: 1, 2, 4, or 8 in memory.
    pub size: u8,
}

impl Access {
    /// A port access.
    pub const fn port(is_write: bool, size: u8) -> Access {
        Access { is_mmio: false, is_write, size }
    }

    /// An access of memory.
    pub const fn mmio(is_write: bool, size: u8) -> Access {
        Access { is_mmio: true, is_write, size }
    }

    /// Its instruction in real mode: DX is the port, BX the address, and what is written is in AL, AX, EAX or MM0.
    pub fn instruction(self) -> Vec<u8> {
        let prefix: &[u8] = if self.size == 4 { &[0x66] } else { &[] };
        let wide = u8::from(self.size > 1);
        let operation: &[u8] = match (self.is_mmio, self.is_write) {
            (false, true) => &[0xee | wide],
            (false, false) => &[0xec | wide],
            (true, true) if self.size == 8 => &[0x0f, 0x7f, 0x07],
            (true, false) if self.size == 8 => &[0x0f, 0x6f, 0x07],
            (true, true) => &[0x88 | wide, 0x07],
            (true, false) => &[0x8a | wide, 0x07],
        };
        [prefix, operation].concat()
    }
}

/// Real-mode code that does the access `chunk` times between two barriers. DX holds [`PORT`], BX zero, DS [`NOWHERE`].
pub fn code(access: Access, chunk: u16) -> Vec<u8> {
    let instruction = access.instruction();
    let mut code = vec![0xb9]; // mov cx, chunk
    code.extend(chunk.to_le_bytes());
    code.extend(&instruction);
    code.extend([0xe2, back(instruction.len() + 2)]); // loop to the access
    code.extend([0xe6, BARRIER as u8]); // out BARRIER, al
    code.extend([0xeb, back(code.len() + 2)]); // jmp to the start
    code
}

/// The displacement of a short jump that ends `bytes` behind its target.
fn back(bytes: usize) -> u8 {
    (bytes as u8).wrapping_neg()
}
