//! The atomic words that the shared pages are made of.
//!
//! Built with `--cfg loom`, the ends run under a model checker that tries every order of their accesses: then these are
//! its words, and the module `model` takes the places of the mapped pages, the futexes and the clock. All else is the code
//! that ships.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Words that nobody uses. The model checker has nothing to track there.
#[cfg(not(loom))]
pub(crate) type Reserved<Word, const N: usize> = [Word; N];
#[cfg(loom)]
pub(crate) type Reserved<Word, const N: usize> = [core::marker::PhantomData<Word>; N];

/// Stores a value in the one order that all sequentially consistent operations and fences have: the loads that follow
/// cannot come before it.
#[inline]
pub fn store_in_total_order(word: &AtomicU32, value: u32) {
    word.swap(value, Ordering::SeqCst);
    // Loom takes sequentially consistent accesses for acquire and release ones, but knows such fences.
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}
