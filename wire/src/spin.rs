//! How long to spin before sleeping: pure decisions, no clock and no waiting in here.
//!
//! Waking a sleeping CPU costs tens of microseconds, an answer that comes while spinning costs one cache-line transfer.
//! But spinning is only worth it while the other side can run: on another CPU, and soon. Each waiter therefore has a
//! [`Spinner`] that learns how long its peer takes, and each process a [`SpinLimit`] that keeps one CPU free of spinners.

use crate::sync::{AtomicU32, Ordering};

use crate::clock::{self, CPU_UNKNOWN};

/// The policy that the user chose (`--spin`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpinMode {
    /// Learn per vCPU whether spinning pays.
    #[default]
    Auto,
    /// Sleep at once.
    Off,
    /// Never sleep.
    Always,
    /// Spin for so many nanoseconds, then sleep.
    For(u64),
}

/// Longest spin in automatic mode, in nanoseconds: about what it costs to put a CPU to sleep and wake it again
/// (31-35 us for a futex round trip across CPUs on a PVM guest, 5-10 us on bare metal), so that a wrong guess costs at
/// most about twice the best choice.
pub const AUTO_MAX_NS: u64 = 50_000;

/// Shortest spin in automatic mode while spinning pays, in nanoseconds: bridges the jitter of a quick peer.
pub const AUTO_MIN_NS: u64 = 4_000;

/// Looks at a line between two looks at the clock. Reading the clock takes longer than looking at a line that has not
/// changed, so an answer would often come while it is read.
pub const POLLS: u32 = if cfg!(loom) { 1 } else { 8 };

/// Waits that are slept through before a spin is tried again; doubled with every failed try.
const FIRST_RETRY: u32 = 16;
const LAST_RETRY: u32 = 1024;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// What was awaited came while spinning.
    Spinning,
    /// It came while sleeping.
    Sleeping,
}

/// The learning half of one waiter. Times are TSC ticks.
#[derive(Clone, Debug)]
pub struct Spinner {
    mode: SpinMode,
    max: u64,
    min: u64,
    fixed: u64,
    /// Moving average of what the peer takes, an eighth of each new value.
    average: u64,
    /// Waits left to sleep through; 0 while spinning pays.
    asleep_for: u32,
    retry: u32,
}

impl Spinner {
    /// A waiter that starts by spinning, on a machine whose TSC runs at `tsc_khz`.
    pub fn new(mode: SpinMode, tsc_khz: u64) -> Spinner {
        let fixed = match mode {
            SpinMode::For(ns) => clock::from_ns(ns, tsc_khz),
            SpinMode::Always => u64::MAX,
            _ => 0,
        };
        let (max, min) = (clock::from_ns(AUTO_MAX_NS, tsc_khz), clock::from_ns(AUTO_MIN_NS, tsc_khz));
        Spinner { mode, max, min, fixed, average: max / 4, asleep_for: 0, retry: FIRST_RETRY }
    }

    /// Ticks to spin in the wait that begins now; 0 means sleep at once, `u64::MAX` means never sleep.
    ///
    /// `here` and `peer` are the CPUs that the two threads were last seen on. On the same CPU the peer cannot run while this
    /// thread spins, so nothing but sleeping helps.
    #[inline]
    pub fn budget(&mut self, here: u32, peer: u32) -> u64 {
        match self.mode {
            SpinMode::Auto => self.learned(here, peer),
            _ => self.fixed,
        }
    }

    /// Ticks of a microsecond or so: after that an awake peer has read what it was sent.
    #[inline]
    pub fn soon(&self) -> u64 {
        self.min / 4
    }

    fn learned(&mut self, here: u32, peer: u32) -> u64 {
        if here == peer && here != CPU_UNKNOWN {
            return 0;
        }
        if self.asleep_for > 1 {
            self.asleep_for -= 1;
            return 0;
        }
        if self.asleep_for == 1 {
            return self.max;
        }
        self.average.saturating_mul(4).clamp(self.min, self.max)
    }

    /// Takes note of a wait that did spin: how it ended and how many ticks it took. Waits that slept at once teach nothing
    /// about the peer, since waking takes longer than most answers; they are not recorded.
    #[inline]
    pub fn record(&mut self, how: Waited, ticks: u64) {
        match how {
            Waited::Spinning => {
                if self.asleep_for != 0 {
                    // The try after a time of sleeping came off: forget what was learned while asleep.
                    self.asleep_for = 0;
                    self.retry = FIRST_RETRY;
                    self.average = ticks;
                }
                self.average = self.average - self.average / 8 + ticks / 8;
            }
            Waited::Sleeping => {
                // Cut, so that it takes three long waits in a row to give spinning up: a quick device that is slow now and
                // then stays one that is spun for.
                self.average = self.average - self.average / 8 + ticks.min(4 * self.max) / 8;
                if self.asleep_for == 1 {
                    self.retry = (self.retry * 2).min(LAST_RETRY);
                    self.asleep_for = self.retry;
                } else if self.average > self.max {
                    self.asleep_for = self.retry;
                }
            }
        }
    }
}

/// At most so many threads of a process spin at a time: the CPUs it may use, less one.
#[derive(Debug)]
pub struct SpinLimit {
    used: AtomicU32,
    /// `None` where nobody needs to be counted. Counting takes a locked instruction when what was awaited is there already.
    limit: Option<u32>,
}

impl SpinLimit {
    /// A limit for `waiters` threads on a machine on which VMM and plugin may use `cpus` CPUs together.
    pub fn new(cpus: u32, waiters: u32) -> SpinLimit {
        let limit = cpus.saturating_sub(1);
        SpinLimit { used: AtomicU32::new(0), limit: (waiters > limit).then_some(limit) }
    }

    /// A limit that never refuses (`--spin always`).
    pub fn unlimited() -> SpinLimit {
        SpinLimit { used: AtomicU32::new(0), limit: None }
    }

    /// The limit for a policy: only the automatic one is limited, the others are the user's own decision.
    pub fn for_mode(mode: SpinMode, cpus: u32, waiters: u32) -> SpinLimit {
        if mode == SpinMode::Auto { SpinLimit::new(cpus, waiters) } else { SpinLimit::unlimited() }
    }

    /// Takes the right to spin, if there is one left. Give it back with [`SpinLimit::leave`].
    #[inline]
    pub fn enter(&self) -> bool {
        let Some(limit) = self.limit else { return true };
        if self.used.fetch_add(1, Ordering::Relaxed) < limit {
            return true;
        }
        self.used.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Gives the right to spin back.
    #[inline]
    pub fn leave(&self) {
        if self.limit.is_some() {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How often the slow paths were taken, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Waits that ended while spinning, or at once.
    pub spun: u64,
    /// Waits that slept.
    pub slept: u64,
    /// Times the plugin was woken.
    pub wakes: u64,
    /// Posted writes that found the ring full.
    pub ring_full: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const KHZ: u64 = 1_000_000; // a tick is a nanosecond

    #[test]
    fn a_quick_peer_is_spun_for() {
        let mut spinner = Spinner::new(SpinMode::Auto, KHZ);
        for _ in 0..100 {
            assert!(spinner.budget(0, 1) >= AUTO_MIN_NS);
            spinner.record(Waited::Spinning, 300);
        }
        assert_eq!(spinner.budget(0, 1), AUTO_MIN_NS);
    }

    #[test]
    fn a_long_wait_now_and_then_does_not_end_the_spinning() {
        let mut spinner = Spinner::new(SpinMode::Auto, KHZ);
        for wait in 0..1000 {
            assert!(spinner.budget(0, 1) > 0, "wait {wait}");
            match wait % 10 {
                0 => spinner.record(Waited::Sleeping, 10_000_000),
                _ => spinner.record(Waited::Spinning, 300),
            }
        }
    }

    #[test]
    fn a_slow_peer_is_slept_for_and_tried_again_ever_more_seldom() {
        let mut spinner = Spinner::new(SpinMode::Auto, KHZ);
        let mut spins = Vec::new();
        for wait in 0..5000 {
            if spinner.budget(0, 1) > 0 {
                spins.push(wait);
                spinner.record(Waited::Sleeping, 1_000_000);
            }
        }
        assert!(spins.len() < 30, "{spins:?}");
        let gaps: Vec<i32> = spins.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps.last(), Some(&(LAST_RETRY as i32)), "{gaps:?}");
    }

    #[test]
    fn a_peer_that_becomes_quick_again_is_noticed() {
        let mut spinner = Spinner::new(SpinMode::Auto, KHZ);
        for _ in 0..200 {
            if spinner.budget(0, 1) > 0 {
                spinner.record(Waited::Sleeping, 1_000_000);
            }
        }
        let mut waits = 0;
        while spinner.budget(0, 1) == 0 {
            waits += 1;
        }
        assert!(waits <= LAST_RETRY);
        spinner.record(Waited::Spinning, 500);
        assert_eq!(spinner.budget(0, 1), AUTO_MIN_NS);
    }

    #[test]
    fn nobody_spins_for_a_peer_on_the_same_cpu() {
        let mut spinner = Spinner::new(SpinMode::Auto, KHZ);
        assert_eq!(spinner.budget(1, 1), 0);
        assert!(spinner.budget(CPU_UNKNOWN, CPU_UNKNOWN) > 0);
    }

    #[test]
    fn the_fixed_modes_do_as_they_are_told() {
        assert_eq!(Spinner::new(SpinMode::Off, KHZ).budget(0, 1), 0);
        assert_eq!(Spinner::new(SpinMode::Always, KHZ).budget(0, 0), u64::MAX);
        assert_eq!(Spinner::new(SpinMode::For(700), KHZ).budget(0, 0), 700);
    }

    #[test]
    fn one_cpu_is_kept_free() {
        let limit = SpinLimit::new(2, 2);
        assert!(limit.enter());
        assert!(!limit.enter());
        limit.leave();
        assert!(limit.enter());
        assert!(!SpinLimit::new(1, 1).enter());
        assert!(!SpinLimit::new(0, 1).enter());
        assert!(SpinLimit::for_mode(SpinMode::Always, 1, 8).enter());
    }

    #[test]
    fn who_is_alone_is_not_counted() {
        let limit = SpinLimit::for_mode(SpinMode::Auto, 2, 1);
        assert!(limit.enter());
        limit.leave();
        assert!(limit.enter());
        assert_eq!(limit.used.load(Ordering::Relaxed), 0);
    }
}
