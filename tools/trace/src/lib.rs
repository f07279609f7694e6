//! `outboard trace`: records what happens between a running VM and its plugin, and shows recorded traces.
//!
//! The format is `TRACE.md` of the crate `outboard-wire`.

mod export;
mod filter;
mod record;
mod text;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use filter::Filter;
use outboard_reach::client::ReachError;
use outboard_reach::status;
use outboard_wire::trace::read::{Group, Trace, TraceError};

/// Record and show traces.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0; 1 there is no such VM, or it refused; 35 wrong arguments; 70 a file cannot be read \
                        or written; 71 no permission; 74 the file is no trace, or a damaged one"
)]
pub struct TraceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Attach to a running VM and record until it ends, the time is up or this is interrupted.
    Record(record::RecordArgs),
    /// Show a trace, or turn it into another format.
    Show(ShowArgs),
}

#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// The trace.
    file: PathBuf,

    /// How to show it.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// Where to write it; standard output without.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    filter: Filter,
}

/// How a trace can be shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// A line per exit.
    Text,
    /// JSON for Perfetto and chrome://tracing.
    Chrome,
    /// Stacks and their time, for flame graphs.
    Folded,
    /// Comma-separated values.
    Csv,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The VM cannot be reached, or refused.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// Bytes that are no trace.
    #[error("cannot use {0}: {1}")]
    Trace(PathBuf, TraceError),
    /// The output cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, io::Error),
}

impl ToolError {
    /// The exit status that says so.
    pub fn exit_status(&self) -> u8 {
        match self {
            ToolError::Reach(error) => error.exit_status(),
            ToolError::Read(..) | ToolError::Write(..) => status::INTERNAL,
            ToolError::Trace(..) => status::DAMAGED,
        }
    }
}

/// Carries the command out; returns the exit status.
pub fn main(args: &TraceArgs) -> u8 {
    let done = match &args.command {
        Command::Record(args) => record::record(args),
        Command::Show(args) => show(args),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            say(&error.to_string());
            error.exit_status()
        }
    }
}

/// A group of a trace in a line, as `outboard trace show` prints it.
pub fn describe(trace: &Trace, group: &Group) -> String {
    text::line(trace, group)
}

/// Reads a trace from a file, and warns of what it lacks.
///
/// # Errors
/// [`ToolError::Read`], [`ToolError::Trace`].
pub fn load(path: &Path) -> Result<Trace, ToolError> {
    let bytes = std::fs::read(path).map_err(|error| ToolError::Read(path.to_owned(), error))?;
    let trace = Trace::read(&bytes).map_err(|error| ToolError::Trace(path.to_owned(), error))?;
    if !trace.complete {
        say(&format!("warning: {} was cut off; what there is of it is used", path.display()));
    }
    if trace.lost > 0 {
        say(&format!(
            "warning: {} lacks {} exits, which found no room while it was written",
            path.display(),
            trace.lost
        ));
    }
    Ok(trace)
}

/// Writes groups of a trace in a format.
///
/// # Errors
/// Those of the writer.
pub fn write(trace: &Trace, groups: &[&Group], format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Text => text::write(trace, groups, out),
        Format::Chrome => export::chrome(trace, groups, out),
        Format::Folded => export::folded(trace, groups, out),
        Format::Csv => export::csv(trace, groups, out),
    }
}

fn show(args: &ShowArgs) -> Result<(), ToolError> {
    let trace = load(&args.file)?;
    let groups: Vec<_> = trace.by_time().into_iter().filter(|group| args.filter.takes(&trace, group)).collect();
    let write = |out: &mut dyn Write| write(&trace, &groups, args.format, out);
    match &args.output {
        Some(path) => {
            let failed = |error| ToolError::Write(path.clone(), error);
            let mut out = BufWriter::new(File::create(path).map_err(failed)?);
            write(&mut out).and_then(|()| out.flush()).map_err(failed)
        }
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            match write(&mut out).and_then(|()| out.flush()) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(ToolError::Write("standard output".into(), error))
                }
                _ => Ok(()),
            }
        }
    }
}

fn say(what: &str) {
    let _ = io::stderr().write_all(format!("outboard: {what}\n").as_bytes());
}
