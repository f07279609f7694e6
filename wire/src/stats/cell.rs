//! What is counted apart: a cell per reserved range and direction, and some for exits that belong to no range.

use crate::line::{LAST_EVENT_KIND, event_kind};

/// Ranges with a place of their own, and one place for all others.
pub const SLOTS: usize = 128;
/// The place of all ranges that found no other.
pub const FURTHER: u16 = SLOTS as u16 - 1;
/// Cells of a vCPU.
pub const CELLS: usize = FIRST_OF_RANGES + 4 * SLOTS;

/// First cell of exits that are no accesses, in the order of their event kinds.
const FIRST_TOLD: usize = 8;
const FIRST_OF_RANGES: usize = 32;

/// Number of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell(u16);

/// Time in `KVM_RUN`: entry, guest, exit.
pub const INSIDE: Cell = Cell(0);
/// Accesses outside of every range.
pub const UNCLAIMED: Cell = Cell(1);
/// Pauses: from the beginning of each to the plugin's resume.
pub const PAUSE: Cell = Cell(2);
/// Exits that are no accesses and were answered without the plugin.
pub const REFUSED: Cell = Cell(3);

const _: () = assert!(FIRST_TOLD + LAST_EVENT_KIND as usize - (event_kind::HYPERV_CALL as usize) < FIRST_OF_RANGES);

impl Cell {
    /// The cell of an access in the range at `slot`.
    #[inline]
    pub fn of_range(slot: u16, is_write: bool, is_string: bool) -> Cell {
        let slot = slot.min(FURTHER);
        Cell((FIRST_OF_RANGES as u16 + 4 * slot) | u16::from(is_string) << 1 | u16::from(is_write))
    }

    /// The cell of an exit that is no access and that the plugin is told of: by its [`event_kind`], from `HYPERV_CALL` on.
    #[inline]
    pub fn of_event(kind: u8) -> Cell {
        let at = kind.saturating_sub(event_kind::HYPERV_CALL) as usize;
        Cell((FIRST_TOLD + at).min(FIRST_OF_RANGES - 1) as u16)
    }

    /// The cell with this number, if there is one.
    pub fn from_number(number: usize) -> Option<Cell> {
        (number < CELLS).then_some(Cell(number as u16))
    }

    /// Its number: the index in the layout.
    #[inline]
    pub fn number(self) -> usize {
        usize::from(self.0).min(CELLS - 1)
    }

    /// What it counts.
    pub fn meaning(self) -> Meaning {
        let number = self.number();
        match self {
            INSIDE => Meaning::Inside,
            UNCLAIMED => Meaning::Unclaimed,
            PAUSE => Meaning::Pause,
            _ if number >= FIRST_OF_RANGES => Meaning::Range {
                slot: ((number - FIRST_OF_RANGES) / 4) as u16,
                is_write: number & 1 != 0,
                is_string: number & 2 != 0,
            },
            _ if number >= FIRST_TOLD => Meaning::Event(event_kind::HYPERV_CALL + (number - FIRST_TOLD) as u8),
            _ => Meaning::Refused,
        }
    }
}

/// What a cell counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// [`INSIDE`]
    Inside,
    /// [`UNCLAIMED`]
    Unclaimed,
    /// [`PAUSE`]
    Pause,
    /// [`REFUSED`]
    Refused,
    /// Events of this [`event_kind`].
    Event(u8),
    /// Accesses in a range.
    Range {
        /// Its place in the table of ranges.
        slot: u16,
        /// Writes, else reads.
        is_write: bool,
        /// String instructions of more than one item, else single accesses.
        is_string: bool,
    },
}

/// A kind of exit in reports: the name that cells of several ranges share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Port read served by the plugin.
    PortRead,
    /// Port write served by the plugin.
    PortWrite,
    /// Memory read served by the plugin.
    MmioRead,
    /// Memory write served by the plugin.
    MmioWrite,
    /// String port read served by the plugin.
    StringRead,
    /// String port write served by the plugin.
    StringWrite,
    /// Port write that was posted.
    PortPosted,
    /// Memory write that was posted.
    MmioPosted,
    /// Access outside of every range.
    Unclaimed,
    /// Any other exit.
    Other,
    /// A pause: from its beginning to the plugin's resume.
    Pause,
}

impl Kind {
    /// Every kind, in the order of reports.
    pub const ALL: [Kind; 11] = [
        Kind::PortRead,
        Kind::PortWrite,
        Kind::MmioRead,
        Kind::MmioWrite,
        Kind::StringRead,
        Kind::StringWrite,
        Kind::PortPosted,
        Kind::MmioPosted,
        Kind::Unclaimed,
        Kind::Other,
        Kind::Pause,
    ];

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::PortRead => "port read",
            Kind::PortWrite => "port write",
            Kind::MmioRead => "mmio read",
            Kind::MmioWrite => "mmio write",
            Kind::StringRead => "port string read",
            Kind::StringWrite => "port string write",
            Kind::PortPosted => "port posted write",
            Kind::MmioPosted => "mmio posted write",
            Kind::Unclaimed => "unclaimed access",
            Kind::Other => "other exit",
            Kind::Pause => "pause",
        }
    }

    /// The kind of an access in a range; `posted` says that the range's writes are.
    pub fn of_access(mmio: bool, posted: bool, is_write: bool, is_string: bool) -> Kind {
        match (mmio, posted, is_string, is_write) {
            (false, true, _, true) => Kind::PortPosted,
            (true, true, _, true) => Kind::MmioPosted,
            (false, _, true, false) => Kind::StringRead,
            (false, _, true, true) => Kind::StringWrite,
            (false, _, false, false) => Kind::PortRead,
            (false, _, false, true) => Kind::PortWrite,
            (true, _, _, false) => Kind::MmioRead,
            (true, _, _, true) => Kind::MmioWrite,
        }
    }
}

/// Name of the exits that a kind of event tells of, for kinds from `HYPERV_CALL` on.
pub fn event_name(kind: u8) -> &'static str {
    match kind {
        event_kind::HYPERV_CALL => "hyper-v hypercall",
        event_kind::HYPERV_SYNIC => "hyper-v synic",
        event_kind::READ_MSR => "msr read",
        event_kind::WRITE_MSR => "msr write",
        event_kind::HALT => "halt",
        event_kind::HYPERCALL => "hypercall",
        event_kind::DEBUG => "debug",
        event_kind::IOAPIC_EOI => "ioapic eoi",
        event_kind::SYSTEM => "system event",
        _ => "other exit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_means_one_thing() {
        for slot in [0, 1, 63, FURTHER] {
            for (is_write, is_string) in [(false, false), (true, false), (false, true), (true, true)] {
                let cell = Cell::of_range(slot, is_write, is_string);
                assert_eq!(cell.meaning(), Meaning::Range { slot, is_write, is_string });
                assert_eq!(Cell::from_number(cell.number()), Some(cell));
            }
        }
        assert_eq!(Cell::of_range(u16::MAX, true, true).number(), CELLS - 1, "past the last place is the last");
        for kind in event_kind::HYPERV_CALL..=LAST_EVENT_KIND {
            assert_eq!(Cell::of_event(kind).meaning(), Meaning::Event(kind));
        }
        assert_eq!(Cell::from_number(CELLS), None);
        assert_eq!(REFUSED.meaning(), Meaning::Refused);
    }
}
