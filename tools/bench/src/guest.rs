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

/// The access of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `out dx, al`
    PortOut,
    /// `in al, dx`
    PortIn,
    /// `mov [bx], al`
    MmioWrite,
    /// `mov al, [bx]`
    MmioRead,
}

impl Access {
    fn instruction(self) -> &'static [u8] {
        match self {
            Access::PortOut => &[0xee],
            Access::PortIn => &[0xec],
            Access::MmioWrite => &[0x88, 0x07],
            Access::MmioRead => &[0x8a, 0x07],
        }
    }

    /// True in the MMIO space.
    pub fn is_mmio(self) -> bool {
        matches!(self, Access::MmioWrite | Access::MmioRead)
    }
}

/// Real-mode code that does the access `chunk` times between two barriers. DX holds [`PORT`], BX zero, DS [`NOWHERE`].
pub fn code(access: Access, chunk: u16) -> Vec<u8> {
    let instruction = access.instruction();
    let mut code = vec![0xb9]; // mov cx, chunk
    code.extend(chunk.to_le_bytes());
    code.extend(instruction);
    code.extend([0xe2, back(instruction.len() + 2)]); // loop to the access
    code.extend([0xe6, BARRIER as u8]); // out BARRIER, al
    code.extend([0xeb, back(code.len() + 2)]); // jmp to the start
    code
}

/// The displacement of a short jump that ends `bytes` behind its target.
fn back(bytes: usize) -> u8 {
    (bytes as u8).wrapping_neg()
}
