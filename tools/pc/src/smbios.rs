//! The SMBIOS tables of the machine: what a system shows as the names of the machine and its parts (SMBIOS specification
//! 3.7, DSP0134). Firmware that finds them as files does not have to make up its own.

/// Files in which firmware looks for them (QEMU, `hw/i386/fw_cfg.c`).
pub const ANCHOR: &str = "etc/smbios/smbios-anchor";
/// The tables behind the anchor.
pub const TABLES: &str = "etc/smbios/smbios-tables";

/// Version of the specification that the 32-bit entry point stands for.
const VERSION: [u8; 2] = [2, 8];
const MAKER: &str = "outboard";
const PRODUCT: &str = "outboard PC";
/// Memory devices are told of in MiB of at most 15 bits; more takes the extended field (section 7.18).
const MAX_SIZE: u64 = 0x7fff;

/// Handles of the structures.
mod handle {
    pub const BIOS: u16 = 0;
    pub const SYSTEM: u16 = 0x100;
    pub const CHASSIS: u16 = 0x300;
    pub const PROCESSOR: u16 = 0x400;
    pub const MEMORY: u16 = 0x1000;
    pub const DEVICE: u16 = 0x1100;
    pub const RANGE: u16 = 0x1300;
    pub const BOOT: u16 = 0x2000;
    pub const END: u16 = 0x7f00;
}

/// The tables and what finds them.
#[derive(Clone, Debug, Default)]
pub struct Smbios {
    tables: Vec<u8>,
    count: u16,
    longest: u16,
}

impl Smbios {
    /// The tables of a machine with so many bytes of memory and processors.
    pub fn new(memory: u64, cpus: u32) -> Smbios {
        let mut tables = Smbios::default();
        // Characteristics: none that has to be told, but that this is a virtual machine.
        let version = env!("CARGO_PKG_VERSION");
        let bios = [&[1, 2, 0, 0xe8, 3, 0][..], &8u64.to_le_bytes(), &[0, 0x14, 0, 0, 0xff, 0xff]].concat();
        tables.add(0, handle::BIOS, &bios, &[MAKER, version, "01/01/2026"]);
        let system = [&[1, 2, 3, 0][..], &[0; 16], &[6, 0, 0]].concat();
        tables.add(1, handle::SYSTEM, &system, &[MAKER, PRODUCT, version]);
        // Chassis: "other", in a safe state.
        tables.add(3, handle::CHASSIS, &[1, 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[MAKER]);
        for cpu in 0..cpus as u16 {
            let processor = processor();
            tables.add(4, handle::PROCESSOR + cpu, &processor, &["CPU", MAKER]);
        }
        tables.add_memory(memory);
        // No errors detected at boot.
        tables.add(32, handle::BOOT, &[0; 7], &[]);
        tables.add(127, handle::END, &[], &[]);
        tables
    }

    fn add_memory(&mut self, memory: u64) {
        let kib = memory >> 10;
        let (size, extended) = match u32::try_from(kib) {
            Ok(kib) if kib < 0x8000_0000 => (kib, 0),
            _ => (0x8000_0000, memory),
        };
        // System board, system memory, no error correction; one device.
        let array = [&[1, 3, 3][..], &size.to_le_bytes(), &[0xfe, 0xff, 1, 0], &extended.to_le_bytes()].concat();
        self.add(16, handle::MEMORY, &array, &[]);
        let mib = memory >> 20;
        let (size, extended) = if mib < MAX_SIZE { (mib as u16, 0) } else { (MAX_SIZE as u16, mib as u32) };
        let [array_low, array_high] = handle::MEMORY.to_le_bytes();
        // Widths unknown, a DIMM of RAM.
        let mut device = vec![array_low, array_high, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
        device.extend(size.to_le_bytes());
        device.extend([9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
        device.extend(extended.to_le_bytes());
        device.extend([0; 8]);
        self.add(17, handle::DEVICE, &device, &["DIMM 0", MAKER]);
        let (end, wide_end) = match u32::try_from(kib - 1) {
            Ok(end) if end < u32::MAX => (end, 0),
            _ => (u32::MAX, memory - 1),
        };
        let start = if wide_end > 0 { u32::MAX } else { 0 };
        let range = [&start.to_le_bytes()[..], &end.to_le_bytes(), &[array_low, array_high, 1], &[0; 8]].concat();
        self.add(19, handle::RANGE, &[range, wide_end.to_le_bytes().to_vec()].concat(), &[]);
    }

    /// A structure: its header, its fields, its strings, a zero (section 6.1).
    fn add(&mut self, kind: u8, handle: u16, fields: &[u8], strings: &[&str]) {
        let start = self.tables.len();
        self.tables.extend([kind, 4 + fields.len() as u8]);
        self.tables.extend(handle.to_le_bytes());
        self.tables.extend(fields);
        for string in strings {
            self.tables.extend(string.bytes());
            self.tables.push(0);
        }
        self.tables.push(0);
        if strings.is_empty() {
            self.tables.push(0);
        }
        self.count += 1;
        self.longest = self.longest.max((self.tables.len() - start) as u16);
    }

    /// The entry point (section 5.2.1). Whoever places the tables fills in their address, and then the checksums.
    fn anchor(&self) -> [u8; 31] {
        let mut anchor = [0; 31];
        anchor[..4].copy_from_slice(b"_SM_");
        anchor[5] = 31;
        anchor[6..8].copy_from_slice(&VERSION);
        anchor[8..10].copy_from_slice(&self.longest.to_le_bytes());
        anchor[16..21].copy_from_slice(b"_DMI_");
        anchor[22..24].copy_from_slice(&(self.tables.len() as u16).to_le_bytes());
        anchor[28..30].copy_from_slice(&self.count.to_le_bytes());
        anchor[30] = VERSION[0] << 4 | VERSION[1];
        anchor[21] = sum(&anchor[16..]).wrapping_neg();
        anchor[4] = sum(&anchor).wrapping_neg();
        anchor
    }

    /// Files for firmware: name and content.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 2] {
        [(ANCHOR, self.anchor().to_vec()), (TABLES, self.tables.clone())]
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A central processor that is enabled, of unknown family and speed (section 7.5).
fn processor() -> Vec<u8> {
    let mut fields = vec![1, 3, 1, 2];
    fields.extend([0; 8]); // its identification
    fields.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x41, 1]);
    fields.extend([0xff; 6]); // handles of caches: none
    fields.extend([0, 0, 0, 1, 1, 1]);
    fields.extend([0, 0, 1, 0]); // characteristics; family
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, handle and length of each structure, by the rules that a reader goes by.
    fn structures(tables: &[u8]) -> Vec<(u8, u16, u8)> {
        let (mut found, mut at) = (Vec::new(), 0);
        while at < tables.len() {
            found.push((tables[at], u16::from_le_bytes([tables[at + 2], tables[at + 3]]), tables[at + 1]));
            at += usize::from(tables[at + 1]);
            at += tables[at..].windows(2).position(|pair| pair == [0, 0]).unwrap() + 2;
        }
        found
    }

    #[test]
    fn the_structures_have_the_lengths_of_the_specification() {
        let tables = Smbios::new(256 << 20, 2);
        let found = structures(&tables.tables);
        let lengths = [(0, 24), (1, 27), (3, 22), (4, 42), (4, 42), (16, 23), (17, 40), (19, 31), (32, 11), (127, 4)];
        assert_eq!(found.iter().map(|(kind, _, length)| (*kind, *length)).collect::<Vec<_>>(), lengths);
        let mut handles: Vec<u16> = found.iter().map(|(_, handle, _)| *handle).collect();
        handles.sort_unstable();
        handles.dedup();
        assert_eq!(handles.len(), found.len());
        assert_eq!(usize::from(tables.count), found.len());
    }

    #[test]
    fn the_anchor_finds_them() {
        let tables = Smbios::new(5 << 40, 1);
        let anchor = tables.anchor();
        assert_eq!((sum(&anchor), sum(&anchor[16..])), (0, 0));
        assert_eq!(u16::from_le_bytes([anchor[22], anchor[23]]) as usize, tables.tables.len());
    }
}
