//! Plugins that try to get out of the jail, or to do harm from within. Each is run twice where that makes a difference: with
//! the built-in seccomp policy, which ends it, and with a filter that allows everything, so that the rest of the jail has to
//! hold it.

#![allow(missing_docs)]

#[path = "../common/mod.rs"]
#[allow(unused_macros, unused_imports, reason = "each test executable uses its part")]
mod common;
#[path = "../common/mark.rs"]
mod mark;

mod around;
mod filter;
mod grants;
mod outside;
mod own;
mod resources;
mod rights;
mod sys;

fn main() -> std::process::ExitCode {
    common::suite::main(&[outside::CASES, rights::CASES, resources::CASES, filter::CASES, grants::CASES, own::CASES])
}
