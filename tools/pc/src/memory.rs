//! The machine's memory: what lies where in the guest's physical addresses, and the map through which devices reach it.
//!
//! ```text
//! 0          0xa0000       0xc0000                0xc0000000         4 GiB - ROM    4 GiB
//! | RAM      | display,    | RAM; the firmware's  | devices, the     | firmware     | RAM beyond
//! |          | if any      | end, up to 1 MiB     | firmware         |              | 3 GiB
//! ```
//!
//! All RAM is one memfd. Devices see it through [`Map`], the type of the crate `vm-memory`, so that libraries such as
//! `virtio-queue` work on it as they are.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use outboard_plugin::{GuestMemory, Region};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _};

use crate::emulate::PhysicalMemory;
use crate::error::PcError;
use crate::host::Host;

/// Guest memory as the libraries of the field know it.
pub type Map = GuestMemoryMmap<()>;

/// The display's memory.
pub const DISPLAY: Range<u64> = 0xa_0000..0xc_0000;
/// Where RAM ends at the latest that lies below 4 GiB.
const LOW_END: u64 = 0xc000_0000;
/// The first address behind what 32 bits reach.
pub const FOUR_GIB: u64 = 1 << 32;
/// Firmware shows as many bytes of its end below 1 MiB.
const SHADOW: u64 = 128 << 10;
const MIB: u64 = 1 << 20;

/// The machine's memory.
#[derive(Debug)]
pub struct Memory {
    /// RAM below 4 GiB, in bytes, with the display's hole in it.
    low: u64,
    /// RAM from 4 GiB on, in bytes.
    high: u64,
    ram: GuestMemory,
    map: Map,
    /// The firmware below 4 GiB, if there is one.
    rom: OnceLock<GuestMemory>,
}

impl Memory {
    /// Makes `size` bytes of RAM, a multiple of 4096 from 1 MiB on, and gives it to the guest; with `display`, the
    /// display's memory too.
    ///
    /// # Errors
    /// The system has no memory, or the host refuses it.
    pub fn new(host: &mut dyn Host, size: u64, display: bool) -> Result<Memory, PcError> {
        let low = size.min(LOW_END);
        let high = size - low;
        let ram = GuestMemory::new(usize::try_from(size).map_err(|_| PcError::MemorySize(size))?)?;
        let mut regions = vec![
            Region { length: DISPLAY.start, ..Region::default() },
            Region { offset: DISPLAY.end, start: DISPLAY.end, length: low - DISPLAY.end, ..Region::default() },
        ];
        if display {
            let length = DISPLAY.end - DISPLAY.start;
            regions.push(Region { offset: DISPLAY.start, start: DISPLAY.start, length, ..Region::default() });
        }
        if high > 0 {
            regions.push(Region { offset: low, start: FOUR_GIB, length: high, ..Region::default() });
        }
        regions.sort_by_key(|region| region.start);
        for region in &regions {
            host.add_memory(&ram, region)?;
        }
        let map = map(&ram, &regions)?;
        Ok(Memory { low, high, ram, map, rom: OnceLock::new() })
    }

    /// RAM as devices see it.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// All RAM, by its offset in the memfd: below 4 GiB that is the physical address.
    pub fn ram(&self) -> &GuestMemory {
        &self.ram
    }

    /// Bytes of RAM below 4 GiB.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// Bytes of RAM from 4 GiB on.
    pub fn high(&self) -> u64 {
        self.high
    }

    /// Copies to physical addresses.
    ///
    /// # Errors
    /// Some of them are no memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), PcError> {
        let outside = |_| PcError::OutsideMemory { address, length: bytes.len() };
        self.map.write_slice(bytes, GuestAddress(address)).map_err(outside)
    }

    /// Puts firmware to the end of the first 4 GiB, where the guest cannot write, and the end of it to the end of the
    /// first MiB, where it can.
    ///
    /// # Errors
    /// The system has no memory, or the host refuses it.
    pub fn add_firmware(&self, host: &mut dyn Host, image: &[u8]) -> Result<(), PcError> {
        let rom = GuestMemory::new(image.len())?;
        rom.write(0, image)?;
        let region = Region { start: FOUR_GIB - rom.len(), length: rom.len(), read_only: true, ..Region::default() };
        host.add_memory(&rom, &region)?;
        // A machine has one firmware.
        let _ = self.rom.set(rom);
        self.show_firmware()
    }

    /// Puts the firmware's end below 1 MiB, as it is after a reset; nothing without firmware.
    ///
    /// # Errors
    /// As [`Memory::write`].
    pub fn show_firmware(&self) -> Result<(), PcError> {
        let Some(rom) = self.rom.get() else { return Ok(()) };
        let shown = rom.len().min(SHADOW);
        let mut end = vec![0; shown as usize];
        rom.read(rom.len() - shown, &mut end)?;
        self.write(MIB - shown, &end)
    }

    /// Where in the memfd an address of RAM lies.
    fn offset(&self, address: u64, length: u64) -> Option<u64> {
        let (region, within) = self.map.to_region_addr(GuestAddress(address))?;
        if within.0 + length > region.len() {
            return None;
        }
        Some(if address < FOUR_GIB { address } else { self.low + (address - FOUR_GIB) })
    }
}

impl PhysicalMemory for Memory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        if self.map.read_slice(bytes, GuestAddress(address)).is_ok() {
            return true;
        }
        let Some(rom) = self.rom.get() else { return false };
        let start = FOUR_GIB - rom.len();
        address >= start && rom.read(address - start, bytes).is_ok()
    }

    fn write(&self, address: u64, bytes: &[u8]) -> bool {
        Memory::write(self, address, bytes).is_ok()
    }

    fn compare_exchange(&self, address: u64, current: u64, new: u64) -> Option<u64> {
        self.ram.compare_exchange(self.offset(address, 8)?, current, new).ok()
    }

    fn compare_exchange_16(&self, address: u64, current: u128, new: u128) -> Option<u128> {
        self.ram.compare_exchange_16(self.offset(address, 16)?, current, new).ok()
    }
}

/// Maps the memfd a second time, in the form of `vm-memory`.
fn map(ram: &GuestMemory, regions: &[Region]) -> Result<Map, PcError> {
    let file = |region: &Region| -> io::Result<_> {
        let file = File::from(ram.as_fd().try_clone_to_owned()?);
        let length = region.length as usize;
        Ok((GuestAddress(region.start), length, Some(FileOffset::new(file, region.offset))))
    };
    let files = regions.iter().map(file).collect::<io::Result<Vec<_>>>().map_err(PcError::MapMemory)?;
    Map::from_ranges_with_files(files).map_err(|error| PcError::MapMemory(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tests::NoHost;

    #[test]
    fn memory_beyond_3_gib_lies_above_4() {
        let mut host = NoHost::default();
        let memory = Memory::new(&mut host, 5 << 30, false).unwrap();
        assert_eq!((memory.low(), memory.high()), (3 << 30, 2 << 30));
        memory.write(0x9_fff8, &[1; 8]).unwrap();
        memory.write(FOUR_GIB + (2 << 30) - 1, &[1]).unwrap();
        for outside in [0xa_0000, LOW_END, FOUR_GIB - 1, FOUR_GIB + (2 << 30)] {
            assert!(memory.write(outside, &[1]).is_err(), "{outside:#x}");
        }
        assert!(memory.write(0x9_fffc, &[1; 8]).is_err(), "half of it is in the hole");
    }

    #[test]
    fn firmware_lies_at_both_ends() {
        let mut host = NoHost::default();
        let memory = Memory::new(&mut host, MIB, true).unwrap();
        memory.write(DISPLAY.start, &[7]).unwrap();
        let image: Vec<u8> = (0..256 << 10).map(|at: u32| (at >> 12) as u8).collect();
        memory.add_firmware(&mut host, &image).unwrap();
        assert_eq!(memory.ram().read_obj::<u8>(0xe_0000).unwrap(), 32);
        assert_eq!(memory.ram().read_obj::<u8>(0xf_ffff).unwrap(), 63);
        memory.write(0xf_fffe, &[1, 2]).unwrap();
        memory.show_firmware().unwrap();
        assert_eq!(memory.ram().read_obj::<u8>(0xf_ffff).unwrap(), 63);
        let rom = host.slots.last().unwrap();
        assert_eq!((rom.start, rom.length, rom.read_only), (FOUR_GIB - (256 << 10), 256 << 10, true));
    }
}
