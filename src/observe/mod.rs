//! Counters of the exit path, for whoever looks from outside.

pub mod shared;
