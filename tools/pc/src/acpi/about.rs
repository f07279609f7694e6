//! What all tables have in common, and what they tell of.

/// Name of the maker in the tables.
pub const OEM: [u8; 6] = *b"OUTBRD";
/// Name of each table.
pub const TABLE: [u8; 8] = *b"OUTBDPC ";
/// Their revision by the maker.
pub const REVISION: u32 = 1;
/// Bytes of a table's header (ACPI specification 6.5, 5.2.6).
pub const HEADER: usize = 36;

/// A virtio device that the tables name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtio {
    /// Address of its registers.
    pub address: u32,
    /// Bytes of them.
    pub length: u32,
    /// Its interrupt.
    pub gsi: u32,
}

/// What the tables tell of.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Processors.
    pub cpus: u32,
    /// Virtio devices.
    pub virtio: Vec<Virtio>,
}
