//! Which addresses belong to the plugin: pure bookkeeping, no KVM.

pub use crate::kvm::Space;
use crate::sys::errno::Errno;
use outboard_wire::limits::MAX_RANGES;
use outboard_wire::stats::cell::FURTHER;

/// How an access in a range reaches the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RangeKind {
    /// The vCPU stops until the plugin answers.
    Synchronous,
    /// Writes are posted; reads do not reach the plugin.
    Posted,
    /// Writes are posted; a read stops the vCPU until the plugin answers.
    PostedWrites,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    /// Address behind the last; never overflows, see [`Ranges::reserve`].
    end: u64,
    kind: RangeKind,
    /// Place in the table of counters.
    place: u16,
}

/// The reserved ranges of both spaces, each sorted by address and without overlap.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    port: Vec<Range>,
    mmio: Vec<Range>,
    /// Every range that ever had a place of its own in the counters, by place.
    places: Vec<(Space, u64, u64, RangeKind)>,
}

impl Ranges {
    /// The kind of the range that holds `address`, and its place in the counters.
    #[inline]
    pub fn find(&self, space: Space, address: u64) -> Option<(RangeKind, u16)> {
        let ranges = self.space(space);
        let behind = ranges.partition_point(|range| range.start <= address);
        let range = ranges[..behind].last()?;
        (address < range.end).then_some((range.kind, range.place))
    }

    /// Reserves `length` addresses from `start`.
    ///
    /// # Errors
    /// `EINVAL` if start + length is 2^64 or more or the length is zero, `EPERM` if any address is reserved already,
    /// `ENOSPC` past [`MAX_RANGES`].
    pub fn reserve(&mut self, space: Space, start: u64, length: u64, kind: RangeKind) -> Result<(), Errno> {
        let end = start.checked_add(length).filter(|end| *end > start).ok_or(Errno(libc::EINVAL))?;
        if self.port.len() + self.mmio.len() >= MAX_RANGES {
            return Err(Errno(libc::ENOSPC));
        }
        let ranges = self.space(space);
        let at = ranges.partition_point(|range| range.end <= start);
        if ranges.get(at).is_some_and(|next| next.start < end) {
            return Err(Errno(libc::EPERM));
        }
        let place = self.place(space, start, end, kind);
        self.space_mut(space).insert(at, Range { start, end, kind, place });
        Ok(())
    }

    /// The place in the counters of a range: the one it had before, a new one, or that of all further ranges.
    fn place(&mut self, space: Space, start: u64, end: u64, kind: RangeKind) -> u16 {
        let range = (space, start, end, kind);
        if let Some(place) = self.places.iter().position(|known| *known == range) {
            return place as u16;
        }
        if self.places.len() >= usize::from(FURTHER) {
            return FURTHER;
        }
        self.places.push(range);
        self.places.len() as u16 - 1
    }

    /// Releases the range of this kind that starts at `start`.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub fn release(&mut self, space: Space, start: u64, kind: RangeKind) -> Result<(), Errno> {
        let ranges = self.space_mut(space);
        let at = ranges.binary_search_by_key(&start, |range| range.start).map_err(|_| Errno(libc::ENOENT))?;
        if ranges[at].kind != kind {
            return Err(Errno(libc::ENOENT));
        }
        ranges.remove(at);
        Ok(())
    }

    fn space(&self, space: Space) -> &[Range] {
        match space {
            Space::Port => &self.port,
            Space::Mmio => &self.mmio,
        }
    }

    fn space_mut(&mut self, space: Space) -> &mut Vec<Range> {
        match space {
            Space::Port => &mut self.port,
            Space::Mmio => &mut self.mmio,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RangeKind::{Posted, Synchronous};

    const EPERM: Result<(), Errno> = Err(Errno(libc::EPERM));
    const EINVAL: Result<(), Errno> = Err(Errno(libc::EINVAL));
    const ENOENT: Result<(), Errno> = Err(Errno(libc::ENOENT));

    #[test]
    fn an_address_is_found_from_the_first_to_the_last_byte() {
        let mut ranges = Ranges::default();
        ranges.reserve(Space::Port, 0x3f8, 8, Synchronous).unwrap();
        ranges.reserve(Space::Port, 0x400, 1, Posted).unwrap();
        assert_eq!(ranges.find(Space::Port, 0x3f7), None);
        assert_eq!(ranges.find(Space::Port, 0x3f8), Some((Synchronous, 0)));
        assert_eq!(ranges.find(Space::Port, 0x3ff), Some((Synchronous, 0)));
        assert_eq!(ranges.find(Space::Port, 0x400), Some((Posted, 1)));
        assert_eq!(ranges.find(Space::Port, 0x401), None);
        assert_eq!(ranges.find(Space::Mmio, 0x3f8), None);
    }

    #[test]
    fn any_shared_address_is_an_overlap() {
        let mut ranges = Ranges::default();
        ranges.reserve(Space::Mmio, 100, 1, Synchronous).unwrap();
        assert_eq!(ranges.reserve(Space::Mmio, 0, 1000, Posted), EPERM, "a single address inside");
        assert_eq!(ranges.reserve(Space::Mmio, 100, 1, Posted), EPERM);
        assert_eq!(ranges.reserve(Space::Mmio, 99, 2, Posted), EPERM);
        assert_eq!(ranges.reserve(Space::Mmio, 99, 1, Posted), Ok(()));
        assert_eq!(ranges.reserve(Space::Mmio, 101, 1, Posted), Ok(()));
        assert_eq!(ranges.reserve(Space::Port, 100, 1, Posted), Ok(()), "the other space");
    }

    #[test]
    fn the_end_of_the_address_space_is_out_of_reach() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.reserve(Space::Mmio, u64::MAX, 1, Synchronous), EINVAL, "covers the last byte");
        assert_eq!(ranges.reserve(Space::Mmio, 2, u64::MAX, Synchronous), EINVAL);
        assert_eq!(ranges.reserve(Space::Mmio, 0, 0, Synchronous), EINVAL);
        assert_eq!(ranges.reserve(Space::Mmio, u64::MAX - 1, 1, Synchronous), Ok(()));
    }

    #[test]
    fn a_range_is_released_by_its_start_and_kind() {
        let mut ranges = Ranges::default();
        ranges.reserve(Space::Port, 8, 8, Posted).unwrap();
        assert_eq!(ranges.release(Space::Port, 9, Posted), ENOENT);
        assert_eq!(ranges.release(Space::Port, 8, Synchronous), ENOENT);
        assert_eq!(ranges.release(Space::Mmio, 8, Posted), ENOENT);
        assert_eq!(ranges.release(Space::Port, 8, Posted), Ok(()));
        assert_eq!(ranges.release(Space::Port, 8, Posted), ENOENT);
        assert_eq!(ranges.find(Space::Port, 8), None);
    }

    #[test]
    fn a_range_that_comes_back_counts_in_its_old_place() {
        let mut ranges = Ranges::default();
        ranges.reserve(Space::Port, 8, 8, Posted).unwrap();
        ranges.release(Space::Port, 8, Posted).unwrap();
        ranges.reserve(Space::Port, 8, 8, Synchronous).unwrap();
        assert_eq!(ranges.find(Space::Port, 8), Some((Synchronous, 1)), "another kind is another range");
        ranges.release(Space::Port, 8, Synchronous).unwrap();
        ranges.reserve(Space::Port, 8, 8, Posted).unwrap();
        assert_eq!(ranges.find(Space::Port, 8), Some((Posted, 0)));
        for at in 0..200 {
            ranges.reserve(Space::Mmio, at, 1, Posted).unwrap();
        }
        assert_eq!(ranges.find(Space::Mmio, 199), Some((Posted, FURTHER)));
    }

    #[test]
    fn the_number_of_ranges_is_limited() {
        let mut ranges = Ranges::default();
        for at in 0..MAX_RANGES as u64 {
            ranges.reserve(Space::Mmio, at, 1, Synchronous).unwrap();
        }
        assert_eq!(ranges.reserve(Space::Port, 0, 1, Synchronous), Err(Errno(libc::ENOSPC)));
    }
}
