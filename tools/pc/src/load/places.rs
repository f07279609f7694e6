//! Where in the machine's memory the parts of a guest lie: none outside of it, no two in one place.

use core::ops::Range;

use super::error::LoadError;

/// What a range of physical addresses is, by the numbers of ACPI's address range types (ACPI 6.5, table 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Memory that the guest may use.
    Ram = 1,
    /// Not for the guest's use.
    Reserved = 2,
    /// ACPI tables; memory once the guest has read them.
    AcpiTables = 3,
    /// Memory that ACPI keeps.
    AcpiStorage = 4,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRange {
    /// The address behind the last.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// The memory of a machine, and what lies in it so far.
#[derive(Debug)]
pub struct Places {
    /// Memory in ascending order, neighbours joined.
    ram: Vec<Range<u64>>,
    taken: Vec<(Range<u64>, String)>,
}

/// The real-mode interrupt table and the BIOS data area lie below this, and are left alone where an address can be chosen.
const LOWEST: u64 = 0x1000;

impl Places {
    /// Nothing lies in this memory yet.
    pub fn new(memory: &[MemoryRange]) -> Places {
        let mut ram: Vec<Range<u64>> = memory
            .iter()
            .filter(|range| range.kind == MemoryKind::Ram && range.length > 0)
            .map(|range| range.start..range.end())
            .collect();
        ram.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in ram {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Places { ram: joined, taken: Vec::new() }
    }

    /// Bytes of memory without a hole from this address on.
    pub fn ram_from(&self, start: u64) -> u64 {
        let range = self.ram.iter().find(|range| range.contains(&start));
        range.map_or(0, |range| range.end - start)
    }

    /// Puts a part at an address.
    ///
    /// # Errors
    /// [`LoadError::NoMemory`], [`LoadError::Overlap`].
    pub fn take(&mut self, start: u64, bytes: u64, what: &str) -> Result<(), LoadError> {
        if bytes == 0 {
            return Ok(());
        }
        let end = start.saturating_add(bytes);
        if !self.ram.iter().any(|ram| ram.start <= start && end <= ram.end) {
            return Err(LoadError::NoMemory { what: what.to_owned(), start, end });
        }
        if let Some((_, other)) = self.taken.iter().find(|(taken, _)| taken.start < end && start < taken.end) {
            return Err(LoadError::Overlap { what: what.to_owned(), start, end, other: other.clone() });
        }
        self.taken.push((start..end, what.to_owned()));
        Ok(())
    }

    /// Puts a part at the lowest free address from `from` on that is a multiple of `align`, ending at `below` at most.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn lowest(&mut self, bytes: u64, align: u64, from: u64, below: u64, what: &str) -> Result<u64, LoadError> {
        let behind = self.taken.iter().map(|(taken, _)| taken.end);
        let starts = behind.chain(self.ram.iter().map(|ram| ram.start)).chain([from]);
        let starts = starts.filter_map(|start| start.max(from).max(LOWEST).checked_next_multiple_of(align));
        let best = starts.filter(|start| self.fits(*start, bytes, below)).min();
        self.put(best, bytes, below, what)
    }

    /// Puts a part at the highest free address that is a multiple of `align`, ending at `below` at most.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn highest(&mut self, bytes: u64, align: u64, below: u64, what: &str) -> Result<u64, LoadError> {
        let before = self.taken.iter().map(|(taken, _)| taken.start);
        let ends = before.chain(self.ram.iter().map(|ram| ram.end)).chain([below]);
        let starts = ends.filter_map(|end| Some(end.min(below).checked_sub(bytes)? / align * align));
        let best = starts.filter(|start| *start >= LOWEST && self.fits(*start, bytes, below)).max();
        self.put(best, bytes, below, what)
    }

    fn put(&mut self, best: Option<u64>, bytes: u64, below: u64, what: &str) -> Result<u64, LoadError> {
        let start = best.ok_or_else(|| LoadError::NoRoom { what: what.to_owned(), bytes, below })?;
        self.take(start, bytes, what)?;
        Ok(start)
    }

    fn fits(&self, start: u64, bytes: u64, below: u64) -> bool {
        let Some(end) = start.checked_add(bytes) else { return false };
        end <= below
            && self.ram.iter().any(|ram| ram.start <= start && end <= ram.end)
            && !self.taken.iter().any(|(taken, _)| taken.start < end && start < taken.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ram(start: u64, end: u64) -> MemoryRange {
        MemoryRange { start, length: end - start, kind: MemoryKind::Ram }
    }

    fn places() -> Places {
        let hole = MemoryRange { start: 0x9_fc00, length: 0x400, kind: MemoryKind::Reserved };
        Places::new(&[ram(0x10_0000, 0x80_0000), ram(0, 0x9_fc00), hole, ram(0x80_0000, 0x100_0000)])
    }

    #[test]
    fn parts_stay_within_memory_and_apart() {
        let mut places = places();
        places.take(0x10_0000, 0x1000, "kernel").unwrap();
        places.take(0x7f_f000, 0x2000, "across neighbours").unwrap();
        places.take(0x9_0000, 0, "nothing").unwrap();
        let no_memory = places.take(0x9_f000, 0x1000, "module").unwrap_err().to_string();
        assert_eq!(
            no_memory,
            "cannot load module: it takes the addresses 0x9f000 to 0xa0000, and not all of that is memory of the machine; \
             give it more memory"
        );
        let overlap = places.take(0x10_0fff, 1, "module").unwrap_err().to_string();
        assert_eq!(overlap, "cannot load module: it takes the addresses 0x100fff to 0x101000, where kernel lies");
        assert!(matches!(places.take(u64::MAX, 2, "end"), Err(LoadError::NoMemory { .. })));
    }

    #[test]
    fn free_places_are_found_from_both_ends() {
        let mut places = places();
        assert_eq!(places.lowest(0x1000, 0x1000, 0, 0x10_0000, "first").unwrap(), 0x1000);
        assert_eq!(places.lowest(0x10, 8, 0, 0x10_0000, "second").unwrap(), 0x2000);
        assert_eq!(places.lowest(0x1000, 0x1000, 0, 0x10_0000, "third").unwrap(), 0x3000);
        assert_eq!(places.lowest(0x10_0000, 0x1000, 0, u64::MAX, "large").unwrap(), 0x10_0000);
        assert_eq!(places.highest(0x1234, 0x1000, u64::MAX, "last").unwrap(), 0xff_e000);
        assert_eq!(places.highest(0x1000, 0x1000, u64::MAX, "before").unwrap(), 0xff_d000);
        assert_eq!(places.highest(0x1000, 0x1000, 0x50_0800, "bounded").unwrap(), 0x4f_f000);
        let full = places.lowest(0x1000_0000, 1, 0, 1 << 32, "initrd").unwrap_err().to_string();
        assert_eq!(
            full,
            "cannot load initrd: its 268435456 bytes find no room below 0x100000000; give the machine more memory"
        );
        assert_eq!(places.ram_from(0x10_0000), 0xf0_0000);
        assert_eq!(places.ram_from(0x9_fc00), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_put_lies_in_memory_and_alone(parts in prop::collection::vec((any::<bool>(), 1u64..0x8_0000, 0u32..13), 1..40)) {
            let mut places = places();
            for (low, bytes, align) in parts {
                let align = 1 << align;
                let place = if low { places.lowest(bytes, align, 0, u64::MAX, "part") }
                    else { places.highest(bytes, align, u64::MAX, "part") };
                if let Ok(start) = place {
                    prop_assert_eq!(start % align, 0);
                }
            }
            for (at, (one, _)) in places.taken.iter().enumerate() {
                prop_assert!(places.ram.iter().any(|ram| ram.start <= one.start && one.end <= ram.end));
                prop_assert!(places.taken[..at].iter().all(|(other, _)| one.end <= other.start || other.end <= one.start));
            }
        }
    }
}
