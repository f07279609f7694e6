//! How replays went: the first difference with what led to it, and the plugin's times.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use outboard_trace::describe;
use outboard_wire::clock;
use outboard_wire::control::Kind as Request;
use outboard_wire::line::FLAG_MMIO;
use outboard_wire::line::event_kind;
use outboard_wire::stats::buckets::Histogram;
use outboard_wire::stats::cell::event_name;
use outboard_wire::trace::kind;
use outboard_wire::trace::read::{Group, Trace};

/// Groups that are shown before a difference.
const CONTEXT: usize = 8;

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All answers are the recorded ones.
    Same,
    /// The answer at a record differs.
    Differs(usize, String),
    /// The plugin broke the protocol at a record.
    Violation(usize, String),
    /// It made a request that was not recorded: kind and body.
    Request(u16, Vec<u8>),
    /// It ended while a record waited, or before it started the vCPUs.
    Ended(Option<usize>, String),
    /// It did not answer in time.
    Hung(Option<usize>),
}

impl Outcome {
    /// The record that it is about.
    fn record(&self) -> Option<usize> {
        match self {
            Outcome::Same | Outcome::Request(..) => None,
            Outcome::Differs(record, _) | Outcome::Violation(record, _) => Some(*record),
            Outcome::Ended(record, _) | Outcome::Hung(record) => *record,
        }
    }

    fn sentence(&self) -> String {
        let at = |record: &Option<usize>| match record {
            Some(record) => format!("at record {record}"),
            None => "before it started the vCPUs".to_owned(),
        };
        match self {
            Outcome::Same => "no difference".to_owned(),
            Outcome::Differs(record, how) => format!("record {record} differs: the plugin answers with {how}"),
            Outcome::Violation(record, how) => format!("at record {record} the plugin {how}"),
            Outcome::Request(number, body) => {
                let name = Request::from_number(*number).map_or_else(|| number.to_string(), |kind| format!("{kind:?}"));
                format!("the plugin made a request that was not recorded: {name} with {} bytes", body.len())
            }
            Outcome::Ended(record, status) => format!("the plugin ended {} ({status})", at(record)),
            Outcome::Hung(record) => format!("the plugin did not go on {}", at(record)),
        }
    }
}

/// The plugin's times by kind of event: recorded, and replayed.
pub struct Table {
    khz: u64,
    rows: BTreeMap<&'static str, (Histogram, Histogram)>,
    /// Exchanges that were compared.
    compared: u64,
}

impl Table {
    /// With the recorded times.
    pub fn new(trace: &Trace) -> Table {
        let mut table = Table { khz: trace.header.tsc_khz, rows: BTreeMap::new(), compared: 0 };
        for group in trace.groups.iter().filter(|group| group.head.kind == kind::EXCHANGE) {
            table.rows.entry(name(group)).or_default().0.record(group.plugin());
        }
        table
    }

    /// Takes note of an answer's time.
    pub fn note(&mut self, group: &Group, ticks: u64) {
        self.rows.entry(name(group)).or_default().1.record(ticks);
        self.compared += 1;
    }

    /// For people: the result, what led to a difference, the times.
    pub fn text(&self, trace: &Trace, rounds: u32, outcome: &Outcome) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{} in {} answers, {rounds} replays", outcome.sentence(), self.compared);
        if let Some(record) = outcome.record() {
            let _ = write!(text, "{}", context(trace, record));
        }
        let us = |ticks| clock::to_ns(ticks, self.khz) as f64 / 1000.0;
        let _ =
            writeln!(text, "\n{:<20}{:>10}{:>27} |{:>36}", "the plugin's time", "", "replayed (us)", "recorded (us)");
        let _ = write!(text, "{:<20}{:>10}", "event", "count");
        let _ = writeln!(
            text,
            "{:>9}{:>9}{:>9} |{:>9}{:>9}{:>9}{:>9}",
            "p50", "p99", "p99.9", "count", "p50", "p99", "p99.9"
        );
        for (name, (recorded, replayed)) in &self.rows {
            let _ = write!(text, "{name:<20}{:>10}", replayed.count());
            for quantile in [0.5, 0.99, 0.999] {
                let _ = write!(text, "{:>9.2}", us(replayed.quantile(quantile)));
            }
            let _ = write!(text, " |{:>9}", recorded.count());
            for quantile in [0.5, 0.99, 0.999] {
                let _ = write!(text, "{:>9.2}", us(recorded.quantile(quantile)));
            }
            text.push('\n');
        }
        text
    }

    /// For programs. Times are nanoseconds.
    pub fn json(&self, rounds: u32, outcome: &Outcome) -> String {
        let times = |ticks: &Histogram| {
            let ns = |quantile| clock::to_ns(ticks.quantile(quantile), self.khz);
            json!({
                "count": ticks.count(),
                "p50": ns(0.5), "p99": ns(0.99), "p99.9": ns(0.999), "max": clock::to_ns(ticks.max(), self.khz),
            })
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|(name, (recorded, replayed))| {
                json!({"event": name, "replayed_ns": times(replayed), "recorded_ns": times(recorded)})
            })
            .collect();
        let object = json!({
            "same": *outcome == Outcome::Same,
            "result": outcome.sentence(),
            "record": outcome.record(),
            "replays": rounds,
            "answers": self.compared,
            "events": rows,
        });
        format!("{object}\n")
    }
}

/// The groups before a record, and the record, a line each.
fn context(trace: &Trace, record: usize) -> String {
    let Some(at) = trace.groups.iter().position(|group| group.number == record) else { return String::new() };
    let vcpu = trace.groups[at].head.vcpu;
    let before: Vec<&Group> = trace.groups[..at].iter().filter(|group| group.head.vcpu == vcpu).collect();
    let mut text = String::new();
    for group in &before[before.len().saturating_sub(CONTEXT)..] {
        let _ = writeln!(text, "  {:>8} {}", group.number, describe(trace, group));
    }
    let _ = writeln!(text, "> {:>8} {}", record, describe(trace, &trace.groups[at]));
    text
}

fn name(group: &Group) -> &'static str {
    let event = &group.head.event;
    match (event.kind, event.flags & FLAG_MMIO != 0) {
        (event_kind::READ, false) => "port read",
        (event_kind::READ, true) => "mmio read",
        (event_kind::WRITE, false) => "port write",
        (event_kind::WRITE, true) => "mmio write",
        (event_kind::INIT, _) => "init",
        (event_kind::PAUSED, _) => "pause",
        (kind, _) => event_name(kind),
    }
}
