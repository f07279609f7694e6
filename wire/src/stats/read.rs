//! The reader's side: a snapshot of all counters, taken with plain reads of the file.
//!
//! Reading instead of mapping has two advantages: pages that nothing was counted in stay without memory, and a file that
//! is not what it claims to be can do no harm. Every number in it is checked or harmless.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::buckets::{BUCKETS, Histogram, LINEAR, OCTAVES, PARTS, Part, SUB};
use super::cell::{CELLS, Cell, INSIDE, Kind, Meaning, SLOTS, event_name};
use super::{BUCKETS_AT, CellBuckets, MAGIC, MAX_NAME, MAX_PATH, RANGES_AT, STRIDE, VCPU_AT, VERSION, state};
use crate::limits::MAX_VCPUS;
use crate::spin::WaitCounts;

/// Why a file cannot be read as counters.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It does not begin with the magic number.
    #[error("it holds no counters of an outboard VM")]
    Foreign,
    /// It is of another version.
    #[error(
        "its counters have layout version {0}, this program reads version {VERSION}; use the one of the same release"
    )]
    Version(u64),
    /// A number in it cannot be.
    #[error("its counters are damaged: {0} is {1}")]
    Damaged(&'static str, u64),
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the VM says about itself. Texts are cleaned of control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    /// Number of vCPUs.
    pub vcpus: usize,
    /// Process id in the VMM's own pid namespace.
    pub pid: u32,
    /// Frequency of the TSC in kHz, not zero.
    pub tsc_khz: u64,
    /// TSC at the start.
    pub start_tsc: u64,
    /// Nanoseconds since 1970 at the start.
    pub start_time: u64,
    /// One of [`state`].
    pub state: u64,
    /// Name of the VM, often empty.
    pub name: String,
    /// Path of the plugin; empty for the embedded machine.
    pub path: String,
}

impl Vm {
    /// The state as a word.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            state::STARTING => "starting",
            state::RUNNING => "running",
            state::PAUSED => "paused",
            state::ENDED => "ended",
            _ => "unknown",
        }
    }
}

/// A reserved range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// In the MMIO space, else in the port space.
    pub mmio: bool,
    /// Writes are posted.
    pub posted: bool,
    /// Released since.
    pub released: bool,
    /// Stands for all ranges without a place of their own; the addresses mean nothing.
    pub further: bool,
    /// First address.
    pub start: u64,
    /// Number of addresses.
    pub length: u64,
}

/// The counts of a cell. Times are TSC ticks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Exits.
    pub count: u64,
    /// Sums of the parts, by [`Part`].
    pub sums: [u64; PARTS],
    /// Largest plugin part.
    pub max_plugin: u64,
    /// Largest whole.
    pub max: u64,
    /// Histograms of the parts, by [`Part`].
    pub parts: [Histogram; PARTS],
}

impl Counts {
    /// The histogram of a part.
    pub fn part(&self, part: Part) -> &Histogram {
        &self.parts[part as usize]
    }

    /// Mean of a part in ticks; 0 if there is none.
    pub fn mean(&self, part: Part) -> u64 {
        self.sums[part as usize] / self.part(part).count().max(1)
    }

    /// Adds other counts.
    pub fn merge(&mut self, other: &Counts) {
        self.count = self.count.wrapping_add(other.count);
        self.max_plugin = self.max_plugin.max(other.max_plugin);
        self.max = self.max.max(other.max);
        self.sums.iter_mut().zip(other.sums).for_each(|(sum, more)| *sum = sum.wrapping_add(more));
        self.parts.iter_mut().zip(&other.parts).for_each(|(part, more)| part.merge(more));
    }

    /// What was counted since an earlier state.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            count: self.count.saturating_sub(earlier.count),
            sums: core::array::from_fn(|part| self.sums[part].saturating_sub(earlier.sums[part])),
            max_plugin: self.max_plugin,
            max: self.max,
            parts: core::array::from_fn(|part| self.parts[part].since(&earlier.parts[part])),
        }
    }
}

/// The counts of a vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vcpu {
    /// Linux thread id; 0 if it does not run.
    pub thread: u64,
    /// `KVM_RUN` calls that a signal ended.
    pub interrupted: u64,
    /// How waits for the plugin went.
    pub waits: WaitCounts,
    /// Trace records that found no room.
    pub dropped: u64,
    /// Cells with something in them.
    pub cells: BTreeMap<Cell, Counts>,
}

/// Everything, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The VM.
    pub vm: Vm,
    /// Its ranges by place; empty places are `None`.
    pub ranges: Vec<Option<Range>>,
    /// Its vCPUs.
    pub vcpus: Vec<Vcpu>,
}

impl Snapshot {
    /// Reads all counters.
    ///
    /// # Errors
    /// A [`ReadError`] if the file is none of this layout, or cannot be read.
    pub fn read(file: &File) -> Result<Snapshot, ReadError> {
        let vm = read_vm(file)?;
        let ranges = words(file, RANGES_AT, SLOTS * 4)?.chunks_exact(4).map(range).collect();
        let vcpus = (0..vm.vcpus).map(|vcpu| read_vcpu(file, vcpu * STRIDE)).collect::<Result<_, _>>()?;
        Ok(Snapshot { vm, ranges, vcpus })
    }

    /// What kind of exit a cell counts; `None` for time in `KVM_RUN`.
    pub fn kind(&self, cell: Cell) -> Option<Kind> {
        match cell.meaning() {
            Meaning::Inside => None,
            Meaning::Unclaimed => Some(Kind::Unclaimed),
            Meaning::Pause => Some(Kind::Pause),
            Meaning::Refused | Meaning::Event(_) => Some(Kind::Other),
            Meaning::Range { slot, is_write, is_string } => {
                let range = self.ranges.get(usize::from(slot)).copied().flatten();
                let (mmio, posted) = range.map_or((false, false), |range| (range.mmio, range.posted));
                Some(Kind::of_access(mmio, posted, is_write, is_string))
            }
        }
    }

    /// A name for what a cell counts, without its range.
    pub fn name(&self, cell: Cell) -> &'static str {
        match (cell.meaning(), self.kind(cell)) {
            (Meaning::Event(kind), _) => event_name(kind),
            (Meaning::Refused, _) => "refused exit",
            (_, Some(kind)) => kind.name(),
            (_, None) => "in KVM_RUN",
        }
    }

    /// The range whose accesses a cell counts.
    pub fn range(&self, cell: Cell) -> Option<Range> {
        let Meaning::Range { slot, .. } = cell.meaning() else { return None };
        self.ranges.get(usize::from(slot)).copied().flatten()
    }

    /// The cells of all vCPUs, added up.
    pub fn cells(&self) -> BTreeMap<Cell, Counts> {
        let mut sums: BTreeMap<Cell, Counts> = BTreeMap::new();
        for (cell, counts) in self.vcpus.iter().flat_map(|vcpu| &vcpu.cells) {
            sums.entry(*cell).or_default().merge(counts);
        }
        sums
    }

    /// The counts by kind of exit, of all vCPUs.
    pub fn kinds(&self) -> BTreeMap<Kind, Counts> {
        let mut sums: BTreeMap<Kind, Counts> = BTreeMap::new();
        for (cell, counts) in self.vcpus.iter().flat_map(|vcpu| &vcpu.cells) {
            if let Some(kind) = self.kind(*cell) {
                sums.entry(kind).or_default().merge(counts);
            }
        }
        sums
    }

    /// Time in `KVM_RUN`, of all vCPUs.
    pub fn inside(&self) -> Counts {
        let mut sum = Counts::default();
        self.vcpus.iter().filter_map(|vcpu| vcpu.cells.get(&INSIDE)).for_each(|counts| sum.merge(counts));
        sum
    }

    /// How all waits went.
    pub fn waits(&self) -> WaitCounts {
        self.vcpus.iter().fold(WaitCounts::default(), |sum, vcpu| WaitCounts {
            spun: sum.spun.wrapping_add(vcpu.waits.spun),
            slept: sum.slept.wrapping_add(vcpu.waits.slept),
            wakes: sum.wakes.wrapping_add(vcpu.waits.wakes),
            ring_full: sum.ring_full.wrapping_add(vcpu.waits.ring_full),
        })
    }

    /// What was counted since an earlier snapshot of the same VM.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let mut since = self.clone();
        for (vcpu, then) in since.vcpus.iter_mut().zip(&earlier.vcpus) {
            vcpu.interrupted = vcpu.interrupted.saturating_sub(then.interrupted);
            vcpu.dropped = vcpu.dropped.saturating_sub(then.dropped);
            vcpu.waits = WaitCounts {
                spun: vcpu.waits.spun.saturating_sub(then.waits.spun),
                slept: vcpu.waits.slept.saturating_sub(then.waits.slept),
                wakes: vcpu.waits.wakes.saturating_sub(then.waits.wakes),
                ring_full: vcpu.waits.ring_full.saturating_sub(then.waits.ring_full),
            };
            for (cell, counts) in &mut vcpu.cells {
                if let Some(then) = then.cells.get(cell) {
                    *counts = counts.since(then);
                }
            }
            vcpu.cells.retain(|_, counts| counts.count > 0);
        }
        since
    }
}

fn words(file: &File, at: usize, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, at as u64)?;
    Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
}

fn text(file: &File, at: usize, length: u64, limit: usize) -> io::Result<String> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(limit).min(limit)];
    file.read_exact_at(&mut bytes, at as u64)?;
    Ok(String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect())
}

/// Reads what the VM says about itself.
///
/// # Errors
/// As [`Snapshot::read`].
pub fn read_vm(file: &File) -> Result<Vm, ReadError> {
    let head = words(file, 0, 16).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Foreign,
        _ => error.into(),
    })?;
    if head[0] != MAGIC {
        return Err(ReadError::Foreign);
    }
    if head[1] != VERSION {
        return Err(ReadError::Version(head[1]));
    }
    for (name, got, good) in [("the stride", head[2], STRIDE), ("cells", head[4], CELLS), ("slots", head[5], SLOTS)] {
        if got != good as u64 {
            return Err(ReadError::Damaged(name, got));
        }
    }
    let vcpus = usize::try_from(head[3]).ok().filter(|vcpus| (1..=MAX_VCPUS).contains(vcpus));
    Ok(Vm {
        vcpus: vcpus.ok_or(ReadError::Damaged("the number of vCPUs", head[3]))?,
        pid: head[6] as u32,
        tsc_khz: head[7].max(1),
        start_tsc: head[8],
        start_time: head[9],
        state: head[10],
        name: text(file, 0x80, head[11], MAX_NAME)?,
        path: text(file, 0x80 + MAX_NAME, head[12], MAX_PATH)?,
    })
}

fn range(words: &[u64]) -> Option<Range> {
    let head = words[2];
    let space = head & 0xff;
    (1..=3).contains(&space).then_some(Range {
        mmio: space == 2,
        posted: head >> 8 & 0xff == 1,
        released: head >> 16 & 1 == 1,
        further: space == 3,
        start: words[0],
        length: words[1],
    })
}

fn read_vcpu(file: &File, at: usize) -> Result<Vcpu, ReadError> {
    let head = words(file, at + VCPU_AT, 8 * (1 + CELLS))?;
    let (own, sums) = head.split_at(8);
    let waits = WaitCounts { spun: own[2], slept: own[3], wakes: own[4], ring_full: own[5] };
    let mut vcpu = Vcpu { thread: own[0], interrupted: own[1], waits, dropped: own[6], cells: BTreeMap::new() };
    for (number, sums) in sums.chunks_exact(8).enumerate().filter(|(_, sums)| sums[0] > 0) {
        let Some(cell) = Cell::from_number(number) else { continue };
        let buckets = words(file, at + BUCKETS_AT + number * size_of::<CellBuckets>(), size_of::<CellBuckets>() / 8)?;
        vcpu.cells.insert(cell, counts(sums, &buckets));
    }
    Ok(vcpu)
}

fn counts(sums: &[u64], words: &[u64]) -> Counts {
    let part = |part: usize| {
        let mut buckets = Vec::with_capacity(BUCKETS);
        buckets.extend(&words[part * LINEAR..][..LINEAR]);
        for octave in 0..OCTAVES {
            buckets.extend(&words[PARTS * (LINEAR + octave * SUB) + part * SUB..][..SUB]);
        }
        // Largest values are kept of two parts only; for the others the last bucket that holds something is the bound.
        let highest = || buckets.iter().rposition(|count| *count > 0).map_or(0, |at| super::buckets::bounds(at).1);
        let max = match part {
            1 => sums[5],
            3 => sums[6],
            _ => highest(),
        };
        Histogram::of(&buckets, max)
    };
    Counts {
        count: sums[0],
        sums: [sums[1], sums[2], sums[3], sums[4]],
        max_plugin: sums[5],
        max: sums[6],
        parts: core::array::from_fn(part),
    }
}
