//! What every bench shares: the host's facts, the cache-line round trip, tables and JSON lines.

#![allow(dead_code, reason = "each bench uses its part")]

pub mod facts;
pub mod line;
pub mod pin;
pub mod report;
