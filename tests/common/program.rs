//! The real program as a child process, under a watchdog.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use outboard::sys::affinity;

use super::cage::Cage;

/// Time that a run may take; a run that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// A command line of the program under test.
pub struct Program {
    command: Command,
    cage: Cage,
    wrapped: bool,
    group: bool,
}

impl Program {
    /// `outboard` with no words yet.
    pub fn outboard() -> Program {
        Program {
            command: Command::new(env!("CARGO_BIN_EXE_outboard")),
            cage: Cage::Caged,
            wrapped: false,
            group: false,
        }
    }

    /// `outboard run`, caged.
    pub fn run() -> Program {
        Program::run_in(Cage::Caged)
    }

    /// `outboard run` in some cage, with the options in `OUTBOARD_TEST_OPTIONS`.
    pub fn run_in(cage: Cage) -> Program {
        let mut program = Program { cage, ..Program::outboard() };
        program.command.arg("run");
        cage.option(&mut program.command);
        let further = std::env::var("OUTBOARD_TEST_OPTIONS").unwrap_or_default();
        program.command.args(further.split_whitespace());
        program
    }

    /// Gives it a process group of its own.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn in_a_group(&mut self) -> &mut Program {
        self.group = true;
        self
    }

    /// Puts this executable, as the plugin half of a case, before the words so far; it shall become the program by exec.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn launched_by(&mut self, case: &str) -> &mut Program {
        let mut command = Command::new(std::env::current_exe().expect("the path of this executable"));
        command.args(["plugin", case]).arg(self.command.get_program()).args(self.command.get_args());
        self.command = command;
        self
    }

    /// Runs it in a network namespace of its own, by `unshare`. Call it last.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn in_network_namespace(&mut self) -> &mut Program {
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.command = command;
        self
    }

    /// Lets a shell run a command first, which may open descriptors. Call it last.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn through_a_shell(&mut self, first: &str) -> &mut Program {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{first}\nexec \"$0\" \"$@\"")]);
        command.arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        self.command = command;
        self
    }

    /// Adds words.
    pub fn args(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Program {
        self.command.args(words);
        self
    }

    /// Names this executable as the plugin, which shall be the plugin half of a case.
    pub fn plugin_is_this(&mut self, case: &str) -> &mut Program {
        let this = std::env::current_exe().expect("the path of this executable");
        self.command.arg("--plugin").arg(this);
        self.plugin_words(["plugin", case])
    }

    /// Adds arguments of the plugin.
    pub fn plugin_words<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> &mut Program {
        for word in words {
            self.command.args(["-p", word]);
        }
        self
    }

    /// The command itself, for environment, working directory and the like.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it with pipes for all three streams.
    pub fn start(&mut self) -> Running {
        if !self.wrapped {
            let command = std::mem::replace(&mut self.command, Command::new("nothing"));
            (self.command, self.wrapped) = (self.cage.wrapped(command), true);
        }
        if self.group {
            std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        }
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the program starts");
        let stdout = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        Running { child, stdout, stderr, deadline: Instant::now() + WATCHDOG, name: format!("{:?}", self.command) }
    }
}

impl Program {
    /// Starts it with one CPU for all its threads and the plugin's.
    pub fn start_on_one_cpu(&mut self) -> Running {
        let allowed = affinity::allowed().expect("the CPUs of this thread");
        // The child inherits what the thread that starts it may use.
        let start = || {
            affinity::allow(&allowed[..1]).expect("one of the allowed CPUs");
            self.start()
        };
        std::thread::scope(|scope| scope.spawn(start).join().expect("the program starts"))
    }
}

/// The program while it runs. Dropping it kills it.
pub struct Running {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    deadline: Instant,
    name: String,
}

impl Running {
    /// Process number of the VMM.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Process number of the plugin, which sees another one itself if it is caged.
    #[allow(dead_code, reason = "each test executable uses its part")]
    pub fn plugin(&self) -> i32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let children = std::fs::read_to_string(children).expect("the VMM runs");
        children.trim().parse().expect("the VMM has one child")
    }

    /// Waits until a line of standard output, which the plugin shares, begins with `start`; returns the rest of it.
    pub fn says(&mut self, start: &str) -> String {
        match self.stdout.wait_for(start, self.deadline) {
            Some(rest) => rest,
            None => self.hangs(&format!("it did not print a line that begins with {start:?}")),
        }
    }

    /// The same for standard error.
    pub fn complains(&mut self, start: &str) -> String {
        match self.stderr.wait_for(start, self.deadline) {
            Some(rest) => rest,
            None => self.hangs(&format!("it did not complain with a line that begins with {start:?}")),
        }
    }

    /// Writes a line to standard input, which the plugin shares.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("somebody reads the line");
    }

    /// Sends a signal to the VMM, by `kill`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end of the program and of all its output.
    pub fn ended(mut self) -> Done {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of this process") {
                break status;
            }
            // The end of standard error is the event to wait for; it comes with the end of the last writer.
            if !self.stderr.wait_end(Instant::now() + Duration::from_millis(20)) && Instant::now() > self.deadline {
                self.hangs("it did not end");
            }
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        if !(self.stdout.wait_end(deadline) && self.stderr.wait_end(deadline)) {
            self.hangs("it ended, and somebody whom it left behind holds its output open");
        }
        let (stdout, stderr) = (self.stdout.text.clone(), self.stderr.text.clone());
        Done { status, stdout, stderr, name: self.name.clone() }
    }

    fn hangs(&mut self, what: &str) -> ! {
        let _ = self.child.kill();
        let deadline = Instant::now() + Duration::from_secs(1);
        self.stdout.wait_end(deadline);
        self.stderr.wait_end(deadline);
        panic!("{}: {what}\n{}", self.name, texts(&self.stdout.text, &self.stderr.text));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that is over.
pub struct Done {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it and the plugin wrote to standard output.
    pub stdout: String,
    /// All that they wrote to standard error.
    pub stderr: String,
    name: String,
}

impl Done {
    /// Asserts the exit status.
    #[track_caller]
    pub fn expect(&self, status: i32) -> &Done {
        let said = match (self.status.code(), self.status.signal()) {
            (Some(code), _) if code == status => return self,
            (Some(code), _) => format!("ended with status {code}"),
            (None, signal) => format!("died of signal {signal:?}"),
        };
        panic!("{}: {said} instead of {status}\n{}", self.name, texts(&self.stdout, &self.stderr));
    }

    /// Asserts that standard error holds all of these.
    #[track_caller]
    pub fn complained(&self, parts: &[&str]) -> &Done {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{}: it did not complain of {part:?}\n{}",
                self.name,
                texts(&self.stdout, &self.stderr)
            );
        }
        self
    }

    /// Asserts that standard output holds this.
    #[track_caller]
    pub fn printed(&self, part: &str) -> &Done {
        assert!(
            self.stdout.contains(part),
            "{}: it did not print {part:?}\n{}",
            self.name,
            texts(&self.stdout, &self.stderr)
        );
        self
    }

    /// The report of a run with `--json`: the last line of standard output.
    #[allow(dead_code, reason = "each test executable uses its part")]
    #[track_caller]
    pub fn report(&self) -> serde_json::Value {
        serde_json::from_str(self.stdout.lines().last().expect("a report")).expect("JSON")
    }
}

fn texts(stdout: &str, stderr: &str) -> String {
    format!("--- standard output ---\n{stdout}\n--- standard error ---\n{stderr}\n---")
}

/// Sends a signal to a process, by `kill`.
pub fn signal(pid: i32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, "--", &pid.to_string()]).status().expect("kill starts");
    assert!(sent.success(), "signal {name} for process {pid}");
}

/// True if there is a process with this number that has not ended; a zombie has.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Lines of a stream, read by a thread of their own.
struct Lines {
    lines: Receiver<String>,
    text: String,
    ended: bool,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Lines {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Lines { lines, text: String::new(), ended: false }
    }

    fn next(&mut self, deadline: Instant) -> Option<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.text.push_str(&line);
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                None
            }
            Err(RecvTimeoutError::Timeout) => None,
        }
    }

    fn wait_for(&mut self, start: &str, deadline: Instant) -> Option<String> {
        while let Some(line) = self.next(deadline) {
            if let Some(rest) = line.strip_prefix(start) {
                return Some(rest.trim().to_owned());
            }
        }
        None
    }

    /// Reads on until the end; false if that does not come in time.
    fn wait_end(&mut self, deadline: Instant) -> bool {
        while !self.ended && self.next(deadline).is_some() {}
        self.ended
    }
}
