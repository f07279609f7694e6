//! Getting a vCPU thread and the plugin's thread onto different CPUs: pure decisions.
//!
//! Two threads that wake each other by turns are kept on one CPU by many schedulers, and there each exchange costs two
//! context switches where a cache-line transfer would do. Spinning helps nobody on one CPU, so neither side finds out by
//! itself. A vCPU thread that meets its plugin on its own CPU time and again therefore leaves it. Where that does not last,
//! because the other CPUs are busy, it is tried ever more seldom.

use outboard_wire::clock::CPU_UNKNOWN;

/// Exchanges on one CPU before the first move. A move costs two system calls and a migration, some tens of microseconds;
/// an exchange on one CPU costs a few microseconds too many.
const FIRST: u32 = 8;
/// Most exchanges on one CPU between two moves.
const LAST: u32 = 1 << 17;
/// Exchanges on two CPUs after which a move counts as a success.
const LASTING: u32 = 1000;

/// Counts where exchanges happen.
#[derive(Debug)]
pub struct Spread {
    together: u32,
    apart: u32,
    patience: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Spread { together: 0, apart: 0, patience: FIRST }
    }
}

impl Spread {
    /// Takes note of an exchange between CPUs; true if the thread shall leave its CPU now.
    #[inline]
    pub fn observe(&mut self, here: u32, peer: u32) -> bool {
        if here != peer || here == CPU_UNKNOWN {
            self.together = 0;
            self.apart += 1;
            if self.apart >= LASTING {
                (self.apart, self.patience) = (0, FIRST);
            }
            return false;
        }
        self.apart = 0;
        self.together += 1;
        if self.together < self.patience {
            return false;
        }
        self.together = 0;
        self.patience = (self.patience * 4).min(LAST);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meeting_on_one_cpu_time_and_again_moves_the_thread() {
        let mut spread = Spread::default();
        let moves: Vec<u32> = (1..=1000).filter(|_| spread.observe(1, 1)).collect();
        assert_eq!(moves, [8, 8 + 32, 8 + 32 + 128, 8 + 32 + 128 + 512], "ever more seldom");
    }

    #[test]
    fn a_move_that_lasts_makes_the_next_one_quick() {
        let mut spread = Spread::default();
        while !spread.observe(1, 1) {}
        assert!((0..LASTING).all(|_| !spread.observe(0, 1)));
        assert_eq!((1..100).find(|_| spread.observe(1, 1)), Some(FIRST));
    }

    #[test]
    fn an_odd_meeting_is_none() {
        let mut spread = Spread::default();
        for _ in 0..10_000 {
            assert!((1..FIRST).all(|_| !spread.observe(1, 1)));
            assert!(!spread.observe(0, 1));
            assert!(!spread.observe(CPU_UNKNOWN, CPU_UNKNOWN));
        }
    }
}
