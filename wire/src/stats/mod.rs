//! The counters of a running VM, in a memfd that any tool of the same user may map or read.
//!
//! The VMM makes one memfd named [`FILE_NAME`], with one [`VcpuStats`] per vCPU; the first also holds what belongs to the
//! VM as a whole. Each vCPU thread writes its own block with plain stores, no other thread does, and nobody locks. A reader
//! therefore sees each word whole and sees the words of one exit at slightly different moments.
//!
//! `PROTOCOL.md`, section 13, is the normative text of the layout.

pub mod buckets;
pub mod cell;
pub mod read;
mod write;

use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

use buckets::{LINEAR, OCTAVES, PARTS, SUB};
use cell::{CELLS, SLOTS};

pub use write::{Header, Sample};

/// Name of the memfd, as `/proc/PID/fd` shows it: `/memfd:outboard-stats (deleted)`.
pub const FILE_NAME: &str = "outboard-stats";

/// The first word: `OUTBSTAT` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"OUTBSTAT");

/// Version of the layout. A reader of another version leaves the file alone.
pub const VERSION: u64 = 1;

/// Bytes of the VM's name, at most.
pub const MAX_NAME: usize = 64;

/// Bytes of the plugin's path, at most; a longer one is cut.
pub const MAX_PATH: usize = 512;

/// Bytes from one vCPU's block to the next. Most of them are never touched and take no memory.
pub const STRIDE: usize = size_of::<VcpuStats>();

/// Values of [`VmWords::state`].
pub mod state {
    /// The plugin has not started the vCPUs.
    pub const STARTING: u64 = 0;
    /// The guest runs.
    pub const RUNNING: u64 = 1;
    /// All vCPUs stand still because the user asked for it.
    pub const PAUSED: u64 = 2;
    /// The VM has ended; nothing changes any more.
    pub const ENDED: u64 = 3;
}

/// Of the VM as a whole; only in the first block, zero in the others.
#[derive(Debug)]
#[repr(C)]
pub struct VmWords {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU64,
    /// [`STRIDE`].
    pub stride: AtomicU64,
    /// Number of vCPUs, and so of blocks.
    pub vcpus: AtomicU64,
    /// [`CELLS`].
    pub cells: AtomicU64,
    /// [`SLOTS`].
    pub slots: AtomicU64,
    /// Process id of the VMM in its own pid namespace.
    pub pid: AtomicU64,
    /// Frequency of the TSC in kHz, to turn ticks into time.
    pub tsc_khz: AtomicU64,
    /// TSC when the VM was made.
    pub start_tsc: AtomicU64,
    /// Nanoseconds since 1970 at that moment.
    pub start_time: AtomicU64,
    /// One of [`state`].
    pub state: AtomicU64,
    /// Bytes of `name`.
    pub name_len: AtomicU64,
    /// Bytes of `path`.
    pub path_len: AtomicU64,
    reserved: [AtomicU64; 3],
    /// Name of the VM, UTF-8.
    pub name: [AtomicU64; MAX_NAME / 8],
    /// Path of the plugin; empty for the embedded machine.
    pub path: [AtomicU64; MAX_PATH / 8],
    reserved2: [AtomicU64; 424],
}

/// A reserved range. It keeps its place in the table when it is released, and gets it back if it is reserved again.
#[derive(Debug)]
#[repr(C)]
pub struct RangeWords {
    /// First address.
    pub start: AtomicU64,
    /// Number of addresses.
    pub length: AtomicU64,
    /// Written last. Bits 0..=7: 0 nothing here, 1 port, 2 MMIO, 3 all ranges that found no place of their own. Bits
    /// 8..=15: 0 synchronous, 1 posted. Bit 16: released.
    pub head: AtomicU64,
    reserved: AtomicU64,
}

/// Of one vCPU, besides its cells.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct VcpuWords {
    /// Linux thread id; 0 before it runs and after it ended.
    pub thread: AtomicU64,
    /// `KVM_RUN` calls that a signal ended.
    pub interrupted: AtomicU64,
    /// Waits for the plugin that ended while spinning.
    pub spun: AtomicU64,
    /// Waits that slept.
    pub slept: AtomicU64,
    /// Times the plugin was woken.
    pub wakes: AtomicU64,
    /// Posted writes that found the ring full.
    pub ring_full: AtomicU64,
    /// Trace records that found no room.
    pub dropped: AtomicU64,
    reserved: AtomicU64,
}

/// The sums of a cell, one cache line. Times are TSC ticks.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct CellSums {
    /// Exits counted.
    pub count: AtomicU64,
    /// Sums of the parts, in the order of [`buckets::Part`].
    pub sums: [AtomicU64; PARTS],
    /// Largest plugin part.
    pub max_plugin: AtomicU64,
    /// Largest whole.
    pub max: AtomicU64,
    reserved: AtomicU64,
}

/// The four histograms of a cell, octave by octave, so that the parts of a typical exit lie in one page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct CellBuckets {
    /// Ticks below [`LINEAR`], one bucket each, part after part.
    pub linear: [[AtomicU64; LINEAR]; PARTS],
    /// From 2^6 ticks, 32 buckets per octave, part after part within each octave.
    pub octaves: [[[AtomicU64; SUB]; PARTS]; OCTAVES],
    reserved: [AtomicU64; 256],
}

/// What one vCPU counts.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct VcpuStats {
    /// The VM; first block only.
    pub vm: VmWords,
    /// The reserved ranges; first block only.
    pub ranges: [RangeWords; SLOTS],
    /// The vCPU itself.
    pub vcpu: VcpuWords,
    /// Sums of the cells: those whose count is zero have empty histograms.
    pub sums: [CellSums; CELLS],
    reserved: [AtomicU64; 248],
    /// Histograms of the cells.
    pub buckets: [CellBuckets; CELLS],
}

/// Offset of [`VcpuStats::ranges`].
pub const RANGES_AT: usize = offset_of!(VcpuStats, ranges);
/// Offset of [`VcpuStats::vcpu`]; the sums of the cells follow.
pub const VCPU_AT: usize = offset_of!(VcpuStats, vcpu);
/// Offset of [`VcpuStats::buckets`].
pub const BUCKETS_AT: usize = offset_of!(VcpuStats, buckets);

const _: () = {
    assert!(size_of::<VmWords>() == 0x1000 && offset_of!(VmWords, name) == 0x80);
    assert!(size_of::<RangeWords>() == 32 && size_of::<VcpuWords>() == 64 && size_of::<CellSums>() == 64);
    assert!(size_of::<CellBuckets>() == 0xa000 && offset_of!(CellBuckets, octaves) == 0x800);
    assert!(RANGES_AT == 0x1000 && VCPU_AT == 0x2000 && BUCKETS_AT == 0xb000);
    assert!(STRIDE == BUCKETS_AT + CELLS * 0xa000);
};
