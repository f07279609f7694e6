//! The program with a watchdog and a mark that its descendants inherit.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus, Stdio};

use crate::{host, mark};

/// Seconds after which a run counts as hanging.
const WATCHDOG: &str = "60";
/// Status of `timeout` when its time is up.
const TIMED_OUT: i32 = 124;

/// A command that has not been started.
pub struct Program(Command);

/// A run that is over.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// `outboard` with these words.
pub fn outboard(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
    let mut program = Program::of(env!("CARGO_BIN_EXE_outboard"));
    program.0.args(words);
    program
}

/// Runs `outboard` with these words.
pub fn run(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
    outboard(words).run()
}

impl Program {
    /// Any command.
    pub fn of(program: impl AsRef<OsStr>) -> Program {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=1", WATCHDOG]).arg(program);
        Program(command)
    }

    /// Adds a word.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Program {
        self.0.arg(word);
        self
    }

    /// Makes a system call fail for this command, as a container's seccomp profile would.
    pub fn call_gives(mut self, call: i64, errno: i32) -> Program {
        host::refuse_call(&mut self.0, call, errno);
        self
    }

    /// The same for `io_uring_setup`.
    pub fn io_uring_gives(self, errno: i32) -> Program {
        self.call_gives(libc::SYS_io_uring_setup, errno)
    }

    /// Runs the last user's part of [`host::in_private_mounts`] without privileges.
    pub fn by_nobody(mut self) -> Program {
        self.0.env("AS", "setpriv --reuid 65534 --regid 65534 --clear-groups --");
        self
    }

    /// Runs it to the end of its output; asserts that it did not panic and left no process behind.
    pub fn run(mut self) -> Done {
        let mark = mark::fresh();
        let output = self.0.env(mark::VARIABLE, &mark).stdin(Stdio::null()).output().expect("timeout(1) starts");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let done = Done { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) };
        assert_ne!(done.status.code(), Some(TIMED_OUT), "it hangs: {done:?}");
        assert!(!done.stderr.contains("panicked") && !done.stderr.contains("Error {"), "{done:?}");
        assert_eq!(mark::carriers(&mark), [] as [i32; 0], "processes are left behind: {done:?}");
        done
    }
}

impl Done {
    /// Asserts the exit status.
    #[track_caller]
    pub fn expect(&self, status: i32) {
        assert_eq!(self.status.code(), Some(status), "{self:?}");
    }

    /// The sentence of a wrong command line: the first line, which nothing but hints on usage follow.
    #[track_caller]
    pub fn sentence(&self) -> String {
        let (first, rest) = self.stderr.split_once('\n').expect("a line");
        let is_hint =
            |line: &&str| line.is_empty() || ["Usage:", "For more", "  tip:"].iter().any(|w| line.starts_with(w));
        assert!(rest.lines().all(|line| is_hint(&line)), "{self:?}");
        assert!(first.starts_with("error: ") || first.starts_with("outboard: "), "{self:?}");
        first.to_owned()
    }

    /// Standard error, which is one line.
    #[track_caller]
    pub fn one_sentence(&self) -> String {
        assert!(self.stderr.starts_with("outboard: ") && self.stderr.ends_with('\n'), "{self:?}");
        assert_eq!(self.stderr.matches('\n').count(), 1, "{self:?}");
        self.stderr.clone()
    }
}
