//! Statistics of every call, if the environment has `CROSVM_STATS` when the plugin connects.
//!
//! Without it a call costs one branch on a flag that nobody writes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

/// Longest time that is told from longer ones, in nanoseconds: an hour.
const LONGEST: u64 = 3_600_000_000_000;
/// Decimal digits of a recorded time.
const DIGITS: u8 = 2;

static WANTED: AtomicBool = AtomicBool::new(false);
static USED: Mutex<Vec<&'static Stat>> = Mutex::new(Vec::new());

/// Times of one function.
pub struct Stat {
    name: &'static str,
    times: Mutex<Option<Histogram<u64>>>,
}

/// Looks at the environment; with the variable set, the table is printed when the process exits.
pub fn look() {
    static ONCE: Once = Once::new();
    if std::env::var_os("CROSVM_STATS").is_none() {
        return;
    }
    ONCE.call_once(|| {
        extern "C" fn at_exit() {
            print();
        }
        // SAFETY: the function takes nothing and, as part of this library, stays where it is until the process ends.
        unsafe { libc::atexit(at_exit) };
        WANTED.store(true, Ordering::Relaxed);
    });
}

/// The time now, if anybody wants it.
#[inline(always)]
pub fn begin() -> Option<Instant> {
    if WANTED.load(Ordering::Relaxed) { now() } else { None }
}

#[cold]
fn now() -> Option<Instant> {
    Some(Instant::now())
}

impl Stat {
    /// Statistics of a function that was not called yet.
    pub const fn new(name: &'static str) -> Stat {
        Stat { name, times: Mutex::new(None) }
    }

    /// Records a call that began then and ends now.
    #[cold]
    pub fn record(&'static self, begin: Instant) {
        let nanoseconds = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut times = lock(&self.times);
        if times.is_none() {
            lock(&USED).push(self);
            *times = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        if let Some(times) = times.as_mut() {
            times.saturating_record(nanoseconds.max(1));
        }
    }
}

/// Prints the table to standard error and begins anew; nothing if nothing was called since the last time.
pub fn print() {
    let table = table();
    if !table.is_empty() {
        // There is nobody to tell if standard error is closed.
        let _ = std::io::stderr().write_all(table.as_bytes());
    }
}

fn table() -> String {
    let used = std::mem::take(&mut *lock(&USED));
    let taken = used.iter().filter_map(|stat| Some((stat.name, lock(&stat.times).take()?)));
    let mut rows: Vec<(&str, Histogram<u64>)> = taken.collect();
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by_key(|(name, _)| *name);
    let mut table = format!(
        "{:<34} {:>10} {:>12} {:>12} {:>12} {:>12} {:>12}\n",
        "call (times in us)", "count", "mean", "p50", "p99", "p99.9", "max"
    );
    for (name, times) in rows {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        // Writing to a string does not fail.
        let _ = write!(table, "{name:<34} {:>10} {:>12.3}", times.len(), times.mean() / 1000.0);
        for time in [0.5, 0.99, 0.999].map(|quantile| times.value_at_quantile(quantile)) {
            let _ = write!(table, " {:>12.3}", us(time));
        }
        let _ = writeln!(table, " {:>12.3}", us(times.max()));
    }
    table
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A histogram is whole between two records, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_counts_and_begins_anew() {
        static STAT: Stat = Stat::new("crosvm_test");
        for _ in 0..3 {
            STAT.record(Instant::now());
        }
        let text = table();
        let row = text.lines().find(|line| line.starts_with("crosvm_test ")).expect("a row");
        assert_eq!(row.split_whitespace().nth(1), Some("3"), "{text}");
        assert_eq!(row.split_whitespace().count(), 7, "{text}");
        STAT.record(Instant::now());
        assert!(table().contains("crosvm_test"));
        assert_eq!(table(), "");
    }
}
