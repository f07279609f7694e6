//! Measures a row.

use std::io::Read;
use std::process::{Command, Stdio};

use hdrhistogram::Histogram;
use serde_json::Value;

use super::plugin::CHUNK;
use super::rows::{By, Row};
use super::{Around, BenchArgs, BenchError};
use outboard_wire::clock;

/// Calls of `KVM_RUN` that a floor is measured with, before a row and after it.
pub const FLOOR_ROUNDS: u32 = 2000;

/// Where the two sides run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: &'static str,
    /// CPUs of the vCPU thread and of the plugin; `None` for any.
    pub cpus: Option<(usize, usize)>,
}

impl Place {
    /// Apart, together and free, as far as there are CPUs.
    pub fn all() -> Vec<Place> {
        let allowed = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
        let mut all = Vec::new();
        if let [first, second, ..] = cpus[..] {
            all.push(Place { name: "apart", cpus: Some((first, second)) });
        }
        if let [first, ..] = cpus[..] {
            all.push(Place { name: "together", cpus: Some((first, first)) });
        }
        all.push(Place { name: "free", cpus: None });
        all
    }
}

/// Reads `--cpus`.
pub fn place(word: &str) -> Result<Place, String> {
    if word == "free" {
        return Ok(Place { name: "free", cpus: None });
    }
    let cpus = word.split_once(',').and_then(|(vmm, plugin)| Some((vmm.parse().ok()?, plugin.parse().ok()?)));
    let cpus: (usize, usize) = cpus.ok_or_else(|| "give two CPUs such as 0,1, or free".to_owned())?;
    Ok(Place { name: if cpus.0 == cpus.1 { "together" } else { "apart" }, cpus: Some(cpus) })
}

/// What came out. Times are nanoseconds.
pub struct Measured {
    pub name: String,
    pub place: Place,
    /// From exit to exit; of a plugin of the user's, outside of `KVM_RUN`.
    pub period: Histogram<u64>,
    /// The same with a bare `KVM_RUN` loop.
    pub floor: Histogram<u64>,
    /// What the VMM's report says of this kind of exit.
    pub own: Option<Value>,
    /// What the row adds to its floor at the median; `None` for floors.
    pub added: Option<i64>,
}

pub fn measure(row: &Row, place: &Place, args: &BenchArgs, around: &Around<'_>) -> Result<Measured, BenchError> {
    let khz = clock::measure_khz(std::time::Duration::from_millis(20));
    let rounds = if row.by == By::Vmm { args.iterations } else { FLOOR_ROUNDS };
    let floor = |into: &mut Histogram<u64>| {
        let instruction = row.access.instruction();
        let ticks = pinned(place, || (around.floor)(&instruction, rounds)).map_err(BenchError::Floor)?;
        ticks.iter().for_each(|ticks| into.saturating_record(clock::to_ns(*ticks, khz)));
        Ok(())
    };
    let (mut period, mut floors, mut own) = (histogram(), histogram(), None);
    floor(&mut floors)?;
    if row.by == By::Vmm {
        period = floors.clone();
    } else {
        let (ticks, report) = run(row, place, args, around)?;
        ticks.iter().for_each(|ticks| period.saturating_record(clock::to_ns(*ticks, khz)));
        let exits = report["exits"].as_array().cloned().unwrap_or_default();
        own = exits.into_iter().find(|exit| exit["exit"] == row.kind.name() && row.by != By::Kernel);
        if let Some(own) = &mut own {
            own["kvm_run_mean_ns"] = report["inside_kvm_run_ns"]["mean"].clone();
        }
        floor(&mut floors)?;
    }
    let p50 = |ns: &Histogram<u64>| ns.value_at_quantile(0.5) as i64;
    let added = matches!(row.by, By::Plugin | By::Posted).then(|| p50(&period) - p50(&floors));
    Ok(Measured { name: row.name.to_owned(), place: place.clone(), period, floor: floors, own, added })
}

/// Runs the row; returns its figures in ticks, and the VMM's report.
fn run(row: &Row, place: &Place, args: &BenchArgs, around: &Around<'_>) -> Result<(Vec<u64>, Value), BenchError> {
    let failed = |why: String| BenchError::Run { row: row.name.to_owned(), why };
    let wanted = match row.by {
        // A figure is a chunk.
        By::Kernel => ((args.iterations + args.warmup) / u32::from(CHUNK)).max(3),
        _ => args.iterations + args.warmup,
    };
    let warmup = if row.by == By::Kernel { 1 } else { args.warmup as usize };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(&program);
    command.args(["run", "--disable-sandbox", "--json", &format!("--spin={}", args.spin), "--plugin"]).arg(&program);
    let cpu = place.cpus.map_or_else(|| "free".to_owned(), |(_, plugin)| plugin.to_string());
    for word in [around.plugin_command.to_string_lossy().as_ref(), row.name, &wanted.to_string(), &cpu] {
        command.arg(format!("--params={word}"));
    }
    if let Some((vmm, _)) = place.cpus {
        command.arg(format!("--cpu-affinity={vmm}"));
    }
    // Held open until the figures are there: its end tells the plugin that this process is gone.
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (mut bytes, mut said) = (Vec::new(), String::new());
    let read = child.stdout.take().map(|mut out| out.read_to_end(&mut bytes));
    let _ = child.stderr.take().map(|mut out| out.read_to_string(&mut said));
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() || !matches!(read, Some(Ok(_))) {
        return Err(failed(format!("{status}: {}", said.trim())));
    }
    let (figures, report) = split(&bytes).ok_or_else(|| failed("it printed something else than figures".to_owned()))?;
    Ok((figures.into_iter().skip(warmup).collect(), report))
}

/// The figures of the plugin, and the report of the VMM behind them.
fn split(bytes: &[u8]) -> Option<(Vec<u64>, Value)> {
    let (count, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(8)?;
    let (figures, report) = rest.split_at_checked(length)?;
    let figures = figures.chunks_exact(8).map(|figure| u64::from_le_bytes(figure.try_into().expect("eight bytes")));
    Some((figures.collect(), serde_json::from_slice(report).ok()?))
}

/// Runs something with this thread on the CPU of the vCPU.
pub fn pinned<T>(place: &Place, body: impl FnOnce() -> T) -> T {
    let before = rustix::thread::sched_getaffinity(None);
    if let Some((vmm, _)) = place.cpus {
        let mut set = rustix::thread::CpuSet::new();
        set.set(vmm);
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
    let result = body();
    if let Ok(before) = before {
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    result
}

/// From 1 ns to a minute, three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!(place("0,1").unwrap().name, "apart");
        assert_eq!(place("3,3").unwrap(), Place { name: "together", cpus: Some((3, 3)) });
        assert_eq!(place("free").unwrap().cpus, None);
        assert!(place("0").unwrap_err().contains("0,1"));
    }

    #[test]
    fn figures_and_report_are_told_apart() {
        let mut bytes = 2u64.to_le_bytes().to_vec();
        bytes.extend([7u64, 8].iter().flat_map(|figure| figure.to_le_bytes()));
        bytes.extend(b"{\"exits\":[]}\n");
        let (figures, report) = split(&bytes).unwrap();
        assert_eq!((figures, report["exits"].is_array()), (vec![7, 8], true));
        assert!(split(&bytes[..20]).is_none());
        assert!(split(&u64::MAX.to_le_bytes()).is_none());
    }
}
