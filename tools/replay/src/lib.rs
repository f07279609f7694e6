//! `outboard replay`: feeds a recorded trace to a plugin, through the same rings and the same library as a VM would, and
//! compares its answers with the recorded ones. It needs no KVM, so a device model can be tested and measured anywhere.
//!
//! What a plugin does that no trace holds does not happen: nobody signals its io events. The guest's memory has what the
//! plugin itself put there, and what the guest wrote, if the trace was recorded with `--trace-memory`.

mod compare;
mod feed;
mod host;
mod memory;
mod outcome;
mod run;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use compare::Ignored;
use outboard_reach::status;
use outboard_trace::{ToolError, load};
use outboard_wire::trace::read::Trace;
use outcome::{Outcome, Table};

/// Exit status of a replay whose answers differ from the recorded ones.
pub const DIFFERENT: u8 = 1;

/// Feed a recorded trace to a plugin and compare its answers.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The plugin runs with all your rights.\n\nExit status: 0 all answers are the same; 1 one differs, or \
                        the plugin ended or hung; 35 wrong arguments; 70 a system call failed; 74 the trace cannot be \
                        replayed"
)]
pub struct ReplayArgs {
    /// A trace that was recorded with run --trace.
    file: PathBuf,

    /// The plugin's executable; without it the one that the trace was recorded with.
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,

    /// An argument for the plugin, for the PC an option of outboard pc such as --firmware=FILE; repeatable.
    #[arg(short = 'p', long, value_name = "ARG", allow_hyphen_values = true)]
    params: Vec<OsString>,

    /// How fast.
    #[arg(long, value_name = "PACE", default_value = "full")]
    pace: Pace,

    /// Replay so many times, each time with a new process.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// Seconds that the plugin may take for an answer.
    #[arg(long, value_name = "SECS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    /// Do not compare what is read from these addresses, which depends on the time of day or the like: port:0x70-0x71 or
    /// mmio:0xfed00000; repeatable.
    #[arg(long, value_name = "SPACE:A[-B]", value_parser = compare::ignored)]
    ignore: Vec<Ignored>,

    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

/// How fast a trace is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pace {
    /// As fast as the plugin answers.
    Full,
    /// No event earlier than it came.
    Recorded,
}

/// The program that is the plugin of traces of the embedded machine and of the PC.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Its executable.
    pub program: PathBuf,
    /// The command that makes it the embedded machine.
    pub machine: &'static str,
    /// The command that makes it the PC; --params follow.
    pub pc: &'static str,
}

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("{0} cannot be replayed: {1}")]
    Unfit(PathBuf, &'static str),
    #[error("{0} failed: {1}")]
    Call(&'static str, io::Error),
    #[error("the plugin {0} cannot be started: {1}")]
    Spawn(PathBuf, io::Error),
}

impl ReplayError {
    fn exit_status(&self) -> u8 {
        match self {
            ReplayError::Tool(error) => error.exit_status(),
            ReplayError::Unfit(..) => status::DAMAGED,
            ReplayError::Call(..) => status::INTERNAL,
            ReplayError::Spawn(..) => DIFFERENT,
        }
    }
}

/// A plugin to start.
struct Plugin {
    program: PathBuf,
    args: Vec<OsString>,
}

/// Carries the command out; returns the exit status.
pub fn main(args: &ReplayArgs, embedded: &Embedded) -> u8 {
    match replay(args, embedded) {
        Ok(status) => status,
        Err(error) => {
            let _ = io::stderr().write_all(format!("outboard: {error}\n").as_bytes());
            error.exit_status()
        }
    }
}

fn replay(args: &ReplayArgs, embedded: &Embedded) -> Result<u8, ReplayError> {
    let trace = load(&args.file)?;
    check(args, &trace)?;
    let plugin = plugin(args, embedded, &trace);
    let mut table = Table::new(&trace);
    for round in 1..=args.repeat {
        let limit = Duration::from_secs(args.timeout);
        let how = run::How { keep_pace: args.pace == Pace::Recorded, limit, ignored: &args.ignore };
        let outcome = run::run(&trace, &plugin, &how, &mut table)?;
        if outcome != Outcome::Same || round == args.repeat {
            let text = if args.json { table.json(round, &outcome) } else { table.text(&trace, round, &outcome) };
            let _ = io::stdout().write_all(text.as_bytes());
            return Ok(if outcome == Outcome::Same { 0 } else { DIFFERENT });
        }
    }
    Ok(0)
}

/// A trace that lacks something cannot be told from a plugin that does something else.
fn check(args: &ReplayArgs, trace: &Trace) -> Result<(), ReplayError> {
    let unfit = |why| Err(ReplayError::Unfit(args.file.clone(), why));
    match trace {
        _ if !trace.is_from_start() => {
            unfit("it begins in the middle of a run; record a whole one with outboard run --trace")
        }
        _ if trace.lost > 0 => unfit("it lacks exits"),
        _ => Ok(()),
    }
}

fn plugin(args: &ReplayArgs, embedded: &Embedded, trace: &Trace) -> Plugin {
    let path = trace.path();
    match &args.plugin {
        Some(path) => Plugin { program: path.clone(), args: args.params.clone() },
        None if path.is_empty() => Plugin { program: embedded.program.clone(), args: vec![embedded.machine.into()] },
        None if path == embedded.pc => {
            let words = std::iter::once(embedded.pc.into()).chain(args.params.iter().cloned());
            Plugin { program: embedded.program.clone(), args: words.collect() }
        }
        None => Plugin { program: path.into(), args: args.params.clone() },
    }
}
