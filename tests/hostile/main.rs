//! Plugins that misbehave, and deaths at any moment. Whatever a plugin does, the VMM says one sentence about it, ends with the
//! documented status, never panics, and leaves nobody behind.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mark.rs"]
mod mark;

mod around;
mod ends;
mod frames;
mod lines;
mod random;
mod raw;
mod sockets;
mod sys;

fn main() -> std::process::ExitCode {
    common::suite::main(&[ends::CASES, frames::CASES, lines::CASES, sockets::CASES])
}
