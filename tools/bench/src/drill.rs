//! Measures the user's own plugin: it sets its VM up, and then a guest that repeats one access takes the place of its own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::guest::Access;
use super::measure::{FLOOR_ROUNDS, Measured, Place, histogram, pinned};
use super::{Around, BenchArgs, BenchError};
use outboard_wire::clock;

/// What the guest repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    access: Access,
    address: u64,
}

/// Reads `--access`.
pub fn pattern(word: &str) -> Result<Pattern, String> {
    let wrong = |what: &str| format!("{what}; give SPACE:ADDRESS:SIZE:DIRECTION such as port:0x3f8:1:write");
    let parts: Vec<&str> = word.split(':').collect();
    let [space, address, size, direction] = parts[..] else { return Err(wrong("there are four parts")) };
    let is_mmio = match space {
        "port" => false,
        "mmio" => true,
        _ => return Err(wrong("the space is port or mmio")),
    };
    let number = match address.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => address.parse().ok(),
    };
    let most = if is_mmio { 1 << 46 } else { 0x1_0000 };
    let address = number.filter(|address| *address < most);
    let address = address.ok_or_else(|| wrong(&format!("`{}` is no such address", parts[1])))?;
    let size = match (size, is_mmio) {
        ("1", _) => 1,
        ("2", _) => 2,
        ("4", _) => 4,
        ("8", true) => 8,
        _ => return Err(wrong("the size is 1, 2, 4, or 8 in memory")),
    };
    let is_write = match direction {
        "write" => true,
        "read" => false,
        _ => return Err(wrong("the direction is read or write")),
    };
    Ok(Pattern { access: Access { is_mmio, is_write, size }, address })
}

impl Pattern {
    /// As the command line has it.
    fn name(&self) -> String {
        let Access { is_mmio, is_write, size } = self.access;
        let space = if is_mmio { "mmio" } else { "port" };
        format!("{space}:{:#x}:{size}:{}", self.address, if is_write { "write" } else { "read" })
    }

    /// Names of the exits in a report that may be its own.
    fn exits(&self) -> &'static [&'static str] {
        match (self.access.is_mmio, self.access.is_write) {
            (false, true) => &["port write", "port posted write"],
            (false, false) => &["port read"],
            (true, true) => &["mmio write", "mmio posted write"],
            (true, false) => &["mmio read"],
        }
    }
}

/// Runs the plugin with such a guest.
pub fn measure(
    plugin: &Path,
    pattern: &Pattern,
    place: &Place,
    args: &BenchArgs,
    around: &Around<'_>,
) -> Result<Measured, BenchError> {
    let khz = clock::measure_khz(Duration::from_millis(20));
    let instruction = pattern.access.instruction();
    let ticks = pinned(place, || (around.floor)(&instruction, FLOOR_ROUNDS)).map_err(BenchError::Floor)?;
    let mut floor = histogram();
    ticks.iter().for_each(|ticks| floor.saturating_record(clock::to_ns(*ticks, khz)));
    let report = run(plugin, pattern, place, args)?;
    let own = exit_of(&report, pattern, args.iterations)?;
    let period = all_of(&own);
    let added = Some(period.value_at_quantile(0.5) as i64);
    Ok(Measured { name: pattern.name(), place: place.clone(), period, floor, own: Some(own), added })
}

fn run(plugin: &Path, pattern: &Pattern, place: &Place, args: &BenchArgs) -> Result<Value, BenchError> {
    let failed = |why: String| BenchError::Run { row: pattern.name(), why };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(["run", "--json", &format!("--spin={}", args.spin), "--plugin"]).arg(plugin);
    let on = place.cpus.map_or_else(String::new, |(_, plugin)| format!("@{plugin}"));
    command.arg(format!("--drill={}:{}{on}", pattern.name(), args.iterations));
    for param in &args.params {
        command.arg("-p").arg(param);
    }
    if let Some((vmm, _)) = place.cpus {
        command.arg(format!("--cpu-affinity={vmm}"));
    }
    command.args(&args.run_options).stdin(Stdio::null());
    let done = command.output().map_err(|error| failed(error.to_string()))?;
    report(&done.stdout)
        .ok_or_else(|| failed(format!("{}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim())))
}

/// The report of the VMM, behind whatever the plugin printed.
fn report(bytes: &[u8]) -> Option<Value> {
    const BEGIN: &[u8] = b"{\"elapsed_ns\":";
    let at = bytes.windows(BEGIN.len()).rposition(|window| window == BEGIN)?;
    serde_json::from_slice(&bytes[at..]).ok()
}

fn exit_of(report: &Value, pattern: &Pattern, count: u32) -> Result<Value, BenchError> {
    let exits = report["exits"].as_array().map_or(&[][..], Vec::as_slice);
    let done = |exit: &&Value| exit["count"].as_u64().is_some_and(|done| done >= u64::from(count) / 2);
    let named =
        |names: &[&str]| exits.iter().filter(|exit| names.iter().any(|name| exit["exit"] == *name)).find(done).cloned();
    match named(pattern.exits()) {
        Some(exit) => Ok(exit),
        None if named(&["unclaimed access"]).is_some() => {
            Err(BenchError::NotReserved(pattern.name(), "it has not reserved that address"))
        }
        None if exits.is_empty() => Err(BenchError::NotReserved(
            pattern.name(),
            "there is memory, or KVM serves it itself, or the guest's CPU has no such address",
        )),
        None => {
            let why = report["outcome"].as_str().unwrap_or("it ended early").to_owned();
            Err(BenchError::Run { row: pattern.name(), why })
        }
    }
}

/// The times of a report, as finely as it has them.
fn all_of(exit: &Value) -> Histogram<u64> {
    let mut all = histogram();
    for pair in exit["all_outside_ns"].as_array().map_or(&[][..], Vec::as_slice) {
        if let (Some(ns), Some(count)) = (pair[0].as_u64(), pair[1].as_u64()) {
            all.saturating_record_n(ns, count);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read() {
        for word in ["port:0x3f8:1:write", "mmio:0xfed00000:8:read"] {
            assert_eq!(pattern(word).unwrap().name(), word);
        }
        assert_eq!(pattern("port:16:4:read").unwrap().name(), "port:0x10:4:read");
        for (wrong, said) in [
            ("port:1:1", "four parts"),
            ("io:1:1:read", "port or mmio"),
            ("port:0x10000:1:read", "no such address"),
            ("port:0x10:8:read", "the size"),
            ("mmio:0x10:3:read", "the size"),
            ("mmio:0x10:4:both", "read or write"),
        ] {
            assert!(pattern(wrong).unwrap_err().contains(said), "{wrong}");
        }
    }

    #[test]
    fn a_report_is_found_behind_other_words() {
        assert_eq!(report(b"hello {\"elapsed_ns\":1}\n").unwrap()["elapsed_ns"], 1);
        assert!(report(b"hello").is_none());
    }
}
