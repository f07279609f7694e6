//! The machine on a terminal: keys go to the guest, the escape key leaves, and the terminal is as it was.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::termios::{LocalModes, tcgetattr};

use crate::dialogue::{Dialogue, pc};
use crate::{Case, INVADERS, U_BOOT};

pub const CASES: &[Case] = &[
    ("keys_go_to_the_guest_and_the_escape_key_leaves", &[U_BOOT], keys_go_to_the_guest_and_the_escape_key_leaves),
    ("a_text_display_is_drawn_and_has_a_keyboard", &[INVADERS], a_text_display_is_drawn_and_has_a_keyboard),
    ("a_killed_plugin_leaves_the_terminal_as_it_was", &[U_BOOT], a_killed_plugin_leaves_the_terminal_as_it_was),
    ("a_terminal_that_goes_away_ends_the_machine", &[U_BOOT], a_terminal_that_goes_away_ends_the_machine),
    ("an_input_that_ends_does_not_end_the_machine", &[U_BOOT], an_input_that_ends_does_not_end_the_machine),
];

fn a_text_display_is_drawn_and_has_a_keyboard() {
    let mut run = Dialogue::by_terminal(&pc(&["--kernel", INVADERS, "--vga"]));
    run.until("\x1b[2J");
    run.until("-*-");
    run.until("_");
    run.types(" ");
    run.until("|");
    run.types("\x01x");
    run.until("\x1b[25;1H\r\n\x1b[?25h"); // the cursor is back, below the display
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}

fn is_raw(run: &Dialogue) -> bool {
    let mode = tcgetattr(run.terminal()).expect("a terminal");
    !mode.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

fn keys_go_to_the_guest_and_the_escape_key_leaves() {
    let mut run = Dialogue::by_terminal(&pc(&["--firmware", U_BOOT]));
    run.until("=> ");
    assert!(is_raw(&run));
    run.types("echo one\rech\x08\x08\x08echo two\r");
    run.until("one\r\n");
    run.until("two\r\n");
    run.types("\x03");
    run.until("<INTERRUPT>");
    run.until("=> ");
    run.types("\x01x");
    let terminal = run.terminal().try_clone().expect("a descriptor");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
    let mode = tcgetattr(&terminal).expect("a terminal");
    assert!(mode.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
}

fn a_killed_plugin_leaves_the_terminal_as_it_was() {
    let mut run = Dialogue::by_terminal(&pc(&["--firmware", U_BOOT]));
    run.until("U-Boot 20");
    assert!(is_raw(&run));
    let plugin = descendants(run.pid()).pop().expect("the plugin");
    crate::common::program::signal(plugin, "KILL");
    let terminal = run.terminal().try_clone().expect("a descriptor");
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("signal 9"), "{said}");
    let mode = tcgetattr(&terminal).expect("a terminal");
    assert!(mode.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
}

fn a_terminal_that_goes_away_ends_the_machine() {
    let mut run = Dialogue::by_terminal(&pc(&["--firmware", U_BOOT]));
    run.until("U-Boot 20");
    let open = |pid: &i32| pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok();
    let all: Vec<OwnedFd> = descendants(run.pid()).iter().filter_map(open).collect();
    assert!(!all.is_empty(), "there is a plugin");
    run.hang_up();
    let (status, _, _) = run.ended();
    assert!(!status.success());
    // A process lets go of its files before it is gone, so that its end is waited for by itself.
    for process in &all {
        let mut ready = [PollFd::new(process, PollFlags::IN)];
        let ended = poll(&mut ready, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).expect("poll");
        assert_eq!(ended, 1, "a process is left behind");
    }
}

fn an_input_that_ends_does_not_end_the_machine() {
    let mut run = Dialogue::by_pipes(pc(&["--firmware", U_BOOT, "--exit-on", "three plus"]));
    run.until("=> ");
    run.types("echo three plus\n");
    run.ends_input();
    let (status, _, said) = run.ended();
    assert_eq!(status.code(), Some(0), "{said}");
}

/// The processes below one, parents first.
fn descendants(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    for task in tasks.flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            found.push(child.parse().expect("a number"));
            found.extend(descendants(child.parse().expect("a number")));
        }
    }
    found
}
