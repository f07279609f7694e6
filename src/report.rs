//! The end report: a table for people, JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::floor;
use crate::plugin::Report;
use outboard_wire::clock;
use outboard_wire::stats::buckets::{Histogram, Part};
use outboard_wire::stats::cell::Kind;
use outboard_wire::stats::read::Counts;

/// Calls of `KVM_RUN` that a floor is measured with.
const FLOOR_ROUNDS: u32 = 2000;

/// The floors of the kinds of access that a run had.
#[derive(Debug, Default)]
pub struct Floors(Vec<(Kind, Histogram)>);

impl Floors {
    /// Measures, on this machine and now, what `KVM_RUN` alone costs for each kind that the run had. What cannot be
    /// measured is left out.
    pub fn measure(report: &Report) -> Floors {
        let system = &report.kvm;
        let had = report.stats.kinds().into_keys();
        Floors(had.filter_map(|kind| Some((kind, floor::measure(system, kind, FLOOR_ROUNDS).ok()??))).collect())
    }

    fn of(&self, kind: Kind) -> Option<&Histogram> {
        self.0.iter().find(|(other, _)| *other == kind).map(|(_, ticks)| ticks)
    }
}

/// The table: per kind of exit the count, what the plugin added outside of `KVM_RUN`, and the floor beside it.
pub fn table(report: &Report, floors: &Floors) -> String {
    let us = |ticks| clock::to_ns(ticks, report.tsc_khz) as f64 / 1000.0;
    let mut text = String::new();
    let _ = writeln!(text, "{:>44}   {:>18}", "outside of KVM_RUN (us)", "bare KVM_RUN (us)");
    let _ =
        writeln!(text, "{:<20}{:>8}{:>9}{:>9}{:>9}{:>10}{:>9}", "exit", "count", "p50", "p99", "p99.9", "p50", "p99");
    for (kind, counts) in report.stats.kinds() {
        let ticks = counts.part(Part::Whole);
        let _ = write!(text, "{:<20}{:>8}", kind.name(), counts.count);
        for quantile in [0.5, 0.99, 0.999] {
            let _ = write!(text, "{:>9.2}", us(ticks.quantile(quantile)));
        }
        match floors.of(kind) {
            Some(floor) => {
                let _ = writeln!(text, "{:>10.2}{:>9.2}", us(floor.quantile(0.5)), us(floor.quantile(0.99)));
            }
            None => text.push_str("         -        -\n"),
        }
    }
    let waits = report.stats.waits();
    let _ = writeln!(
        text,
        "waits for the plugin: {} spun, {} slept; the plugin was woken {} times",
        waits.spun, waits.slept, waits.wakes
    );
    text
}

/// The same as one JSON object. Times are nanoseconds.
///
/// With `whole`, each kind of exit also has all of its times: pairs of a time and how often it was.
pub fn json(report: &Report, floors: &Floors, whole: bool) -> Value {
    let ns = |ticks| clock::to_ns(ticks, report.tsc_khz);
    let times = |ticks: &Histogram| {
        json!({
            "min": ns(ticks.quantile(0.0)),
            "p50": ns(ticks.quantile(0.5)),
            "p90": ns(ticks.quantile(0.9)),
            "p99": ns(ticks.quantile(0.99)),
            "p99.9": ns(ticks.quantile(0.999)),
            "p99.99": ns(ticks.quantile(0.9999)),
            "max": ns(ticks.max()),
        })
    };
    let part = |counts: &Counts, part| {
        let ticks = Some(counts.part(part)).filter(|ticks| ticks.count() > 0)?;
        let mut times = times(ticks);
        times["mean"] = ns(counts.mean(part)).into();
        Some(times)
    };
    let all = |counts: &Counts| {
        let middle = |((low, high), count)| (ns(low + (high - low) / 2), count);
        whole.then(|| counts.part(Part::Whole).filled().map(middle).collect::<Vec<(u64, u64)>>())
    };
    let exits: Vec<Value> = report
        .stats
        .kinds()
        .iter()
        .map(|(kind, counts)| {
            let kind = *kind;
            json!({
                "exit": kind.name(),
                "count": counts.count,
                "outside_ns": part(counts, Part::Whole),
                "all_outside_ns": all(counts),
                "publish_ns": part(counts, Part::Publish),
                "plugin_ns": part(counts, Part::Plugin),
                "enter_ns": part(counts, Part::Enter),
                "bare_kvm_run_ns": floors.of(kind).map(times),
            })
        })
        .collect();
    let waits = report.stats.waits();
    json!({
        "status": report.outcome.exit_status(),
        "outcome": report.outcome.to_string(),
        "elapsed_ns": report.elapsed.as_nanos() as u64,
        "tsc_khz": report.tsc_khz,
        "exits": exits,
        "inside_kvm_run_ns": part(&report.stats.inside(), Part::Whole),
        "interrupted": report.stats.vcpus.iter().map(|vcpu| vcpu.interrupted).sum::<u64>(),
        "waits": {
            "spun": waits.spun,
            "slept": waits.slept,
            "wakes": waits.wakes,
            "ring_full": waits.ring_full,
        },
    })
}
