//! What an exit means, decided without doing anything.

use crate::kvm::{Access, Space};
use crate::machine::ranges::RangeKind;
use crate::machine::rules::Rules;
use outboard_wire::line::{Event, FLAG_MMIO, event_kind};

/// What the vCPU thread does about an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the plugin and wait for its answer. The number is the range's place in the counters.
    Deliver(u16),
    /// Post the write and run on; likewise.
    Post(u16),
    /// Nobody claims the address: a write is dropped, a read gives this byte.
    Unclaimed(u8),
}

/// Decides on an access by the rules.
#[inline]
pub fn decide(access: &Access, rules: &Rules) -> Action {
    match rules.ranges.find(access.space, access.address) {
        Some((RangeKind::Synchronous, place)) => Action::Deliver(place),
        Some((RangeKind::Posted | RangeKind::PostedWrites, place)) if access.is_write => Action::Post(place),
        Some((RangeKind::PostedWrites, place)) => Action::Deliver(place),
        _ => Action::Unclaimed(rules.unclaimed),
    }
}

/// The event that tells of an access, but for its data: the guest left at this moment, on this CPU.
#[inline]
pub fn event(access: &Access, tsc: u64, cpu: u32) -> Event {
    Event {
        kind: if access.is_write { event_kind::WRITE } else { event_kind::READ },
        flags: if access.space == Space::Mmio { FLAG_MMIO } else { 0 },
        width: access.width,
        length: access.length,
        address: access.address,
        tsc,
        cpu,
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let mut rules = Rules { unclaimed: 0xff, ..Rules::default() };
        rules.ranges.reserve(Space::Port, 0x10, 4, RangeKind::Synchronous).unwrap();
        rules.ranges.reserve(Space::Port, 0x20, 4, RangeKind::Posted).unwrap();
        rules.ranges.reserve(Space::Port, 0x30, 4, RangeKind::PostedWrites).unwrap();
        rules.ranges.reserve(Space::Mmio, 0x1000, 8, RangeKind::Synchronous).unwrap();
        rules
    }

    fn port(address: u64, is_write: bool) -> Access {
        Access::new(Space::Port, address, is_write, 4, 1)
    }

    #[test]
    fn only_the_first_address_counts() {
        assert_eq!(decide(&port(0x13, false), &rules()), Action::Deliver(0));
        assert_eq!(decide(&port(0xf, false), &rules()), Action::Unclaimed(0xff));
    }

    #[test]
    fn posted_ranges_take_writes_only() {
        assert_eq!(decide(&port(0x20, true), &rules()), Action::Post(1));
        assert_eq!(decide(&port(0x20, false), &rules()), Action::Unclaimed(0xff));
    }

    #[test]
    fn writes_alone_can_be_posted() {
        assert_eq!(decide(&port(0x30, true), &rules()), Action::Post(2));
        assert_eq!(decide(&port(0x30, false), &rules()), Action::Deliver(2));
    }

    #[test]
    fn memory_accesses_go_by_their_own_space() {
        let mmio = |address| Access::new(Space::Mmio, address, false, 8, 1);
        assert_eq!(decide(&mmio(0x1000), &rules()), Action::Deliver(3));
        assert_eq!(decide(&mmio(0x10), &rules()), Action::Unclaimed(0xff));
    }
}
