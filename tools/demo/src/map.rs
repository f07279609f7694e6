//! Where everything lies in the embedded machine; the guest's code and the plugin agree on it here.

/// The serial port, a 16550 of eight ports.
pub const UART: u64 = 0x3f8;
/// Posted writes go to this port.
pub const BEEP_PORT: u64 = 0xe9;
/// The guest writes [`ROUNDS`] here, 32 bits wide, when it is done.
pub const DONE_PORT: u64 = 0xf4;
/// Device registers in the physical memory space, far from all RAM.
pub const MMIO: u64 = 0xd000_0000;
/// Reads as a number that differs from read to read.
pub const MMIO_READ: u64 = MMIO;
/// Takes the number back.
pub const MMIO_WRITE: u64 = MMIO + 8;
/// How often the guest does each kind of access.
pub const ROUNDS: u32 = 200;

/// RAM, from address 0.
pub const RAM: usize = 2 << 20;
/// Segment descriptors.
pub const GDT: u64 = 0x500;
/// Top level of the page tables; the others lie behind it.
pub const PAGE_TABLES: u64 = 0x1000;
/// The guest's image.
pub const CODE: u64 = 0x8000;
