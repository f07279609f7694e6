//! Tables for people, JSON lines for programs.

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
    /// Prints the head of a table.
    pub fn new(bench: &'static str, khz: u64) -> Report {
        let host = super::facts::host();
        println!("{}", super::facts::line(&host));
        println!("{:<44} {:>10} {:>10} {:>10} {:>10} {:>10}   (ns)", bench, "count", "p50", "p90", "p99", "p99.9");
        Report { bench, host, khz }
    }

    /// Prints a row of ticks as nanoseconds, and the same as a JSON line.
    pub fn row(&self, name: &str, ticks: &Histogram<u64>, more: Value) {
        let ns = |quantile| clock::to_ns(ticks.value_at_quantile(quantile), self.khz);
        print!("{name:<44} {:>10}", ticks.len());
        for (_, quantile) in QUANTILES {
            print!(" {:>10}", ns(quantile));
        }
        println!();
        let mut json = json!({"bench": self.bench, "row": name, "unit": "ns", "count": ticks.len(), "host": self.host});
        for (label, quantile) in QUANTILES {
            json[label] = json!(ns(quantile));
        }
        json["max"] = json!(clock::to_ns(ticks.max(), self.khz));
        json["more"] = more;
        self.json(&json);
    }

    /// Nanoseconds of a quantile.
    pub fn ns(&self, ticks: &Histogram<u64>, quantile: f64) -> u64 {
        clock::to_ns(ticks.value_at_quantile(quantile), self.khz)
    }

    fn json(&self, line: &Value) {
        if let Some(path) = std::env::var_os("OUTBOARD_BENCH_JSON") {
            use std::io::Write as _;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
            if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
                eprintln!("cannot append to {}: {error}", path.to_string_lossy());
            }
        }
    }
}

/// A histogram of ticks from 1 to a few minutes, three significant digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 1 << 40, 3).expect("valid bounds")
}
