//! Which device an access belongs to: pure routing, and the count of what went where.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_plugin::Space;

use crate::host::Access;

/// An access of the guest.
#[derive(Clone, Copy, Debug)]
pub struct Cycle {
    /// Address space.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// Bytes of an item, 1 to 8.
    pub width: usize,
    /// The TSC when the guest left for it.
    pub tsc: u64,
}

/// Something that answers the guest's accesses.
///
/// `offset` counts from the first address of the range that the device was put at. `width` is 1, 2 or 4 bytes, in memory
/// also 8.
pub trait Device: Send {
    /// The guest reads. Bytes of the result above `width` do not count.
    fn read(&mut self, offset: u64, width: usize) -> u64;

    /// The guest writes. Bytes of `value` above `width` are zero.
    fn write(&mut self, offset: u64, width: usize, value: u64);

    /// The guest left for the accesses that follow at this TSC. A device that tells the time takes it from here.
    fn moment(&mut self, _tsc: u64) {}

    /// The machine is reset.
    fn reset(&mut self) {}
}

/// A device whose registers are one byte each. A wider access is one of each byte in turn, as on the ISA bus.
pub trait ByteDevice: Send {
    /// The guest reads a register.
    fn read(&mut self, register: u64) -> u8;

    /// The guest writes a register.
    fn write(&mut self, register: u64, value: u8);

    /// As [`Device::moment`].
    fn moment(&mut self, _tsc: u64) {}

    /// As [`Device::reset`].
    fn reset(&mut self) {}
}

/// Puts a device of bytes on the bus.
#[derive(Debug)]
pub struct Bytewise<T>(pub T);

impl<T: ByteDevice> Device for Bytewise<T> {
    fn read(&mut self, offset: u64, width: usize) -> u64 {
        (0..width as u64).fold(0, |value, at| value | u64::from(self.0.read(offset + at)) << (8 * at))
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        for at in 0..width as u64 {
            self.0.write(offset + at, (value >> (8 * at)) as u8);
        }
    }

    fn moment(&mut self, tsc: u64) {
        self.0.moment(tsc);
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

/// A device that its range and others share.
pub type Shared = Arc<Mutex<dyn Device>>;

/// Takes a device's lock. A device that panicked is used on: the process ends on a panic.
pub fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A range and whose it is.
struct Place {
    space: Space,
    range: Range<u64>,
    access: Access,
    name: &'static str,
    device: Shared,
    /// Reads and writes so far.
    counts: [AtomicU64; 2],
}

/// A range of ports whose place the guest chooses.
struct Movable {
    /// Its first port; 0 while it has none.
    base: Arc<AtomicU64>,
    length: u64,
    name: &'static str,
    device: Shared,
    counts: [AtomicU64; 2],
}

/// All devices by their addresses.
#[derive(Default)]
pub struct Bus {
    /// Sorted by space and address, without overlap.
    places: Vec<Place>,
    movable: Vec<Movable>,
    /// Reads and writes of ports that nobody has.
    nobody: Mutex<BTreeMap<u64, [u64; 2]>>,
}

/// How often a device was read and written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Space and addresses.
    pub space: Space,
    /// Addresses.
    pub range: Range<u64>,
    /// The device; `nobody` for ports without one.
    pub name: &'static str,
    /// The guest did not wait for its writes.
    pub posted: bool,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

impl Bus {
    /// Puts a device to a range. Ranges are the machine's own and do not overlap.
    pub fn add(&mut self, name: &'static str, space: Space, range: Range<u64>, access: Access, device: &Shared) {
        let at = self.places.partition_point(|place| (place.space, place.range.start) < (space, range.start));
        let place = Place { space, range, access, name, device: Arc::clone(device), counts: Default::default() };
        self.places.insert(at, place);
    }

    /// Puts a device to `length` ports from `base` on, which may change; 0 is nowhere.
    pub fn add_movable(&mut self, name: &'static str, base: Arc<AtomicU64>, length: u64, device: &Shared) {
        self.movable.push(Movable { base, length, name, device: Arc::clone(device), counts: Default::default() });
    }

    /// The ranges to ask the host for. All ports are among them, so that a device may move and the report is whole.
    pub fn reservations(&self) -> Vec<(Space, Range<u64>, Access)> {
        let mut wanted = Vec::new();
        let mut next = 0;
        for place in &self.places {
            if place.space == Space::Port {
                if next < place.range.start {
                    wanted.push((Space::Port, next..place.range.start, Access::Synchronous));
                }
                next = place.range.end;
            }
            wanted.push((place.space, place.range.clone(), place.access));
        }
        if next < 0x1_0000 {
            wanted.push((Space::Port, next..0x1_0000, Access::Synchronous));
        }
        wanted
    }

    /// The guest reads `items` of the cycle's width: calls `take` with a source of them.
    pub fn read(&self, cycle: Cycle, items: u64, take: impl FnOnce(&mut dyn FnMut() -> u64)) {
        let Cycle { space, address, width, tsc } = cycle;
        match self.find(space, address) {
            Some((device, offset, counts)) => {
                counts[0].fetch_add(items, Ordering::Relaxed);
                let mut device = lock(device);
                device.moment(tsc);
                take(&mut || device.read(offset, width));
            }
            None => {
                self.note(space, address, 0, items);
                take(&mut || u64::MAX);
            }
        }
    }

    /// The guest writes items of the cycle's width.
    pub fn write(&self, cycle: Cycle, items: impl Iterator<Item = u64>) {
        let Cycle { space, address, width, tsc } = cycle;
        match self.find(space, address) {
            Some((device, offset, counts)) => {
                let mut device = lock(device);
                device.moment(tsc);
                for value in items {
                    counts[1].fetch_add(1, Ordering::Relaxed);
                    device.write(offset, width, value);
                }
            }
            None => self.note(space, address, 1, items.count() as u64),
        }
    }

    fn find(&self, space: Space, address: u64) -> Option<(&Shared, u64, &[AtomicU64; 2])> {
        let behind = self.places.partition_point(|place| (place.space, place.range.start) <= (space, address));
        if let Some(place) = self.places[..behind].last()
            && place.space == space
            && place.range.contains(&address)
        {
            return Some((&place.device, address - place.range.start, &place.counts));
        }
        let here = |place: &&Movable| {
            let base = place.base.load(Ordering::Relaxed);
            space == Space::Port && base != 0 && (base..base + place.length).contains(&address)
        };
        let place = self.movable.iter().find(here)?;
        Some((&place.device, address - place.base.load(Ordering::Relaxed), &place.counts))
    }

    fn note(&self, space: Space, address: u64, direction: usize, items: u64) {
        if space == Space::Port {
            lock(&self.nobody).entry(address).or_default()[direction] += items;
        }
    }

    /// Resets every device, each at least once.
    pub fn reset(&self) {
        let devices = self.places.iter().map(|place| &place.device);
        for device in devices.chain(self.movable.iter().map(|place| &place.device)) {
            lock(device).reset();
        }
    }

    /// What went where, most accesses first; without what was never used.
    pub fn counts(&self) -> Vec<Count> {
        let load = |counts: &[AtomicU64; 2]| [counts[0].load(Ordering::Relaxed), counts[1].load(Ordering::Relaxed)];
        let mut all: Vec<Count> = Vec::new();
        for place in &self.places {
            let ([reads, writes], posted) = (load(&place.counts), place.access == Access::PostedWrites);
            all.push(Count { space: place.space, range: place.range.clone(), name: place.name, posted, reads, writes });
        }
        for place in &self.movable {
            let ([reads, writes], base) = (load(&place.counts), place.base.load(Ordering::Relaxed));
            let range = base..base + place.length;
            all.push(Count { space: Space::Port, range, name: place.name, posted: false, reads, writes });
        }
        for (port, [reads, writes]) in lock(&self.nobody).iter() {
            let (range, reads, writes) = (*port..port + 1, *reads, *writes);
            all.push(Count { space: Space::Port, range, name: "nobody", posted: false, reads, writes });
        }
        all.retain(|count| count.reads + count.writes > 0);
        all.sort_by_key(|count| (u64::MAX - count.reads - count.writes, count.range.start));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes what it is asked, and answers with it.
    #[derive(Default)]
    struct Echo(Vec<(u64, usize, u64)>);

    impl Device for Echo {
        fn read(&mut self, offset: u64, width: usize) -> u64 {
            offset << 8 | width as u64
        }

        fn write(&mut self, offset: u64, width: usize, value: u64) {
            self.0.push((offset, width, value));
        }
    }

    fn read(bus: &Bus, space: Space, address: u64, width: usize) -> u64 {
        let mut value = 0;
        bus.read(Cycle { space, address, width, tsc: 0 }, 1, |next| value = next());
        value
    }

    #[test]
    fn an_access_goes_to_the_range_that_holds_its_first_address() {
        let mut bus = Bus::default();
        let (one, other): (Shared, Shared) =
            (Arc::new(Mutex::new(Echo::default())), Arc::new(Mutex::new(Echo::default())));
        bus.add("other", Space::Port, 0x100..0x108, Access::PostedWrites, &other);
        bus.add("one", Space::Port, 0x60..0x61, Access::Synchronous, &one);
        bus.add("one", Space::Mmio, 0x60..0x70, Access::Synchronous, &one);
        assert_eq!(read(&bus, Space::Port, 0x60, 1), 1);
        assert_eq!(read(&bus, Space::Port, 0x61, 1), u64::MAX);
        assert_eq!(read(&bus, Space::Port, 0x107, 4), 0x704);
        assert_eq!(read(&bus, Space::Mmio, 0x6c, 8), 0xc08);
        assert_eq!(read(&bus, Space::Mmio, 0x100, 4), u64::MAX);
        let counts = bus.counts();
        assert_eq!(counts.iter().find(|count| count.name == "nobody").unwrap().range, 0x61..0x62);
        assert_eq!(counts.iter().find(|count| count.name == "other").unwrap().reads, 1);
    }

    #[test]
    fn every_port_is_asked_for_once() {
        let mut bus = Bus::default();
        let one: Shared = Arc::new(Mutex::new(Echo::default()));
        bus.add("one", Space::Port, 0x60..0x61, Access::Synchronous, &one);
        bus.add("one", Space::Port, 0x61..0x62, Access::PostedWrites, &one);
        bus.add("one", Space::Mmio, 0x1000..0x2000, Access::Synchronous, &one);
        let ports = [0..0x60, 0x60..0x61, 0x61..0x62, 0x62..0x1_0000];
        let wanted = bus.reservations();
        let got: Vec<_> =
            wanted.iter().filter(|(space, ..)| *space == Space::Port).map(|(_, range, _)| range.clone()).collect();
        assert_eq!(got, ports);
        assert_eq!(wanted.len(), 5);
    }

    #[test]
    fn a_device_moves() {
        let mut bus = Bus::default();
        let one: Shared = Arc::new(Mutex::new(Echo::default()));
        let base = Arc::new(AtomicU64::new(0));
        bus.add_movable("one", Arc::clone(&base), 0x40, &one);
        assert_eq!(read(&bus, Space::Port, 8, 4), u64::MAX);
        base.store(0x600, Ordering::Relaxed);
        assert_eq!(read(&bus, Space::Port, 0x608, 4), 0x804);
        assert_eq!(read(&bus, Space::Port, 0x640, 1), u64::MAX);
    }

    #[test]
    fn a_wide_access_to_bytes_is_one_of_each() {
        struct Registers([u8; 4]);
        impl ByteDevice for Registers {
            fn read(&mut self, register: u64) -> u8 {
                self.0.get(register as usize).copied().unwrap_or(0xff)
            }

            fn write(&mut self, register: u64, value: u8) {
                self.0[register as usize] = value;
            }
        }
        let mut device = Bytewise(Registers([0; 4]));
        device.write(1, 2, 0xabcd);
        assert_eq!(device.0.0, [0, 0xcd, 0xab, 0]);
        assert_eq!(device.read(2, 4), 0xffff_00ab);
    }
}
