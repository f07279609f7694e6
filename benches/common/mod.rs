//! What the benches share: the host's facts, the cache-line round trip, the real VMM, its references, tables, JSON lines.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod args;
pub mod echo;
pub mod facts;
pub mod line;
pub mod memfd;
pub mod pin;
pub mod place;
pub mod report;
pub mod vmm;
