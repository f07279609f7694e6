//! QEMU's `etc/table-loader`: commands by which firmware places tables and connects them (`hw/acpi/bios-linker-loader.c`).

/// The file with the tables.
pub const TABLES: &str = "etc/acpi/tables";
/// The file with the root pointer.
pub const RSDP: &str = "etc/acpi/rsdp";

const COMMAND: usize = 128;
const NAME: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
const ZONE_HIGH: u8 = 1;
const ZONE_F_SEGMENT: u8 = 2;

/// The commands in order.
#[derive(Debug, Default)]
pub struct Script(Vec<u8>);

impl Script {
    fn add(&mut self, command: u32, fields: &[&[u8]]) {
        let start = self.0.len();
        self.0.extend(command.to_le_bytes());
        fields.iter().for_each(|field| self.0.extend(*field));
        self.0.resize(start + COMMAND, 0);
    }

    /// Gives a file memory, in the last 64 KiB of the first MiB or anywhere.
    pub fn allocate(&mut self, file: &str, align: u32, in_f_segment: bool) {
        let zone = if in_f_segment { ZONE_F_SEGMENT } else { ZONE_HIGH };
        self.add(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone]]);
    }

    /// Adds the address of the tables to a number of `size` bytes in a file.
    pub fn add_pointer(&mut self, file: &str, at: usize, size: usize) {
        self.add(ADD_POINTER, &[&name(file), &name(TABLES), &(at as u32).to_le_bytes(), &[size as u8]]);
    }

    /// Sets the byte `at` so that `length` bytes from `start` on have the sum 0.
    pub fn add_checksum(&mut self, file: &str, at: usize, start: usize, length: usize) {
        let numbers = [at, start, length].map(|number| (number as u32).to_le_bytes());
        self.add(ADD_CHECKSUM, &[&name(file), &numbers.concat()]);
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn name(file: &str) -> [u8; NAME] {
    let mut field = [0; NAME];
    field[..file.len()].copy_from_slice(file.as_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_their_layout() {
        let mut script = Script::default();
        script.allocate(RSDP, 16, true);
        script.add_pointer(RSDP, 16, 4);
        script.add_checksum(TABLES, 9, 0, 36);
        let bytes = script.into_bytes();
        assert_eq!(bytes.len(), 3 * 128);
        assert_eq!((&bytes[..8], &bytes[60..65]), (&b"\x01\0\0\0etc/"[..], &[16, 0, 0, 0, 2][..]));
        let pointer = &bytes[128..256];
        assert_eq!(
            (&pointer[4..17], &pointer[60..75], pointer[116], pointer[120]),
            (&b"etc/acpi/rsdp"[..], &b"etc/acpi/tables"[..], 16, 4)
        );
        let checksum = &bytes[256..];
        assert_eq!((checksum[0], checksum[60], checksum[64], checksum[68]), (3, 9, 0, 36));
    }
}
