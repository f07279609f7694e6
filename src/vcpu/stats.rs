//! What a vCPU thread counts: how often the guest left for what, and how long each took.

use crate::kvm::{Access, Space};
use crate::observe::histogram::Histogram;
use outboard_wire::vmm_end::WaitCounts;

/// A kind of exit in reports.
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
    /// Any other exit that the plugin was told of.
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

    /// The kind of a delivered access.
    #[inline]
    pub fn delivered(access: &Access) -> Kind {
        match (access.space, access.is_write) {
            (Space::Port, true) if access.length > u32::from(access.width) => Kind::StringWrite,
            (Space::Port, false) if access.length > u32::from(access.width) => Kind::StringRead,
            (Space::Port, true) => Kind::PortWrite,
            (Space::Port, false) => Kind::PortRead,
            (Space::Mmio, true) => Kind::MmioWrite,
            (Space::Mmio, false) => Kind::MmioRead,
        }
    }

    /// The kind of a posted write.
    #[inline]
    pub fn posted(access: &Access) -> Kind {
        if access.space == Space::Port { Kind::PortPosted } else { Kind::MmioPosted }
    }
}

/// Counts of one vCPU, or of several added up. Times are TSC ticks.
#[derive(Clone, Debug)]
pub struct Stats {
    /// From the moment the guest left to the moment before it is entered again, per kind in the order of [`Kind::ALL`].
    pub outside: [Histogram; Kind::ALL.len()],
    /// Time in `KVM_RUN`: entry, guest, exit.
    pub inside: Histogram,
    /// `KVM_RUN` calls that a signal ended.
    pub interrupted: u64,
    /// How waits for the plugin went.
    pub waits: WaitCounts,
    /// Noted, not counted yet.
    late: Option<(Kind, u64)>,
    late_inside: Option<u64>,
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            outside: core::array::from_fn(|_| Histogram::default()),
            inside: Histogram::default(),
            interrupted: 0,
            waits: WaitCounts::default(),
            late: None,
            late_inside: None,
        }
    }
}

impl Stats {
    /// Notes an exit, to be counted by [`Stats::settle`] at a moment when nobody waits for it.
    #[inline]
    pub fn note(&mut self, kind: Kind, ticks: u64) {
        if self.late.is_some() {
            self.settle();
        }
        self.late = Some((kind, ticks));
    }

    /// Notes a time in `KVM_RUN`, likewise.
    #[inline]
    pub fn note_inside(&mut self, ticks: u64) {
        if self.late_inside.is_some() {
            self.settle();
        }
        self.late_inside = Some(ticks);
    }

    /// Counts what was noted.
    #[inline(never)]
    pub fn settle(&mut self) {
        if let Some((kind, ticks)) = self.late.take() {
            self.outside[kind as usize].record(ticks);
        }
        if let Some(ticks) = self.late_inside.take() {
            self.inside.record(ticks);
        }
    }

    /// The histogram of a kind.
    pub fn of(&self, kind: Kind) -> &Histogram {
        &self.outside[kind as usize]
    }

    /// Adds the counts of another vCPU.
    pub fn merge(&mut self, other: &Stats) {
        for (sum, histogram) in self.outside.iter_mut().zip(&other.outside) {
            sum.merge(histogram);
        }
        self.inside.merge(&other.inside);
        self.interrupted += other.interrupted;
        self.waits.spun += other.waits.spun;
        self.waits.slept += other.waits.slept;
        self.waits.wakes += other.waits.wakes;
        self.waits.ring_full += other.waits.ring_full;
    }
}
