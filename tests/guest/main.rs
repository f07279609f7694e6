//! What guests and plugins see, on the real KVM with real processes.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod access;
mod connections;
mod doorbells;
mod ends;
mod interrupts;
mod many;
mod memory;
mod pauses;
mod posted;
mod refusals;
mod registers;
mod riding;
mod running;
mod strings;
mod surface;
mod surface_emulation;
mod surface_exits;
mod surface_irqchip;
mod surface_net;
mod surface_state;
mod times;

fn main() -> std::process::ExitCode {
    common::suite::main(&[
        access::CASES,
        connections::CASES,
        doorbells::CASES,
        ends::CASES,
        interrupts::CASES,
        many::CASES,
        memory::CASES,
        pauses::CASES,
        posted::CASES,
        refusals::CASES,
        registers::CASES,
        riding::CASES,
        running::CASES,
        strings::CASES,
        surface::CASES,
        surface_emulation::CASES,
        surface_exits::CASES,
        surface_irqchip::CASES,
        surface_net::CASES,
        surface_state::CASES,
        times::CASES,
    ])
}
