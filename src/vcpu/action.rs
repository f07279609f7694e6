//! What an exit means, decided without doing anything.

use super::exits;
use crate::kvm::{Direction, Exit};
use crate::machine::ranges::{RangeKind, Space};
use crate::machine::rules::Rules;
use outboard_wire::limits::MAX_STRING;

/// An access of the guest outside of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Address space.
    pub space: Space,
    /// First address.
    pub address: u64,
    /// Direction.
    pub is_write: bool,
    /// Bytes of one item: 1, 2 or 4 for port I/O, 1 to 8 for memory.
    pub width: u8,
    /// Bytes altogether; more than the width for string I/O.
    pub length: u32,
}

/// What the vCPU thread does about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the plugin and wait for its answer.
    Deliver(Access),
    /// Post the write and run on.
    Post(Access),
    /// Nobody claims the address: a write is dropped, a read gives this byte.
    Unclaimed(Access, u8),
    /// Tell the plugin of an exit that is no access, and wait for its answer; see [`super::exits`].
    Tell,
    /// Nobody wants to be told any more of what the guest asks for: it is refused to the guest.
    Refuse,
    /// Nothing to do.
    RunOn,
    /// The guest ended.
    End,
}

/// Decides on an exit by the rules.
#[inline]
pub fn decide(exit: &Exit, rules: &Rules) -> Action {
    let access = match exit {
        Exit::Io(io) => Access {
            space: Space::Port,
            address: u64::from(io.port),
            is_write: io.direction == Direction::Out,
            width: io.size,
            length: u32::from(io.size).saturating_mul(io.count),
        },
        Exit::Mmio(mmio) => Access {
            space: Space::Mmio,
            address: mmio.phys_addr,
            is_write: mmio.is_write,
            width: mmio.len.min(8) as u8,
            length: mmio.len.min(8),
        },
        Exit::Intr | Exit::IrqWindowOpen => return Action::RunOn,
        _ => return exits::decide(exit, rules.subscribed),
    };
    if access.length as usize > MAX_STRING {
        // KVM hands out a page at most (api.rst, KVM_EXIT_IO); more would be a KVM that this version does not know.
        return Action::End;
    }
    match rules.ranges.find(access.space, access.address) {
        Some(RangeKind::Synchronous) => Action::Deliver(access),
        Some(RangeKind::Posted | RangeKind::PostedWrites) if access.is_write => Action::Post(access),
        Some(RangeKind::PostedWrites) => Action::Deliver(access),
        _ => Action::Unclaimed(access, rules.unclaimed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{Mmio, PortIo};

    fn rules() -> Rules {
        let mut rules = Rules { unclaimed: 0xff, ..Rules::default() };
        rules.ranges.reserve(Space::Port, 0x10, 4, RangeKind::Synchronous).unwrap();
        rules.ranges.reserve(Space::Port, 0x20, 4, RangeKind::Posted).unwrap();
        rules.ranges.reserve(Space::Port, 0x30, 4, RangeKind::PostedWrites).unwrap();
        rules.ranges.reserve(Space::Mmio, 0x1000, 8, RangeKind::Synchronous).unwrap();
        rules
    }

    fn io(direction: Direction, port: u16, size: u8, count: u32) -> Exit {
        Exit::Io(PortIo { direction, size, port, count, data_offset: 4096 })
    }

    #[test]
    fn string_io_is_one_access() {
        let Action::Deliver(access) = decide(&io(Direction::Out, 0x10, 2, 500), &rules()) else { panic!() };
        assert_eq!((access.width, access.length, access.is_write), (2, 1000, true));
    }

    #[test]
    fn only_the_first_address_counts() {
        assert!(matches!(decide(&io(Direction::In, 0x13, 4, 1), &rules()), Action::Deliver(_)));
        assert!(matches!(decide(&io(Direction::In, 0xf, 4, 1), &rules()), Action::Unclaimed(_, 0xff)));
    }

    #[test]
    fn posted_ranges_take_writes_only() {
        assert!(matches!(decide(&io(Direction::Out, 0x20, 1, 1), &rules()), Action::Post(_)));
        assert!(matches!(decide(&io(Direction::In, 0x20, 1, 1), &rules()), Action::Unclaimed(..)));
    }

    #[test]
    fn writes_alone_can_be_posted() {
        assert!(matches!(decide(&io(Direction::Out, 0x30, 1, 1), &rules()), Action::Post(_)));
        assert!(matches!(decide(&io(Direction::In, 0x30, 1, 1), &rules()), Action::Deliver(_)));
    }

    #[test]
    fn memory_accesses_go_by_their_own_space() {
        let mmio = |phys_addr| Exit::Mmio(Mmio { phys_addr, data: [0; 8], len: 8, is_write: false });
        assert!(matches!(decide(&mmio(0x1000), &rules()), Action::Deliver(_)));
        assert!(matches!(decide(&mmio(0x10), &rules()), Action::Unclaimed(..)));
    }

    #[test]
    fn what_nobody_serves_ends_the_guest() {
        assert_eq!(decide(&Exit::Shutdown, &rules()), Action::End);
        assert_eq!(decide(&Exit::Hlt, &rules()), Action::End);
        assert_eq!(decide(&Exit::Other(77), &rules()), Action::End);
        assert_eq!(decide(&Exit::Intr, &rules()), Action::RunOn);
    }
}
