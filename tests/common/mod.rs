//! What the test executables share: a table of cases, the real program under a watchdog, small guests.
//!
//! Such an executable is the plugin too. A [`suite::Case`] holds both halves of a test: the plugin half, written with the
//! SDK, and what the run of the program around it has to give.

#![allow(dead_code, reason = "each test executable uses its part")]

pub mod cage;
pub mod guest;
pub mod machine;
pub mod program;
pub mod suite;
