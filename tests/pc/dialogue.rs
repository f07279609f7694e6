//! The real program in a dialogue: a script types, and waits for what is printed, in whatever pieces it comes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Time that a dialogue may take; one that takes longer hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Time for a kernel.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// `outboard pc` with these words.
pub fn pc(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.arg("pc").args(words);
    command
}

/// The program while it runs. Dropping it kills it.
pub struct Dialogue {
    child: Child,
    input: Option<File>,
    terminal: Option<Terminal>,
    output: Receiver<Vec<u8>>,
    complaints: Receiver<Vec<u8>>,
    /// All that was printed, and how much of it was waited for.
    text: Vec<u8>,
    seen: usize,
    deadline: Instant,
}

impl Dialogue {
    /// Starts it with pipes for all three streams.
    pub fn by_pipes(mut command: Command) -> Dialogue {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let input = File::from(OwnedFd::from(child.stdin.take().expect("a pipe")));
        let output = pieces(child.stdout.take().expect("a pipe"));
        Dialogue::new(child, Some(input), None, output)
    }

    /// Starts it with a terminal of its own for input and output, by `setsid`.
    pub fn by_terminal(command: &Command) -> Dialogue {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("its other end");
        let name = ptsname(&ours, Vec::new()).expect("its name");
        let path = name.to_str().expect("a plain name").to_owned();
        let theirs = || File::options().read(true).write(true).open(&path).expect("its other end");
        let size = Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).expect("its size");
        let mut around = Command::new("setsid");
        around.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        around.stdin(theirs()).stdout(theirs()).stderr(Stdio::piped());
        let child = around.spawn().expect("setsid starts");
        let writer = File::from(ours.try_clone().expect("a descriptor"));
        let ours = Arc::new(ours);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"));
        let (output, reader) = terminal_pieces(&ours, &stop);
        let terminal = Terminal { ours, _theirs: theirs().into(), stop, reader };
        Dialogue::new(child, Some(writer), Some(terminal), output)
    }

    fn new(mut child: Child, input: Option<File>, terminal: Option<Terminal>, output: Receiver<Vec<u8>>) -> Dialogue {
        let complaints = pieces(child.stderr.take().expect("a pipe"));
        let deadline = Instant::now() + WATCHDOG;
        Dialogue { child, input, terminal, output, complaints, text: Vec::new(), seen: 0, deadline }
    }

    /// Gives the dialogue more time, for kernels on hosts that emulate each of their instructions.
    pub fn patiently(mut self) -> Dialogue {
        self.deadline = Instant::now() + PATIENCE;
        self
    }

    /// Waits until this is printed, behind what was waited for before; returns what came up to its end.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
        loop {
            let rest = &self.text[self.seen..];
            if let Some(at) = rest.windows(wanted.len()).position(|window| window == wanted.as_bytes()) {
                let end = at + wanted.len();
                let text = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.seen += end;
                return text;
            }
            match self.output.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.text.extend(piece),
                Err(_) => panic!("{wanted:?} was not printed\n{}", self.all()),
            }
        }
    }

    /// Types.
    pub fn types(&mut self, text: &str) {
        let input = self.input.as_mut().expect("an input");
        input.write_all(text.as_bytes()).expect("somebody reads");
    }

    /// Ends the input.
    pub fn ends_input(&mut self) {
        self.input = None;
    }

    /// The script's end of the terminal, which is the program's end for its mode.
    pub fn terminal(&self) -> &OwnedFd {
        &self.terminal.as_ref().expect("a terminal").ours
    }

    /// Makes the terminal go away.
    pub fn hang_up(&mut self) {
        self.input = None;
        let Terminal { ours, stop, reader, .. } = self.terminal.take().expect("a terminal");
        rustix::io::write(&*stop, &1u64.to_ne_bytes()).expect("an eventfd");
        reader.join().expect("the reader ends");
        drop(Arc::into_inner(ours).expect("nobody else has it"));
    }

    /// Number of the process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end; status, all output, and all complaints.
    #[track_caller]
    pub fn ended(mut self) -> (ExitStatus, String, String) {
        // Standard error ends with its last writer, be it a plugin that was left behind.
        let mut complaints = Vec::new();
        loop {
            match self.complaints.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => complaints.extend(piece),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end\n{}", self.all()),
            }
        }
        let status = self.child.wait().expect("a child of this process");
        if self.terminal.is_none() {
            while let Ok(piece) = self.output.recv_timeout(Duration::from_secs(5)) {
                self.text.extend(piece);
            }
        }
        (status, self.all(), String::from_utf8_lossy(&complaints).into_owned())
    }

    fn all(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal.
struct Terminal {
    /// The script's end.
    ours: Arc<OwnedFd>,
    /// The other end, which keeps the terminal there when the program has ended.
    _theirs: OwnedFd,
    /// Ends the reader.
    stop: Arc<OwnedFd>,
    reader: JoinHandle<()>,
}

/// Pieces of a terminal, read by a thread that lets go of it when it is told.
fn terminal_pieces(ours: &Arc<OwnedFd>, stop: &Arc<OwnedFd>) -> (Receiver<Vec<u8>>, JoinHandle<()>) {
    let (sender, pieces) = mpsc::channel();
    let (ours, stop) = (Arc::clone(ours), Arc::clone(stop));
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = [PollFd::new(&*ours, PollFlags::IN), PollFd::new(&*stop, PollFlags::IN)];
            poll(&mut ready, None).expect("poll");
            if !ready[1].revents().is_empty() {
                return;
            }
            match rustix::io::read(&*ours, &mut buffer) {
                Ok(count @ 1..) if sender.send(buffer[..count].to_vec()).is_ok() => {}
                _ => return,
            }
        }
    });
    (pieces, reader)
}

/// Pieces of a stream, read by a thread of their own.
fn pieces(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, pieces) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}
