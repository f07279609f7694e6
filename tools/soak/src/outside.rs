//! The load from outside: tools come and go, and whole other VMs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::lock;

/// Time between two other VMs.
const OTHERS: Duration = Duration::from_secs(10);

/// What goes on outside, and how often it did.
pub struct Outside {
    /// The hour is over.
    pub over: AtomicBool,
    program: PathBuf,
    vm: String,
    traces: AtomicU64,
    pauses: AtomicU64,
    looks: AtomicU64,
    others: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Outside {
    /// Around this VM.
    pub fn new(program: &Path, vm: &str) -> Outside {
        let zero = || AtomicU64::new(0);
        Outside {
            over: AtomicBool::new(false),
            program: program.to_owned(),
            vm: vm.to_owned(),
            traces: zero(),
            pauses: zero(),
            looks: zero(),
            others: zero(),
            failure: Mutex::new(None),
        }
    }

    /// What went wrong first.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// What happened, in words.
    pub fn counts(&self) -> String {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} traces recorded, {} pauses, {} looks of stat, {} other VMs",
            value(&self.traces),
            value(&self.pauses),
            value(&self.looks),
            value(&self.others)
        )
    }

    /// Attaches traces to the VM and detaches them, and pauses it in between.
    pub fn attach(&self) {
        let trace = std::env::temp_dir().join(format!("{}.trace", self.vm));
        self.repeat(|| {
            let mut record = self.command(&["trace", "record", "--seconds", "1", "--output"]);
            succeed(record.arg(&trace).arg(&self.vm))?;
            self.traces.fetch_add(1, Ordering::Relaxed);
            for word in ["status", "pause", "status", "resume"] {
                succeed(self.command(&[word]).arg(&self.vm))?;
            }
            self.pauses.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        // What is not there need not go.
        let _ = std::fs::remove_file(trace);
    }

    /// Lets `outboard stat` look, once each time.
    pub fn watch(&self) {
        self.repeat(|| {
            for more in [&["--ranges"][..], &["--json"]] {
                succeed(self.command(&["stat", "--once"]).args(more).arg(&self.vm))?;
                self.looks.fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(500));
            Ok(())
        });
    }

    /// Starts and ends whole VMs.
    pub fn start_others(&self) {
        self.repeat(|| {
            succeed(&mut self.command(&["run"]))?;
            self.others.fetch_add(1, Ordering::Relaxed);
            thread::sleep(OTHERS);
            Ok(())
        });
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words);
        command
    }

    fn repeat(&self, round: impl Fn() -> Result<(), String>) {
        while !self.over.load(Ordering::Relaxed) {
            if let Err(error) = round() {
                lock(&self.failure).get_or_insert(error);
                return;
            }
        }
    }
}

/// Runs a command to its end, which has to be a good one.
///
/// # Errors
/// What it was, how it ended, and what it complained of.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let done = done.map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim()))
}
