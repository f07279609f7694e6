//! Asking for cache lines before they are written.

#![allow(unsafe_code)]

use crate::sync::AtomicU64;
use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};

/// Words in a cache line of 64 bytes.
const LINE: usize = 8;

/// Asks for the lines of these words with the intent to write them (`PREFETCHW`), and does not wait for them.
///
/// The other process has read the lines; when they come back while this side has nothing to do, the stores that follow find
/// them here. A processor without the instruction takes it for a no-op.
#[inline]
pub fn own(words: &[AtomicU64]) {
    for line in words.chunks(LINE) {
        // SAFETY: the pointer comes from a reference; a prefetch changes nothing and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.as_ptr().cast()) };
    }
}

/// Hints that another CPU will read these words soon (`CLDEMOTE`): the lines go to the cache that CPUs share.
///
/// A processor without the instruction takes it for a no-op (Intel SDM volume 2, CLDEMOTE).
#[inline]
pub fn push(words: &[AtomicU64]) {
    // Miri carries out no assembler, and loses nothing by it.
    for line in words.chunks(LINE).filter(|_| !cfg!(miri)) {
        // SAFETY: the pointer comes from a reference; the hint changes no data and cannot fault.
        unsafe { core::arch::asm!("cldemote byte ptr [{}]", in(reg) line.as_ptr(), options(nostack, preserves_flags)) };
    }
}
