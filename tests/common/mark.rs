//! A mark in the environment that every descendant of a run inherits, so that whoever is left behind is found.

use std::sync::atomic::{AtomicU32, Ordering};

/// The environment variable.
pub const VARIABLE: &str = "OUTBOARD_TEST_MARK";

/// A value that no other run has.
pub fn fresh() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

/// Processes that carry the mark and have not ended.
pub fn carriers(mark: &str) -> Vec<i32> {
    let entry = format!("{VARIABLE}={mark}");
    let carries = |pid: &i32| {
        // That of a zombie is empty.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|line| line == entry.as_bytes())
    };
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(carries).collect()
}
