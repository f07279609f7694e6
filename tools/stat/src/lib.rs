//! `outboard stat`: what the exits of a running VM cost, live or once, for people and for programs.
//!
//! It reads the counters that every VM of outboard keeps (`PROTOCOL.md`, section 13) and needs nothing else of the VMM.

mod live;
mod output;
mod rows;
mod table;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::Args;

use outboard_reach::find::{Find, FindError, Running};
use outboard_reach::status;
use outboard_wire::clock;
use outboard_wire::stats::read::{ReadError, Snapshot};
use outboard_wire::stats::state;
use rows::{Sort, View};

/// Show what the exits of a running VM cost.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0, also when the VM ends; 1 there is no such VM, or several; 35 wrong arguments; \
                        70 a system call failed; 71 no permission, or counters of another version"
)]
pub struct StatArgs {
    /// Process id of the VMM, or the name given with run --name; may be left out if there is one VM.
    vm: Option<String>,

    /// List the running VMs.
    #[arg(long, conflicts_with_all = ["vm", "once", "log", "csv"])]
    list: bool,

    /// Print one table of all exits so far, and end.
    #[arg(short = '1', long)]
    once: bool,

    /// Print a line per kind of exit and interval, without end.
    #[arg(short, long, conflicts_with = "once")]
    log: bool,

    /// The same as comma-separated values.
    #[arg(short, long, conflicts_with_all = ["once", "log"])]
    csv: bool,

    /// Print JSON: with --once one object, else one per interval.
    #[arg(long, conflicts_with_all = ["log", "csv"])]
    json: bool,

    /// Seconds between two looks.
    #[arg(short = 's', long, value_name = "SECS", default_value = "1", value_parser = interval)]
    interval: Duration,

    /// Order of rows.
    #[arg(long, value_name = "BY", default_value = "time")]
    sort: Sort,

    /// A row per reserved range instead of one per kind of exit.
    #[arg(long)]
    ranges: bool,

    /// Rows for each vCPU.
    #[arg(long)]
    vcpus: bool,
}

fn interval(word: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = word.parse().ok().filter(|seconds| (0.05..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds from 0.05 to 86400".to_owned())
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum StatError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("the counters of VM {0} cannot be read: {1}")]
    Read(u32, ReadError),
    #[error("the terminal cannot be used: {0}")]
    Terminal(io::Error),
    #[error("the live view needs a terminal; use --once, --log, --csv or --json")]
    NoTerminal,
}

/// Carries the command out; returns the exit status.
pub fn main(args: &StatArgs) -> u8 {
    match stat(args) {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(io::stderr(), "outboard: {error}");
            match error {
                StatError::Find(FindError::Denied { .. }) | StatError::Read(..) => status::HOST,
                StatError::Find(_) => status::NO_VM,
                StatError::Terminal(_) | StatError::NoTerminal => status::INTERNAL,
            }
        }
    }
}

fn stat(args: &StatArgs) -> Result<(), StatError> {
    if args.list {
        let _ = io::stdout().write_all(output::list(&Find::all()).as_bytes());
        return Ok(());
    }
    let live = !(args.once || args.log || args.csv || args.json);
    if live && !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(StatError::NoTerminal);
    }
    let vm = Find::all().select(args.vm.as_deref())?;
    let view = View { by_range: args.ranges, by_vcpu: args.vcpus, sort: args.sort, ..View::default() };
    if live {
        return live::run(&vm, view, args.interval);
    }
    let first = Look::at(&vm)?;
    if args.once {
        let text = if args.json { output::json(&vm, &first, &view) } else { table::whole(&vm, &first, &view) };
        let _ = io::stdout().write_all(text.as_bytes());
        return Ok(());
    }
    follow(args, &vm, &view, first)
}

/// Prints what happened in each interval until the VM ends or nobody reads any more.
fn follow(args: &StatArgs, vm: &Running, view: &View, mut before: Look) -> Result<(), StatError> {
    if args.csv && io::stdout().write_all(output::csv_head().as_bytes()).is_err() {
        return Ok(());
    }
    loop {
        vm.wait(args.interval);
        let now = Look::at(vm)?;
        let since = now.since(&before);
        let text = match (args.csv, args.json) {
            (true, _) => output::csv(vm, &since, view),
            (_, true) => output::json(vm, &since, view),
            _ => output::log(vm, &since, view),
        };
        if io::stdout().write_all(text.as_bytes()).is_err() || now.ended {
            return Ok(());
        }
        before = now;
    }
}

/// All counters at a moment, or between two.
struct Look {
    snapshot: Snapshot,
    /// TSC ticks that the counts cover.
    span: u64,
    tsc: u64,
    ended: bool,
}

impl Look {
    fn at(vm: &Running) -> Result<Look, StatError> {
        let ended = !vm.is_alive();
        let snapshot = Snapshot::read(vm.file()).map_err(|error| StatError::Read(vm.pid, error))?;
        let tsc = clock::now();
        let ended = ended || snapshot.vm.state == state::ENDED;
        Ok(Look { span: tsc.saturating_sub(snapshot.vm.start_tsc).max(1), tsc, snapshot, ended })
    }

    fn since(&self, before: &Look) -> Look {
        let snapshot = self.snapshot.since(&before.snapshot);
        Look { snapshot, span: self.tsc.saturating_sub(before.tsc).max(1), tsc: self.tsc, ended: self.ended }
    }

    fn ns(&self, ticks: u64) -> u64 {
        clock::to_ns(ticks, self.snapshot.vm.tsc_khz)
    }
}
