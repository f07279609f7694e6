//! QEMU's firmware configuration device: named files that firmware reads (`docs/specs/fw_cfg.rst` of QEMU).

use vm_memory::{Bytes, GuestAddress};

use crate::bus::Device;
use crate::memory::Map;

/// Ports of the device: selector and data, and the two words of a DMA address from [`DMA`] on.
pub const LENGTH: u64 = 12;
const SELECTOR: u64 = 0;
const DATA: u64 = 1;
const DMA: u64 = 4;

/// Keys that are not files.
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const INTERFACE: u16 = 0x01;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHICS: u16 = 0x04;
    pub const CPUS: u16 = 0x05;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const DIRECTORY: u16 = 0x19;
    /// The first file.
    pub const FILES: u16 = 0x20;
}

/// The interface has DMA, beside the traditional one.
const INTERFACE_DMA: u32 = 3;
/// What the DMA register reads as: "QEMU CFG", highest byte first.
const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");
const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SKIP: u32 = 4;
const DMA_SELECT: u32 = 8;
const DMA_WRITE: u32 = 16;
/// Bytes of a file's name in the directory, with its zero.
const NAME: usize = 56;

/// The device, ports 0x510 to 0x51b.
pub struct FwCfg {
    items: Vec<(u16, Vec<u8>)>,
    names: Vec<String>,
    selected: u16,
    at: usize,
    dma_high: u32,
    memory: Map,
}

impl FwCfg {
    /// A device without files, whose DMA goes to this memory.
    pub fn new(memory: Map) -> FwCfg {
        let mut device = FwCfg { items: Vec::new(), names: Vec::new(), selected: 0, at: 0, dma_high: 0, memory };
        device.put(key::SIGNATURE, b"QEMU");
        device.put(key::INTERFACE, &INTERFACE_DMA.to_le_bytes());
        device.put(key::DIRECTORY, &0u32.to_be_bytes());
        device
    }

    /// Sets an item that is no file.
    pub fn put(&mut self, key: u16, bytes: &[u8]) {
        self.items.retain(|(known, _)| *known != key);
        self.items.push((key, bytes.to_vec()));
    }

    /// Adds a file. Its name has less than 56 bytes.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        debug_assert!(name.len() < NAME);
        let key = key::FILES + self.names.len() as u16;
        self.items.push((key, bytes));
        self.names.push(name.to_owned());
        let mut directory = (self.names.len() as u32).to_be_bytes().to_vec();
        for (name, key) in self.names.iter().zip(key::FILES..) {
            directory.extend((self.item(key).len() as u32).to_be_bytes());
            directory.extend(key.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(field);
        }
        self.put(key::DIRECTORY, &directory);
    }

    fn item(&self, key: u16) -> &[u8] {
        self.items.iter().find(|(known, _)| *known == key).map_or(&[], |(_, bytes)| bytes)
    }

    fn select(&mut self, key: u16) {
        (self.selected, self.at) = (key, 0);
    }

    /// The next byte; zero behind the end.
    fn next(&mut self) -> u8 {
        let byte = self.item(self.selected).get(self.at).copied().unwrap_or(0);
        self.at = self.at.saturating_add(1);
        byte
    }

    /// Carries out what the structure at this address says, and notes in it how that went.
    fn transfer(&mut self, address: u64) {
        let mut request = [0; 16];
        if self.memory.read_slice(&mut request, GuestAddress(address)).is_err() {
            return; // nowhere to report to
        }
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|index| request[at + index]));
        let (control, length, target) = (word(0), word(4), u64::from(word(8)) << 32 | u64::from(word(12)));
        if control & DMA_SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let done = if control & DMA_READ != 0 {
            self.copy_out(target, length)
        } else {
            if control & DMA_SKIP != 0 {
                self.at = self.at.saturating_add(length as usize);
            }
            control & DMA_WRITE == 0 // nothing is writable
        };
        let result = if done { 0 } else { DMA_ERROR };
        // The structure was read from there just now; if it is gone the guest has nothing to look at.
        let _ = self.memory.write_slice(&result.to_be_bytes(), GuestAddress(address));
    }

    fn copy_out(&mut self, target: u64, length: u32) -> bool {
        const ZEROS: [u8; 4096] = [0; 4096];
        let start = self.at.min(self.item(self.selected).len());
        let bytes = &self.item(self.selected)[start..];
        let bytes = &bytes[..bytes.len().min(length as usize)];
        let mut done = self.memory.write_slice(bytes, GuestAddress(target)).is_ok();
        let mut behind = bytes.len() as u64;
        while done && behind < length.into() {
            let zeros = &ZEROS[..ZEROS.len().min((u64::from(length) - behind) as usize)];
            let place = target.checked_add(behind);
            done = place.is_some_and(|place| self.memory.write_slice(zeros, GuestAddress(place)).is_ok());
            behind += zeros.len() as u64;
        }
        self.at = self.at.saturating_add(length as usize);
        done
    }
}

impl Device for FwCfg {
    fn reset(&mut self) {
        (self.selected, self.at, self.dma_high) = (0, 0, 0);
    }

    fn read(&mut self, offset: u64, width: usize) -> u64 {
        match offset {
            DATA => (0..width).fold(0, |value, at| value | u64::from(self.next()) << (8 * at)),
            DMA.. => {
                // The register's first port holds its highest byte.
                let bytes = DMA_SIGNATURE.to_be_bytes();
                let first = (offset - DMA) as usize;
                bytes
                    .iter()
                    .skip(first)
                    .take(width)
                    .enumerate()
                    .fold(0, |all, (at, byte)| all | u64::from(*byte) << (8 * at))
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        match (offset, width) {
            (SELECTOR, 2) => self.select(value as u16),
            (DMA, 4) => self.dma_high = (value as u32).swap_bytes(),
            (DMA, 8) => self.transfer(value.swap_bytes()),
            (8, 4) => {
                let high = core::mem::take(&mut self.dma_high);
                self.transfer(u64::from(high) << 32 | u64::from((value as u32).swap_bytes()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> FwCfg {
        let memory = Map::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        let mut device = FwCfg::new(memory);
        device.add_file("etc/one", b"first".to_vec());
        device.add_file("etc/two", (0..=255).collect());
        device
    }

    fn read(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(SELECTOR, 2, key.into());
        (0..length).map(|_| device.read(DATA, 1) as u8).collect()
    }

    fn request(device: &mut FwCfg, control: u32, length: u32, target: u64) -> u32 {
        let bytes = [&control.to_be_bytes()[..], &length.to_be_bytes(), &target.to_be_bytes()].concat();
        device.memory.write_slice(&bytes, GuestAddress(0x100)).unwrap();
        device.write(4, 4, 0);
        device.write(8, 4, u64::from(0x100u32.swap_bytes()));
        u32::from_be(device.memory.read_obj(GuestAddress(0x100)).unwrap())
    }

    #[test]
    fn the_directory_names_every_file() {
        let mut device = device();
        assert_eq!(read(&mut device, 0, 6), *b"QEMU\0\0");
        let directory = read(&mut device, key::DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..4], 2u32.to_be_bytes());
        let entry = &directory[4 + 64..];
        assert_eq!((&entry[..4], &entry[4..6], &entry[8..16]), (&[0, 0, 1, 0][..], &[0, 0x21][..], &b"etc/two\0"[..]));
        assert_eq!(read(&mut device, 0x20, 7), *b"first\0\0");
    }

    #[test]
    fn dma_selects_skips_and_reads() {
        let mut device = device();
        assert_eq!(device.read(4, 4) as u32, u32::from_le_bytes(*b"QEMU"));
        assert_eq!(request(&mut device, 0x21 << 16 | DMA_SELECT | DMA_SKIP, 250, 0), 0);
        assert_eq!(request(&mut device, DMA_READ, 8, 0x200), 0);
        let mut got = [1; 9];
        device.memory.read_slice(&mut got, GuestAddress(0x200)).unwrap();
        assert_eq!(got, [250, 251, 252, 253, 254, 255, 0, 0, 0]);
    }

    #[test]
    fn what_dma_cannot_do_is_an_error_and_no_more() {
        let mut device = device();
        assert_eq!(request(&mut device, 0x20 << 16 | DMA_SELECT | DMA_READ, 5, 0x3ffe), DMA_ERROR);
        assert_eq!(request(&mut device, 0x20 << 16 | DMA_SELECT | DMA_READ, u32::MAX, 0x200), DMA_ERROR);
        assert_eq!(request(&mut device, 0x20 << 16 | DMA_SELECT | DMA_READ, 9, u64::MAX - 6), DMA_ERROR);
        assert_eq!(request(&mut device, 0x20 << 16 | DMA_SELECT | DMA_WRITE, 5, 0x200), DMA_ERROR);
        device.write(8, 4, u64::from(0x9000u32.swap_bytes()));
        device.write(4, 8, u64::MAX);
    }
}
