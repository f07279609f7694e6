//! The tools against real VMs: `outboard stat`, `stop`, `pause`, `resume`, `status`, `trace`, `replay` and `bench`.

#![allow(missing_docs)]

mod agree;
mod bench;
#[path = "../common/mod.rs"]
#[allow(unused_macros, unused_imports, reason = "each test executable uses its part")]
mod common;
mod manage;
mod replay;
mod stat;
mod trace;

fn main() -> std::process::ExitCode {
    common::suite::main(&[stat::CASES, manage::CASES, trace::CASES, replay::CASES, bench::CASES, agree::CASES])
}

/// A folder that every user may write to: some runs are another user's.
fn folder() -> std::io::Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777))?;
    Ok(folder)
}
