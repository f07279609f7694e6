//! A whole VMM, with a plugin that does what the input says: the run itself in this process, on the real KVM, the plugin
//! another process (`wild`).
//!
//! The first byte chooses the VM; the rest is the plugin's. Whatever it does, the run returns, says one sentence and a status
//! that is documented, blames no failure of a system call on itself, and leaves nothing behind: no descriptor, no thread, no
//! process.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use outboard::plugin;
use outboard::plugin::lifecycle::{Cause, status};

use crate::assert_sentence;
use crate::host::settings;

/// Names the executable of the plugin, `outboard-fuzz-wild`, where it does not lie beside this one.
const VARIABLE: &str = "OUTBOARD_FUZZ_PLUGIN";

/// How long what has ended may still be seen: a thread is joined a moment before the kernel forgets it.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// The target.
pub fn machine(data: &[u8]) {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let find = || match std::env::var_os(VARIABLE) {
        Some(path) => path.into(),
        None => std::env::current_exe().expect("this executable").with_file_name("outboard-fuzz-wild"),
    };
    machine_with(PROGRAM.get_or_init(find), data);
}

/// The target, with the executable of the plugin.
pub fn machine_with(program: &Path, data: &[u8]) {
    let Some((choice, behaviour)) = data.split_first() else { return };
    // What is made once and kept is made by the first run.
    static BEFORE: OnceLock<Around> = OnceLock::new();
    let before = BEFORE.get_or_init(|| {
        run(program, 0, &[]);
        Around::now()
    });
    run(program, *choice, behaviour);
    let start = Instant::now();
    let mut after = Around::now();
    while after != *before && start.elapsed() < FORGOTTEN {
        std::thread::sleep(Duration::from_millis(1));
        after = Around::now();
    }
    assert_eq!(after, *before, "the run has left something behind");
}

fn run(program: &Path, choice: u8, behaviour: &[u8]) {
    let mut settings = settings(program.to_owned(), choice);
    let mut file = File::from(outboard::sys::memfd::create(c"outboard-fuzz").expect("a memfd"));
    file.write_all(behaviour).expect("room");
    settings.files = vec![Arc::new(file.into())];
    let report = plugin::run(&settings).unwrap_or_else(|error| panic!("the run did not begin, or broke off: {error}"));
    let (outcome, exit_status) = (&report.outcome, report.outcome.exit_status());
    assert_sentence(&outcome.to_string());
    assert!(!matches!(outcome.cause, Cause::HostFailure(_)), "{outcome}");
    let known = [status::PLUGIN_FAILED, status::PROTOCOL, status::GUEST].contains(&exit_status);
    assert!(known || outcome.is_plugins_own(), "status {exit_status}: {outcome}");
}

/// What a process has around it.
#[derive(Debug, PartialEq, Eq)]
struct Around {
    /// What its descriptors are, but for the one that looks.
    files: Vec<String>,
    threads: usize,
    children: Vec<String>,
}

impl Around {
    fn now() -> Around {
        let mut files = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd").expect("/proc").flatten() {
            let number = entry.file_name().to_string_lossy().into_owned();
            let name = std::fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
            if !name.ends_with("/fd") {
                files.push(format!("{number} {name}"));
            }
        }
        files.sort();
        let tasks: Vec<_> = std::fs::read_dir("/proc/self/task").expect("/proc").flatten().collect();
        let children = tasks.iter().flat_map(|task| {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        });
        Around { files, threads: tasks.len(), children: children.collect() }
    }
}
