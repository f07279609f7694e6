//! A recorded run that is fed to the machine again: its clocks go by the guest's accesses, so that every answer is the same.

use std::process::Command;

use crate::dialogue::{Dialogue, pc};
use crate::{BIOS, Case};

pub const CASES: &[Case] = &[("a_recorded_run_is_answered_alike", &[BIOS], a_recorded_run_is_answered_alike)];

fn a_recorded_run_is_answered_alike() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let trace = trace.to_str().expect("a plain name");
    let machine = ["--firmware", BIOS, "--rtc-base", "2024-02-29T23:59:58"];
    let recorded = ["--exit-on", "No bootable device.", "--trace", trace];
    let (status, _, said) = Dialogue::by_pipes(pc(&[&machine[..], &recorded].concat())).ended();
    assert_eq!(status.code(), Some(0), "{said}");
    // The replayed machine goes on as long as the trace does: how many accesses it would answer after the words that end a
    // run is a matter of luck.
    let replay = |words: &[&str]| {
        let program = env!("CARGO_BIN_EXE_outboard");
        let mut command = Command::new(program);
        command.args(["replay", trace, "--plugin", program, "-p", "embedded-pc"]);
        for word in words {
            command.args(["-p", word]);
        }
        Dialogue::by_pipes(command).ended()
    };
    let (status, printed, said) = replay(&machine);
    assert_eq!(status.code(), Some(0), "{printed}{said}");
    assert!(printed.contains("no difference in"), "{printed}");
    // The other way round: with another date the clock's answers are others, so that they are looked at.
    let other = [&machine[..3], &["2025-03-01T10:20:30"]].concat();
    let (status, printed, said) = replay(&other);
    assert_eq!(status.code(), Some(1), "{printed}{said}");
    assert!(printed.contains("0x71"), "{printed}");
}
