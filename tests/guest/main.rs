//! What guests and plugins see, on the real KVM with real processes.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod access;

fn main() -> std::process::ExitCode {
    common::suite::main(&[access::CASES])
}
