//! What guests and plugins see, on the real KVM with real processes.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod memory;
mod pauses;
mod posted;
mod refusals;
mod registers;
mod riding;
mod strings;
mod surface;
mod surface_state;

fn main() -> std::process::ExitCode {
    common::suite::main(&[
        access::CASES,
        memory::CASES,
        pauses::CASES,
        refusals::CASES,
        posted::CASES,
        registers::CASES,
        riding::CASES,
        strings::CASES,
        surface::CASES,
        surface_state::CASES,
    ])
}
