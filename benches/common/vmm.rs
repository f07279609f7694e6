//! The real `outboard` program with this executable as its plugin, and the pipes between bench and plugin.
//!
//! The plugin inherits standard input and output through the VMM. A byte on the one asks for a chunk of figures, which
//! come as 64-bit words on the other; when the input ends, the plugin ends, and a JSON report of the VMM comes last.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// The word behind which the rest of a command line is for the plugin's half.
pub const PLUGIN: &str = "plugin";

/// The option that asks for a report. It makes the end of a run longer: the VMM measures its own floors for it.
pub const JSON: &str = "--json";

/// A running VMM.
pub struct Vmm {
    child: Child,
    /// Only finishing takes it out.
    go: Option<ChildStdin>,
    figures: ChildStdout,
}

impl Vmm {
    /// Starts `outboard run` with options, and this executable with `words` as its plugin. With [`JSON`] among the
    /// options, [`Vmm::finish`] gives a report.
    pub fn start(options: &[String], words: &[&str]) -> Vmm {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
        command.args(["run", "--plugin"]);
        command.arg(std::env::current_exe().expect("the path of this executable"));
        for word in [PLUGIN].iter().chain(words) {
            command.arg(format!("--params={word}"));
        }
        command.args(options).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("outboard can be started");
        let (go, figures) = (child.stdin.take(), child.stdout.take().expect("a pipe was asked for"));
        Vmm { child, go, figures }
    }

    /// Process id of the VMM.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the plugin for the next chunk.
    pub fn go(&mut self) {
        let sent = self.go.as_mut().map(|pipe| pipe.write_all(&[1]));
        if !matches!(sent, Some(Ok(()))) {
            self.give_up();
        }
    }

    /// Waits for `count` figures of the plugin.
    pub fn figures(&mut self, count: usize) -> Vec<u64> {
        let mut figures = vec![0u64; count];
        if self.figures.read_exact(bytemuck::cast_slice_mut(&mut figures)).is_err() {
            self.give_up();
        }
        figures
    }

    /// Ends the plugin; returns the VMM's report.
    pub fn finish(mut self) -> Value {
        drop(self.go.take());
        let mut json = String::new();
        let read = self.figures.read_to_string(&mut json);
        match (read, serde_json::from_str(&json)) {
            (Ok(_), Ok(report)) if self.child.wait().is_ok_and(|status| status.success()) => report,
            _ => self.give_up(),
        }
    }

    /// Ends the bench with what the VMM said.
    fn give_up(&mut self) -> ! {
        drop(self.go.take());
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = pipe.read_to_string(&mut said);
        }
        let _ = self.child.wait();
        eprintln!("outboard or its plugin failed:\n{said}");
        std::process::exit(1);
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        drop(self.go.take());
        let _ = self.child.wait();
    }
}

/// In the plugin's half: waits until the bench asks for a chunk. False once it wants no more.
pub fn wait_go() -> bool {
    std::io::stdin().read_exact(&mut [0]).is_ok()
}

/// In the plugin's half: sends figures, past the buffer of Rust's standard output.
pub fn send(figures: &[u64]) {
    let out = std::io::stdout().as_fd().try_clone_to_owned().expect("standard output is open");
    // A bench that is gone wants no figures.
    let _ = File::from(out).write_all(bytemuck::cast_slice(figures));
}
