//! Numbers that look random and come again with the same seed (splitmix64).

use std::sync::atomic::{AtomicU64, Ordering};

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Overwrites all words.
    pub fn fill(&mut self, words: &[AtomicU64]) {
        for word in words {
            word.store(self.next(), Ordering::Relaxed);
        }
    }
}
