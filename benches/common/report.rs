//! Tables for people, JSON lines for programs.

use std::io::Write as _;

use hdrhistogram::Histogram;
use outboard_wire::clock;
use serde_json::{Value, json};

/// Quantiles of every row.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// Prints rows of one bench.
pub struct Report {
    bench: &'static str,
    host: Value,
    khz: u64,
}

impl Report {
    /// Prints the host's facts, for a bench with tables of its own.
    pub fn with_facts(bench: &'static str, khz: u64) -> Report {
        let host = super::facts::host();
        println!("{}", super::facts::line(&host));
        Report { bench, host, khz }
    }

    /// Prints the host's facts and the head of a table.
    pub fn new(bench: &'static str, khz: u64) -> Report {
        let report = Report::with_facts(bench, khz);
        println!("{:<44} {:>10} {:>10} {:>10} {:>10} {:>10}   (ns)", bench, "count", "p50", "p90", "p99", "p99.9");
        report
    }

    /// Prints a row of ticks as nanoseconds, and the same as a JSON line.
    pub fn row(&self, name: &str, ticks: &Histogram<u64>, more: Value) {
        let ns = |quantile| clock::to_ns(ticks.value_at_quantile(quantile), self.khz);
        print!("{name:<44} {:>10}", ticks.len());
        for (_, quantile) in QUANTILES {
            print!(" {:>10}", ns(quantile));
        }
        println!();
        let mut json = self.quantiles(ticks);
        json["more"] = more;
        self.json(name, json);
    }

    /// Count and quantiles of ticks, in nanoseconds.
    pub fn quantiles(&self, ticks: &Histogram<u64>) -> Value {
        let mut json = json!({"unit": "ns", "count": ticks.len(), "max": clock::to_ns(ticks.max(), self.khz)});
        for (label, quantile) in QUANTILES {
            json[label] = json!(self.ns(ticks, quantile));
        }
        json
    }

    /// Nanoseconds of a quantile.
    pub fn ns(&self, ticks: &Histogram<u64>, quantile: f64) -> u64 {
        clock::to_ns(ticks.value_at_quantile(quantile), self.khz)
    }

    /// Ticks as nanoseconds.
    pub fn ticks_ns(&self, ticks: u64) -> u64 {
        clock::to_ns(ticks, self.khz)
    }

    /// Appends a JSON line: the fields of an object, with the row's name and the host's facts.
    pub fn json(&self, row: &str, mut line: Value) {
        let Some(path) = std::env::var_os("OUTBOARD_BENCH_JSON") else { return };
        line["bench"] = json!(self.bench);
        line["row"] = json!(row);
        line["host"] = self.host.clone();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("cannot append to {}: {error}", path.to_string_lossy());
        }
    }
}

/// A histogram of ticks from 1 to a few minutes, three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 40, 3).expect("valid bounds")
}
