//! A slot of the posted-write ring.
//!
//! A posted write needs no answer: the VMM writes it into the next slot and the vCPU runs on. Write number n (from 1)
//! lies in slot n mod [`POSTED_SLOTS`](crate::limits::POSTED_SLOTS) and is published by storing n into the slot's
//! sequence word, so that the writer touches one cache line and the reader polls just the slot that comes next.

use crate::sync::{AtomicU32, AtomicU64, Ordering, store_in_total_order};

#[cfg(doc)]
use crate::clock::CPU_UNKNOWN;
use crate::line::FLAG_MMIO;

/// A write of the guest that did not wait for the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostedWrite {
    /// True in the MMIO space, false in the port space.
    pub mmio: bool,
    /// Bytes written, 1 to 8.
    pub length: u8,
    /// Address of the first byte.
    pub address: u64,
    /// The value, lowest byte first; bytes past `length` are zero.
    pub data: u64,
    /// TSC when the guest left for this write.
    pub tsc: u64,
    /// CPU of the vCPU thread, or [`CPU_UNKNOWN`].
    pub cpu: u32,
}

/// One slot, 32 bytes.
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
#[repr(C, align(32))]
pub struct Slot {
    /// Number of the write that lies here, modulo 2^32.
    pub seq: AtomicU32,
    /// Flags in bits 0..=7, length in bits 8..=15, the CPU's number plus one in bits 16..=31, where 0 means unknown.
    pub head: AtomicU32,
    /// Address.
    pub address: AtomicU64,
    /// Data.
    pub data: AtomicU64,
    /// TSC.
    pub tsc: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    /// Fills the slot and publishes it as write number `seq`.
    ///
    /// The store is a swap with sequential consistency, because the writer goes on to look whether the reader sleeps: a
    /// plain store could still sit in the store buffer then.
    #[inline]
    pub fn publish(&self, seq: u32, write: &PostedWrite) {
        let flags = if write.mmio { FLAG_MMIO } else { 0 };
        let cpu = u16::try_from(write.cpu.wrapping_add(1)).unwrap_or(0);
        self.head.store(u32::from(flags) | u32::from(write.length) << 8 | u32::from(cpu) << 16, Ordering::Relaxed);
        self.address.store(write.address, Ordering::Relaxed);
        self.data.store(write.data, Ordering::Relaxed);
        self.tsc.store(write.tsc, Ordering::Relaxed);
        store_in_total_order(&self.seq, seq);
    }

    /// The write in the slot, if it is number `seq`. A length that cannot be is cut to 8.
    #[inline]
    pub fn take(&self, seq: u32) -> Option<PostedWrite> {
        if self.seq.load(Ordering::Acquire) != seq {
            return None;
        }
        let head = self.head.load(Ordering::Relaxed);
        Some(PostedWrite {
            mmio: head as u8 & FLAG_MMIO != 0,
            length: ((head >> 8) as u8).min(8),
            address: self.address.load(Ordering::Relaxed),
            data: self.data.load(Ordering::Relaxed),
            tsc: self.tsc.load(Ordering::Relaxed),
            cpu: (head >> 16).wrapping_sub(1),
        })
    }
}
