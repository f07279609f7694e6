//! The machine's time. What the guest sees of it comes from the TSC at which it left for the access, which a recorded trace
//! has too: fed to the machine again, the trace gets the same answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time since the machine began; clones tell the same.
#[derive(Clone, Debug)]
pub struct Clock {
    /// Ticks of the TSC in a millisecond, not 0.
    khz: u64,
    /// The TSC at the beginning; [`NEVER`] until then.
    begin: Arc<AtomicU64>,
}

const NEVER: u64 = u64::MAX;

impl Clock {
    /// A clock that stands at 0, by a TSC of so many kHz.
    pub fn new(khz: u64) -> Clock {
        Clock { khz: khz.max(1), begin: Arc::new(AtomicU64::new(NEVER)) }
    }

    /// Time begins at this TSC, if it has not begun.
    pub fn begin(&self, tsc: u64) {
        // Whoever came first is right; the vCPUs' threads are ordered by the VMM's start of the guest.
        let _ = self.begin.compare_exchange(NEVER, tsc, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The time at a TSC.
    pub fn at(&self, tsc: u64) -> Duration {
        let ticks = tsc.saturating_sub(self.begin.load(Ordering::Relaxed));
        let (milliseconds, rest) = (ticks / self.khz, ticks % self.khz);
        Duration::from_millis(milliseconds) + Duration::from_nanos(rest * 1_000_000 / self.khz)
    }

    /// The time now, for what happens without the guest's doing.
    pub fn now(&self) -> Duration {
        self.at(outboard_plugin::tsc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_until_it_begins_and_never_goes_back() {
        let clock = Clock::new(2_500_000);
        assert_eq!(clock.at(1 << 60), Duration::ZERO);
        clock.begin(5_000_000);
        clock.clone().begin(9_000_000);
        assert_eq!(clock.at(4_000_000), Duration::ZERO);
        assert_eq!(clock.at(5_000_000 + 2_500_000_005), Duration::new(1, 2));
        assert_eq!(clock.at(u64::MAX).as_secs(), (u64::MAX - 5_000_000) / 2_500_000_000);
    }

    #[test]
    fn now_is_by_the_same_counter() {
        let clock = Clock::new(1_000_000);
        let before = outboard_plugin::tsc();
        clock.begin(before);
        let now = clock.now();
        assert!(now <= clock.at(outboard_plugin::tsc()));
    }
}
