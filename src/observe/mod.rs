//! Counters and histograms of the exit path.

pub mod histogram;
