//! What guests and plugins see, on the real KVM with real processes.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod connections;
mod many;
mod memory;
mod pauses;
mod posted;
mod refusals;
mod registers;
mod riding;
mod strings;

fn main() -> std::process::ExitCode {
    common::suite::main(&[
        access::CASES,
        connections::CASES,
        many::CASES,
        memory::CASES,
        pauses::CASES,
        posted::CASES,
        refusals::CASES,
        registers::CASES,
        riding::CASES,
        strings::CASES,
    ])
}
