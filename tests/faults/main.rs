//! Faults: system calls that fail, processes that stand still, and what else a machine does to its programs. The VMM says
//! one sentence, ends with a documented status, never panics and leaves nothing behind.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mark.rs"]
mod mark;

#[allow(dead_code, unused_imports, unused_macros, reason = "shared with tests/hostile")]
#[path = "../hostile/around.rs"]
mod around;
mod calls;
mod clock;
mod completions;
mod group;
mod host;
mod memory;
mod ring;
mod sweep;
mod trace;

fn main() -> std::process::ExitCode {
    common::suite::main(&[calls::CASES, completions::CASES, host::CASES, memory::CASES, clock::CASES])
}
