//! A guest that resets the machine, in each way that a PC has.

use crate::Case;
use crate::common::guest::real_mode;
use crate::dialogue::{Dialogue, pc};

pub const CASES: &[Case] = &[
    ("a_reset_begins_anew", &[], || a_reset_begins_anew("1")),
    ("a_reset_begins_anew_with_all_processors", &[], || a_reset_begins_anew("3")),
    ("a_reset_ends_what_shall_not_begin_anew", &[], a_reset_ends_what_shall_not_begin_anew),
];

real_mode!(
    /// Counts in the memory behind the clock how often it was started, and resets the machine in another way each time. At
    /// last it ends the machine with 1; with 2 or 3 if its image or its registers were not as at first.
    resets:
    "xor ax, ax",
    "mov ds, ax",
    "mov cl, 2",
    "cmp byte ptr ds:[0x7c80], 0x55",
    "jne 9f",
    "mov byte ptr ds:[0x7c80], 0",
    "mov cl, 3",
    "test bx, bx",
    "jne 9f",
    "mov eax, cr0",
    "test al, 2",
    "jne 9f",
    "or al, 2",
    "mov cr0, eax",
    "mov bx, 0x1234",
    "mov al, 0x40",
    "out 0x70, al",
    "in al, 0x71",
    "inc al",
    "out 0x71, al",
    "mov cl, 1",
    "cmp al, 4",
    "je 9f",
    "cmp al, 2",
    "je 2f",
    "ja 3f",
    "mov dx, 0xcf9",
    "mov al, 6",
    "out dx, al",
    "1: jmp 1b",
    "2: mov al, 0xfe",
    "out 0x64, al",
    "jmp 1b",
    "3: mov al, 3",
    "out 0x92, al",
    "jmp 1b",
    "9: mov al, cl",
    "out 0xf4, al",
    "jmp 9b",
    ".org 0x80",
    ".byte 0x55",
);

/// Runs the guest; its status and what was said.
fn run(words: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guest");
    std::fs::write(&path, resets()).expect("a file");
    let kernel = ["--kernel", path.to_str().expect("a plain name"), "--format", "0x7c00"];
    let (status, _, said) = Dialogue::by_pipes(pc(&[&kernel, words].concat())).ended();
    (status.code(), said)
}

fn a_reset_begins_anew(cpus: &str) {
    let (status, said) = run(&["--cpus", cpus]);
    assert_eq!(status, Some(1 << 1 | 1), "{said}");
}

fn a_reset_ends_what_shall_not_begin_anew() {
    let (status, said) = run(&["--no-reboot"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said, "outboard: pc: the guest reset the machine by the reset control register 0xcf9\n");
}
