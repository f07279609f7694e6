//! A clock that ticks when it is read, so that a spin of so many ticks looks that often.

use std::cell::Cell;

/// As in the real clock.
pub const CPU_UNKNOWN: u32 = u32::MAX;

std::thread_local! {
    /// One clock for all threads of a model, which run on one thread of the system by turns. What counts are differences,
    /// and these depend on the schedule alone.
    static TICKS: Cell<u64> = const { Cell::new(0) };
}

/// Reads the clock.
pub fn now() -> u64 {
    TICKS.replace(TICKS.get() + 1)
}

/// Reads the clock; the CPU is not known.
pub fn now_and_cpu() -> (u64, u32) {
    (now(), CPU_UNKNOWN)
}

/// Ticks as nanoseconds.
pub fn to_ns(ticks: u64, khz: u64) -> u64 {
    ticks * 1_000_000 / khz
}

/// Nanoseconds as ticks.
pub fn from_ns(ns: u64, khz: u64) -> u64 {
    ns * khz / 1_000_000
}
