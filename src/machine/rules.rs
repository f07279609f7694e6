//! What the vCPU threads need to know of the machine at every exit, as one snapshot.
//!
//! The control thread changes the rules, the vCPU threads read them. A change publishes a new snapshot; a vCPU thread keeps
//! the one it has and compares a generation number at each exit, which is one load of a line that nobody writes meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ranges::{Ranges, Space};
use outboard_wire::line::{FILE_REGS, FILES};

/// Registers travel with every access that hits exactly this space, address and direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Address space.
    pub space: Space,
    /// Address.
    pub address: u64,
    /// For writes, else for reads.
    pub on_write: bool,
    /// Which further files travel.
    pub details: Vec<HintDetail>,
}

/// The first detail that matches decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintDetail {
    /// Values that rax, rbx, rcx and rdx must have; `None` matches any.
    pub values: [Option<u64>; 4],
    /// `FILE_*` bits that travel on a match.
    pub files: u8,
}

impl Hint {
    /// True if the access is the one that the hint names.
    #[inline]
    pub fn hits(&self, space: Space, address: u64, is_write: bool) -> bool {
        (self.space, self.address, self.on_write) == (space, address, is_write)
    }

    /// All files that may travel.
    #[inline]
    pub fn all_files(&self) -> u8 {
        FILE_REGS | self.details.iter().fold(0, |files, detail| files | detail.files)
    }

    /// The files that travel when rax, rbx, rcx and rdx have these values.
    pub fn files(&self, registers: [u64; 4]) -> u8 {
        let matching = |detail: &&HintDetail| {
            detail.values.iter().zip(registers).all(|(value, register)| value.is_none_or(|value| value == register))
        };
        FILE_REGS | self.details.iter().find(matching).map_or(0, |detail| detail.files & FILES)
    }
}

/// The snapshot.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Reserved ranges.
    pub ranges: Ranges,
    /// The register hint.
    pub hint: Option<Hint>,
    /// `EXIT_*` bits: exits that the plugin wants to be told of.
    pub subscribed: u32,
    /// What a read outside of every range gives, in each byte.
    pub unclaimed: u8,
}

/// The place where the newest rules lie.
#[derive(Debug, Default)]
pub struct RulesCell {
    generation: AtomicU64,
    newest: Mutex<Arc<Rules>>,
}

impl RulesCell {
    /// Replaces the rules. A vCPU that leaves the guest after this returned goes by the new ones.
    pub fn publish(&self, rules: Rules) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn newest(&self) -> Arc<Rules> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A vCPU thread's view of the rules.
#[derive(Debug)]
pub struct RulesView {
    cell: Arc<RulesCell>,
    generation: u64,
    rules: Arc<Rules>,
}

impl RulesView {
    /// A view that begins with the rules of this moment.
    pub fn new(cell: Arc<RulesCell>) -> RulesView {
        let generation = cell.generation.load(Ordering::Acquire);
        let rules = cell.newest();
        RulesView { cell, generation, rules }
    }

    /// The rules that hold now.
    #[inline]
    pub fn current(&mut self) -> &Arc<Rules> {
        let generation = self.cell.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.rules = self.cell.newest();
        }
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::ranges::RangeKind;
    use outboard_wire::line::FILE_SREGS;

    #[test]
    fn a_view_sees_what_was_published() {
        let cell = Arc::new(RulesCell::default());
        let mut view = RulesView::new(Arc::clone(&cell));
        assert_eq!(view.current().ranges.find(Space::Port, 1), None);
        let mut rules = Rules::default();
        rules.ranges.reserve(Space::Port, 1, 1, RangeKind::Posted).unwrap();
        cell.publish(rules);
        assert_eq!(view.current().ranges.find(Space::Port, 1), Some((RangeKind::Posted, 0)));
    }

    #[test]
    fn the_first_matching_detail_decides() {
        let detail = |rax, files| HintDetail { values: [rax, None, None, Some(4)], files };
        let hint = Hint {
            space: Space::Port,
            address: 0x510,
            on_write: true,
            details: vec![detail(Some(1), FILE_SREGS), detail(None, 0), detail(Some(2), FILE_SREGS)],
        };
        assert!(hint.hits(Space::Port, 0x510, true));
        assert!(!hint.hits(Space::Port, 0x510, false));
        assert!(!hint.hits(Space::Mmio, 0x510, true));
        assert_eq!(hint.files([1, 2, 3, 4]), FILE_REGS | FILE_SREGS);
        assert_eq!(hint.files([2, 2, 3, 4]), FILE_REGS, "the second detail matches first");
        assert_eq!(hint.files([1, 2, 3, 5]), FILE_REGS, "no detail matches");
    }
}
