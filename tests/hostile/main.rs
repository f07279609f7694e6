//! Plugins that misbehave. Whatever a plugin does, the VMM says one sentence about it, ends with the
//! documented status, never panics, and leaves nobody behind.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mark.rs"]
mod mark;

#[allow(dead_code, reason = "shared with tests/deaths")]
mod around;
mod ends;
mod flat;
mod frames;
mod lines;
mod objects;
mod random;
mod raw;
mod shared;
mod sockets;
#[allow(dead_code, reason = "shared with tests/deaths")]
mod sys;

fn main() -> std::process::ExitCode {
    common::suite::main(&[
        ends::CASES,
        frames::CASES,
        lines::CASES,
        sockets::CASES,
        shared::CASES,
        flat::CASES,
        objects::CASES,
    ])
}
