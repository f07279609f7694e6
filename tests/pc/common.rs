//! What these tests take from those of the runtime.

#![allow(dead_code, reason = "each test executable uses its part")]

#[path = "../common/cage.rs"]
pub mod cage;
#[path = "../common/guest.rs"]
pub mod guest;
#[path = "../common/program.rs"]
pub mod program;
