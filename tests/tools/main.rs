//! The tools against real VMs: `outboard stat`, `stop`, `pause`, `resume`, `status`.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
#[allow(unused_macros, unused_imports, reason = "each test executable uses its part")]
mod common;
mod manage;
mod stat;
mod trace;

fn main() -> std::process::ExitCode {
    common::suite::main(&[stat::CASES, manage::CASES, trace::CASES])
}
