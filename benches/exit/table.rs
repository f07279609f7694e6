//! The table of the exit bench, and its verdicts.

use serde_json::{Value, json};

use crate::common::args::Args;
use crate::common::place::{Place, word};
use crate::common::report::Report;
use crate::row::Bound;
use crate::subject::Measured;

/// Most that p99 may be above the floor's, in nanoseconds, where both sides have a CPU of their own.
const ADDED_P99: f64 = 2_000.0;

/// Prints the rows of one placement.
pub struct Table<'a> {
    report: &'a Report,
    place: &'a Place,
    args: &'a Args,
    /// Nothing is printed before the first row.
    begun: bool,
}

/// One row.
pub struct Line<'a> {
    /// Its name.
    pub name: &'a str,
    /// What was measured.
    pub measured: &'a Measured,
    /// What it must not exceed.
    pub bound: Bound,
    /// What the VMM's report says about this kind of exit, and the whole report.
    pub own: Option<(Value, Value)>,
}

impl<'a> Table<'a> {
    /// An empty table.
    pub fn new(report: &'a Report, place: &'a Place, args: &'a Args) -> Table<'a> {
        Table { report, place, args, begun: false }
    }

    /// The name that filters see: `apart: port out`.
    pub fn full_name(&self, row: &str) -> String {
        format!("{}: {row}", self.place.name)
    }

    /// Ticks that may be negative, as nanoseconds.
    pub fn ns(&self, ticks: i64) -> f64 {
        self.report.ticks_ns(ticks.unsigned_abs()) as f64 * ticks.signum() as f64
    }

    /// Prints a row and writes its JSON line.
    pub fn line(&mut self, line: &Line<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.head();
        }
        let Measured { subject, floor, line: round_trip, .. } = line.measured;
        let ns = |ticks, quantile| self.report.ns(ticks, quantile);
        print!("{:<32}{:>7}{:>8}{:>8} |", line.name, subject.len(), ns(floor, 0.5), ns(floor, 0.99));
        for quantile in [0.5, 0.9, 0.99, 0.999] {
            print!("{:>8}", ns(subject, quantile));
        }
        let added = (self.ns(line.measured.added), self.ns(line.measured.added_p99()));
        print!(" |{:>8}{:>8} |", added.0, added.1);
        let own = |label| line.own.as_ref().and_then(|(kind, _)| kind["outside_ns"][label].as_u64());
        print!("{:>8}{:>8} |", or_dash(own("p50")), or_dash(own("p99")));
        print!("{:>6} |", or_dash(round_trip.as_ref().map(|ticks| ns(ticks, 0.5))));
        let verdicts = self.verdicts(line, added);
        for (said, _) in &verdicts {
            print!(" {said}");
        }
        println!();
        self.json(line, added, verdicts.iter().map(|(_, json)| json.clone()).collect());
    }

    fn head(&self) {
        let Place { name, vmm, plugin } = self.place;
        let options = [&["--spin".to_owned(), self.args.spin.clone()], &self.args.run[..]].concat().join(" ");
        println!("\n{name}: the vCPU on {}, the other side on {}; {options}; ns", word(vmm), word(plugin));
        if self.place.is_apart() {
            println!(
                "bounds of what is added: an exchange 1.2 t + 100, posted t/2 + 60, registers 300 more than port out"
            );
        }
        println!("{:<39}{:>16} |{:>32} |{:>16} |{:>16} |", "", "bare KVM_RUN", "exit to exit", "added", "VMM's own");
        print!("{:<32}{:>7}{:>8}{:>8} |", "exit", "count", "p50", "p99");
        print!("{:>8}{:>8}{:>8}{:>8} |{:>8}{:>8} |", "p50", "p90", "p99", "p99.9", "p50", "p99");
        println!("{:>8}{:>8} |{:>6} | within its bounds?", "p50", "p99", "t");
    }

    /// What is within its bounds and what is not: for people and for programs.
    fn verdicts(&self, line: &Line<'_>, added: (f64, f64)) -> Vec<(String, Value)> {
        let mut verdicts = Vec::new();
        let mut judge = |what: &str, formula: &str, got: f64, limit: f64| {
            let holds = got <= limit;
            let word = if holds { "yes" } else { "no" };
            let json = json!({"of": what, "bound": formula, "limit": limit, "got": got, "holds": holds});
            verdicts.push((format!("{what} {limit:.0}: {word}"), json));
        };
        let round_trip = line.measured.line.as_ref().map(|ticks| self.report.ns(ticks, 0.5) as f64);
        let other = line.measured.other_added.map(|ticks| self.ns(ticks));
        if let Some(limit) = line.bound.limit(round_trip, other) {
            judge("p50", line.bound.formula(), added.0, limit);
        }
        if self.place.is_apart() && line.bound == Bound::Exchange {
            judge("p99", "2 us", added.1, ADDED_P99);
        }
        verdicts
    }

    fn json(&self, line: &Line<'_>, added: (f64, f64), verdicts: Vec<Value>) {
        let measured = line.measured;
        let json = json!({
            "place": self.place.name,
            "cpus": {"vmm": self.place.vmm, "plugin": self.place.plugin},
            "spin": self.args.spin,
            "run": self.args.run,
            "period": self.report.quantiles(&measured.subject),
            "floor": self.report.quantiles(&measured.floor),
            "line": measured.line.as_ref().map(|ticks| self.report.quantiles(ticks)),
            "added": {"unit": "ns", "p50": added.0, "p99": added.1},
            "compared_with_added": measured.other_added.map(|ticks| self.ns(ticks)),
            "outside_of_kvm_run": line.own.as_ref().map(|(kind, _)| kind["outside_ns"].clone()),
            "inside_kvm_run": line.own.as_ref().map(|(_, vmm)| vmm["inside_kvm_run_ns"].clone()),
            "waits": line.own.as_ref().map(|(_, vmm)| vmm["waits"].clone()),
            "verdicts": verdicts,
        });
        self.report.json(line.name, json);
    }
}

fn or_dash(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
