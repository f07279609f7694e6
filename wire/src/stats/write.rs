//! The writer's side. Each block has one writer, so an addition is a load and a store.

use core::sync::atomic::{AtomicU64, Ordering};

use super::buckets::{PARTS, Part, Place, place};
use super::cell::{Cell, FURTHER, SLOTS};
use super::{CellBuckets, MAGIC, MAX_NAME, MAX_PATH, STRIDE, VERSION, VcpuStats};
use crate::spin::WaitCounts;

/// The moments of one exit, by the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the exit is counted as.
    pub cell: Cell,
    /// The guest left.
    pub exit: u64,
    /// The event was published; zero if the plugin was not asked.
    pub published: u64,
    /// The answer was seen; likewise.
    pub answered: u64,
    /// The guest is about to be entered again.
    pub entered: u64,
}

/// What the first block begins with.
#[derive(Clone, Debug)]
pub struct Header<'a> {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Process id of the VMM.
    pub pid: u32,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u64,
    /// TSC at the start.
    pub start_tsc: u64,
    /// Nanoseconds since 1970 at the start.
    pub start_time: u64,
    /// Name of the VM; up to [`MAX_NAME`] bytes.
    pub name: &'a str,
    /// Path of the plugin.
    pub path: &'a [u8],
}

impl VcpuStats {
    /// Fills the header in, in the first block.
    pub fn begin(&self, header: &Header<'_>) {
        let name = &header.name.as_bytes()[..header.name.len().min(MAX_NAME)];
        let path = &header.path[..header.path.len().min(MAX_PATH)];
        crate::words::store(&self.vm.name, name);
        crate::words::store(&self.vm.path, path);
        for (word, value) in [
            (&self.vm.version, VERSION),
            (&self.vm.stride, STRIDE as u64),
            (&self.vm.vcpus, header.vcpus.into()),
            (&self.vm.cells, super::CELLS as u64),
            (&self.vm.slots, SLOTS as u64),
            (&self.vm.pid, header.pid.into()),
            (&self.vm.tsc_khz, header.tsc_khz),
            (&self.vm.start_tsc, header.start_tsc),
            (&self.vm.start_time, header.start_time),
            (&self.vm.name_len, name.len() as u64),
            (&self.vm.path_len, path.len() as u64),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        self.ranges[usize::from(FURTHER)].head.store(3, Ordering::Relaxed);
        self.vm.magic.store(MAGIC, Ordering::Release);
    }

    /// Puts a range into the table of the first block.
    pub fn set_range(&self, slot: u16, mmio: bool, posted: bool, start: u64, length: u64) {
        let Some(range) = self.ranges.get(usize::from(slot)).filter(|_| slot != FURTHER) else { return };
        range.start.store(start, Ordering::Relaxed);
        range.length.store(length, Ordering::Relaxed);
        range.head.store((1 + u64::from(mmio)) | u64::from(posted) << 8, Ordering::Release);
    }

    /// Marks a range as released. Its counts stay.
    pub fn release_range(&self, slot: u16) {
        if let Some(range) = self.ranges.get(usize::from(slot)).filter(|_| slot != FURTHER) {
            range.head.store(range.head.load(Ordering::Relaxed) | 1 << 16, Ordering::Release);
        }
    }

    /// Counts an exit.
    #[inline]
    pub fn count(&self, sample: &Sample) {
        let &Sample { cell, exit, published, answered, entered } = sample;
        let (sums, buckets) = (&self.sums[cell.number()], &self.buckets[cell.number()]);
        let whole = entered.wrapping_sub(exit);
        if published != 0 {
            let parts =
                [published.wrapping_sub(exit), answered.wrapping_sub(published), entered.wrapping_sub(answered)];
            for (part, ticks) in parts.into_iter().enumerate() {
                add(&sums.sums[part], ticks);
                buckets.count(part, ticks);
            }
            raise(&sums.max_plugin, parts[Part::Plugin as usize]);
        }
        add(&sums.sums[Part::Whole as usize], whole);
        raise(&sums.max, whole);
        buckets.count(Part::Whole as usize, whole);
        add(&sums.count, 1);
    }

    /// Takes over how the waits went.
    #[inline]
    pub fn set_waits(&self, counts: &WaitCounts) {
        self.vcpu.spun.store(counts.spun, Ordering::Relaxed);
        self.vcpu.slept.store(counts.slept, Ordering::Relaxed);
        self.vcpu.wakes.store(counts.wakes, Ordering::Relaxed);
        self.vcpu.ring_full.store(counts.ring_full, Ordering::Relaxed);
    }
}

impl CellBuckets {
    #[inline]
    fn count(&self, part: usize, ticks: u64) {
        const { assert!(PARTS == 4) };
        let bucket = match place(ticks) {
            Place::Linear(at) => &self.linear[part][at],
            Place::Octave(octave, at) => &self.octaves[octave][part][at],
        };
        add(bucket, 1);
    }
}

/// Adds to a word that only this thread writes.
#[inline]
pub(crate) fn add(word: &AtomicU64, by: u64) {
    word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

#[inline]
fn raise(word: &AtomicU64, to: u64) {
    if to > word.load(Ordering::Relaxed) {
        word.store(to, Ordering::Relaxed);
    }
}
