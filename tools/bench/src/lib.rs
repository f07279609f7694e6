//! `outboard bench`: what exits to a plugin cost on this host, without a Rust toolchain.
//!
//! Each row is a run of the program itself with a plugin of its own, [`plugin`], whose guest repeats one access. The unit is
//! the **period** from one exit to the next, by the TSC that the VMM reads right behind `KVM_RUN`. Beside it stands the
//! floor, the same access with a bare `KVM_RUN` loop, and what the VMM's own counters say.

pub mod guest;
pub mod plugin;

mod compare;
mod drill;
mod measure;
mod plot;
mod rows;
mod table;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use drill::Pattern;
use measure::{Measured, Place};
use rows::ROWS;

/// Exit status when a row is slower than its baseline.
pub const REGRESSED: u8 = 1;
const USAGE: u8 = 35;
const INTERNAL: u8 = 70;
const HOST: u8 = 71;

/// Measure what exits to a plugin cost on this host.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit status: 0; 1 a row is slower than its baseline; 35 wrong arguments; 70 a run or a file failed; \
                        71 no guest can run here"
)]
pub struct BenchArgs {
    /// List the rows.
    #[arg(long)]
    list: bool,

    /// Only rows whose name holds this text.
    #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "plugin")]
    filter: String,

    /// Measure this plugin instead, an absolute path: once it has set its VM up, a guest that repeats --access takes the
    /// place of its own.
    #[arg(long, value_name = "PATH", requires = "access")]
    plugin: Option<PathBuf>,

    /// An argument for it; repeatable.
    #[arg(short = 'p', long, value_name = "ARG", allow_hyphen_values = true, requires = "plugin")]
    params: Vec<OsString>,

    /// What that guest does: SPACE:ADDRESS:SIZE:DIRECTION, such as port:0x3f8:1:write or mmio:0xfed00000:4:read. A row each;
    /// repeatable.
    #[arg(long, value_name = "ACCESS", requires = "plugin", value_parser = drill::pattern)]
    access: Vec<Pattern>,

    /// Behind --, further options of outboard run, such as --plugin-mount.
    #[arg(last = true, requires = "plugin", value_name = "OPTIONS")]
    run_options: Vec<OsString>,

    /// Exits that are measured, per row.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    iterations: u32,

    /// Exits before them that are not; without --plugin.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    warmup: u32,

    /// CPUs of the vCPU and of the plugin: 0,1 apart, 0,0 together, free wherever they like. Without it all three.
    #[arg(long, value_name = "VMM,PLUGIN", value_parser = measure::place)]
    cpus: Option<Place>,

    /// How both sides wait: as run --spin.
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    spin: String,

    /// Print one JSON object, which is also what --baseline reads.
    #[arg(long)]
    json: bool,

    /// Write the distribution of each row in HdrHistogram's percentile format.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,

    /// Draw the distributions.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// Compare with a file that --json wrote.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,

    /// What added time may exceed the baseline by, in percent of it; 50 ns are always allowed.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    threshold: f64,
}

/// Measures a floor: an instruction and how often, to TSC ticks or a sentence.
pub type Floor = dyn Fn(&[u8], u32) -> Result<Vec<u64>, String>;

/// What the program around gives: the words that make it the plugin of a row, and the floors.
pub struct Around<'a> {
    /// The hidden command that runs [`plugin::main`].
    pub plugin_command: OsString,
    /// TSC ticks from exit to exit of so many bare `KVM_RUN` calls that end in this instruction, as [`guest::Access`] has it;
    /// a sentence if no guest can run.
    pub floor: &'a Floor,
}

/// Why the bench failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("no floor can be measured: {0}")]
    Floor(String),
    #[error("the run of {row} failed: {why}")]
    Run { row: String, why: String },
    #[error("the plugin was not asked about {0}: {1}")]
    NotReserved(String, &'static str),
    #[error("cannot read the baseline {0}: {1}")]
    Baseline(PathBuf, String),
    #[error("cannot write {0}: {1}")]
    Write(PathBuf, String),
    #[error("no row holds `{0}`; --list shows them")]
    NoRow(String),
}

/// Carries the command out; returns the exit status.
pub fn main(args: &BenchArgs, around: &Around<'_>) -> u8 {
    match bench(args, around) {
        Ok(status) => status,
        Err(error) => {
            let _ = io::stderr().write_all(format!("outboard: {error}\n").as_bytes());
            match error {
                BenchError::Floor(_) => HOST,
                BenchError::NoRow(_) => USAGE,
                _ => INTERNAL,
            }
        }
    }
}

/// What a line of the table is about.
enum Subject<'a> {
    Row(&'a rows::Row),
    Plugin(&'a Path, &'a Pattern),
}

fn bench(args: &BenchArgs, around: &Around<'_>) -> Result<u8, BenchError> {
    if args.list {
        let lines: String = ROWS.iter().map(|row| format!("{:<24}{}\n", row.name, row.about)).collect();
        let _ = io::stdout().write_all(lines.as_bytes());
        return Ok(0);
    }
    let rows: Vec<_> = ROWS.iter().filter(|row| row.name.contains(&args.filter)).collect();
    if rows.is_empty() {
        return Err(BenchError::NoRow(args.filter.clone()));
    }
    let subjects: Vec<Subject<'_>> = match &args.plugin {
        None => rows.into_iter().map(Subject::Row).collect(),
        Some(plugin) => args.access.iter().map(|pattern| Subject::Plugin(plugin, pattern)).collect(),
    };
    let baseline = args.baseline.as_ref().map(read_baseline).transpose()?;
    let mut all: Vec<Measured> = Vec::new();
    for place in args.cpus.clone().map_or_else(Place::all, |place| vec![place]) {
        if !args.json {
            let what = if args.plugin.is_some() { "outside of KVM_RUN" } else { "from exit to exit" };
            let _ = io::stdout().write_all(table::head(&place, &args.spin, what).as_bytes());
        }
        for subject in &subjects {
            let measured = match subject {
                Subject::Row(row) => measure::measure(row, &place, args, around)?,
                Subject::Plugin(plugin, pattern) => drill::measure(plugin, pattern, &place, args, around)?,
            };
            if !args.json {
                let _ = io::stdout().write_all(table::line(&measured).as_bytes());
            }
            all.push(measured);
        }
    }
    if args.json {
        let _ = io::stdout().write_all(table::json(&all).as_bytes());
    }
    let write = |path: &PathBuf, text: String| {
        fs::write(path, text).map_err(|error| BenchError::Write(path.clone(), error.to_string()))
    };
    if let Some(path) = &args.hgrm {
        write(path, table::hgrm(&all))?;
    }
    if let Some(path) = &args.plot {
        write(path, plot::svg(&all).map_err(|why| BenchError::Write(path.clone(), why))?)?;
    }
    let Some(baseline) = baseline else { return Ok(0) };
    let worse = compare::regressions(&all, &baseline, args.threshold);
    let _ = io::stderr().write_all(worse.concat().as_bytes());
    Ok(if worse.is_empty() { 0 } else { REGRESSED })
}

fn read_baseline(path: &PathBuf) -> Result<Value, BenchError> {
    let failed = |why: String| BenchError::Baseline(path.clone(), why);
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
    if value["rows"].is_array() { Ok(value) } else { Err(failed("it holds no rows".to_owned())) }
}
