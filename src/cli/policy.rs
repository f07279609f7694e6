//! `outboard policy`: seccomp policies judged, compiled and shown, without a VM.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::voice::say_line;
use crate::jail::bpf::{self, Instruction};
use crate::jail::policy::{self, Blocking, Mode};
use crate::plugin::lifecycle::status;
use crate::sys::Errno;

/// What can be done with a policy.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Check a policy file, or a precompiled program (FILE.bpf), and say how much it allows.
    Check(Input),
    /// Compile a policy file to the program that `run` takes beside it as plugin.bpf.
    Compile {
        #[command(flatten)]
        input: Input,

        /// Where to write; - is standard output. Without it the program goes to FILE with .bpf for its ending, and a
        /// listing to standard output.
        #[arg(short, long, value_name = "OUT")]
        output: Option<PathBuf>,

        /// Write a listing of the program instead; FILE.bpf can be listed, too.
        #[arg(long)]
        text: bool,
    },
    /// Print the built-in policy, which plugins get that come with none.
    Show {
        /// The built-in policy, which is all there is to show.
        #[arg(long)]
        builtin: bool,
    },
}

/// A policy file, and how it shall be understood.
#[derive(Args)]
pub struct Input {
    /// The policy file; one that ends in .bpf is a precompiled program.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Take it as `run --seccomp-log-failures` does: what is refused is logged, and calls that are not known are skipped.
    #[arg(long)]
    seccomp_log_failures: bool,
}

/// Carries the command out; returns the exit status.
pub fn main(command: &PolicyCommand) -> u8 {
    let done = match command {
        PolicyCommand::Check(input) => check(input),
        PolicyCommand::Compile { input, output, text } => compile(input, output.as_deref(), *text),
        PolicyCommand::Show { .. } => to_stdout(policy::BUILTIN.as_bytes()),
    };
    match done {
        Ok(()) => 0,
        Err(said) => {
            say_line(&said);
            status::USAGE
        }
    }
}

fn check(input: &Input) -> Result<(), String> {
    let (program, calls) = input.program()?;
    let what = match calls {
        Some(calls) => format!("{calls} system calls have a rule"),
        None => "a program that the kernel takes".to_owned(),
    };
    to_stdout(format!("{}: {what}; {} instructions\n", input.file.display(), program.len()).as_bytes())
}

fn compile(input: &Input, output: Option<&Path>, text: bool) -> Result<(), String> {
    if input.is_compiled() && !text {
        return Err(format!("{} is compiled already: list it with --text, or name the policy", input.file.display()));
    }
    let (program, _) = input.program()?;
    let listing = if text { bpf::listing(&program) } else { String::new() };
    let bytes = if text { listing.as_bytes() } else { bpf::to_bytes(&program) };
    match output {
        None if text => to_stdout(bytes),
        None => to_file(&input.file.with_extension("bpf"), bytes),
        Some(output) if output == Path::new("-") => {
            if !text && std::io::stdout().is_terminal() {
                return Err("standard output is a terminal, and the program is not text: use --text or -o OUT".into());
            }
            to_stdout(bytes)
        }
        Some(output) => to_file(output, bytes),
    }
}

impl Input {
    fn is_compiled(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "bpf")
    }

    /// The program, and of how many system calls a policy speaks. Warnings are said.
    fn program(&self) -> Result<(Vec<Instruction>, Option<usize>), String> {
        if self.is_compiled() {
            let cannot = |why: String| format!("cannot take the program {}: {why}", self.file.display());
            let bytes = policy::read_file(&self.file).map_err(|errno| cannot(errno.to_string()))?;
            let program = bpf::from_bytes(&bytes).map_err(|error| cannot(error.to_string()))?;
            return Ok((program, None));
        }
        let (mode, blocking) = match self.seccomp_log_failures {
            true => (Mode::Log, Blocking::Log),
            false => (Mode::Enforce, Blocking::Kill),
        };
        let policy = policy::load(&self.file, mode).map_err(|error| error.to_string())?;
        policy.warnings.iter().for_each(|warning| say_line(&format!("warning: {warning}")));
        let program = policy.compile(blocking).map_err(|error| error.to_string())?;
        Ok((program, Some(policy.rules.len())))
    }
}

/// A reader that went away is no failure.
fn to_stdout(bytes: &[u8]) -> Result<(), String> {
    let written = std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {}", Errno::from(error)))
        }
        _ => Ok(()),
    }
}

/// Writes a file as a whole or not at all: into one beside it, which then takes its name. What is there and no regular
/// file, such as a pipe, is written as it is.
fn to_file(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("cannot write {}: {}", path.display(), Errno::from(error));
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, bytes).map_err(cannot);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        cannot(error)
    })
}
