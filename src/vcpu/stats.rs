//! What a vCPU thread counts: how often the guest left for what, and how long each part of it took.
//!
//! The counters lie in memory that tools read ([`outboard_wire::stats`]). What an exit took is noted when it is over and
//! counted while the plugin works on the next one, when nobody waits for this thread.

use std::sync::atomic::Ordering;

use outboard_wire::page::BlockRef;
use outboard_wire::spin::WaitCounts;
use outboard_wire::stats::cell::{Cell, INSIDE};
use outboard_wire::stats::{Sample, VcpuStats};

/// The counters of one vCPU. Times are TSC ticks.
#[derive(Debug)]
pub struct Stats {
    block: BlockRef<VcpuStats>,
    /// When the event of the exit at hand was published and its answer was seen; zero if the plugin was not asked.
    asked: (u64, u64),
    /// Noted, not counted yet.
    late: Option<Sample>,
    late_inside: Option<u64>,
}

impl Stats {
    /// Counters in a block whose bytes are all zero.
    pub fn new(block: BlockRef<VcpuStats>) -> Stats {
        Stats { block, asked: (0, 0), late: None, late_inside: None }
    }

    /// Says which thread runs the vCPU; 0 for none.
    pub fn set_thread(&self, thread: i32) {
        self.block.vcpu.thread.store(thread as u64, Ordering::Relaxed);
    }

    /// Notes when the plugin was asked and when it had answered, for the exit that is noted next.
    #[inline]
    pub fn note_asked(&mut self, published: u64, answered: u64) {
        self.asked = (published, answered);
    }

    /// Notes an exit, to be counted by [`Stats::settle`] at a moment when nobody waits for it.
    #[inline]
    pub fn note(&mut self, cell: Cell, exit: u64, entered: u64) {
        if self.late.is_some() {
            self.settle();
        }
        let (published, answered) = core::mem::take(&mut self.asked);
        self.late = Some(Sample { cell, exit, published, answered, entered });
    }

    /// Notes a time in `KVM_RUN`, likewise.
    #[inline]
    pub fn note_inside(&mut self, ticks: u64) {
        if self.late_inside.is_some() {
            self.settle();
        }
        self.late_inside = Some(ticks);
    }

    /// Says how many trace records were lost so far.
    pub fn set_dropped(&self, dropped: u64) {
        self.block.vcpu.dropped.store(dropped, Ordering::Relaxed);
    }

    /// Counts a `KVM_RUN` that a signal ended.
    #[cold]
    pub fn interrupted(&self) {
        let word = &self.block.vcpu.interrupted;
        word.store(word.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts what was noted.
    #[inline(never)]
    pub fn settle(&mut self) {
        if let Some(sample) = self.late.take() {
            self.block.count(&sample);
        }
        if let Some(ticks) = self.late_inside.take() {
            self.block.count(&Sample { cell: INSIDE, exit: 0, published: 0, answered: 0, entered: ticks });
        }
    }

    /// Counts what was noted, and takes over how waits for the plugin went.
    #[inline]
    pub fn settle_with(&mut self, waits: &WaitCounts) {
        self.settle();
        self.block.set_waits(waits);
    }
}
