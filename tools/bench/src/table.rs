//! Tables, JSON and percentile files. Pure.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::measure::{Measured, Place};

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// What stands above the rows of a place.
pub fn head(place: &Place, spin: &str, what: &str) -> String {
    let cpus = place.cpus.map_or_else(
        || "placed by the scheduler".to_owned(),
        |(vmm, plugin)| format!("the vCPU on {vmm}, the plugin on {plugin}"),
    );
    let mut text = format!("\n{}: {cpus}; --spin {spin}; nanoseconds {what}\n", place.name);
    let _ = write!(text, "{:<28}{:>9}{:>8}{:>8}", "row", "count", "min", "mean");
    for (name, _) in QUANTILES {
        let _ = write!(text, "{name:>9}");
    }
    let _ = writeln!(text, "{:>9} |{:>8}{:>8}{:>11}{:>11}", "max", "floor", "added", "VMM whole", "VMM plugin");
    text
}

/// A row.
pub fn line(measured: &Measured) -> String {
    let Measured { name, period, floor, own, .. } = measured;
    let mut text = format!("{:<28}{:>9}{:>8}{:>8.0}", name, period.len(), period.min(), period.mean());
    for (_, quantile) in QUANTILES {
        let _ = write!(text, "{:>9}", period.value_at_quantile(quantile));
    }
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let part = |part: &str| own.as_ref().and_then(|own| own[part]["p50"].as_u64()).map(|ns| ns.to_string());
    let _ = writeln!(
        text,
        "{:>9} |{:>8}{:>8}{:>11}{:>11}",
        period.max(),
        floor.value_at_quantile(0.5),
        or_dash(measured.added.map(|ns| ns.to_string())),
        or_dash(part("outside_ns")),
        or_dash(part("plugin_ns"))
    );
    text
}

/// Everything as one JSON object.
pub fn json(all: &[Measured]) -> String {
    let times = |ns: &Histogram<u64>| {
        let mut object = json!({"count": ns.len(), "min": ns.min(), "mean": ns.mean(), "max": ns.max()});
        for (name, quantile) in QUANTILES {
            object[name] = ns.value_at_quantile(quantile).into();
        }
        object
    };
    let rows: Vec<Value> = all
        .iter()
        .map(|measured| {
            json!({
                "row": measured.name,
                "place": measured.place.name,
                "cpus": measured.place.cpus.map(|(vmm, plugin)| [vmm, plugin]),
                "period_ns": times(&measured.period),
                "floor_ns": times(&measured.floor),
                "added_ns": measured.added,
                "vmm": measured.own,
            })
        })
        .collect();
    format!("{}\n", json!({"rows": rows}))
}

/// The distributions as HdrHistogram's tools read them.
pub fn hgrm(all: &[Measured]) -> String {
    let mut text = String::new();
    for measured in all {
        let period = &measured.period;
        let _ = writeln!(text, "#[{} {}, nanoseconds]", measured.place.name, measured.name);
        let _ =
            writeln!(text, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        let mut total = 0;
        for step in period.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let inverse = if quantile < 1.0 { format!("{:>14.2}", 1.0 / (1.0 - quantile)) } else { String::new() };
            let _ = writeln!(text, "{:>12.3} {quantile:>14.12} {total:>10} {inverse}", step.value_iterated_to() as f64);
        }
        let (mean, deviation) = (period.mean(), period.stdev());
        let _ = writeln!(text, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
        let _ = writeln!(text, "#[Max     = {:>12.3}, Total count    = {:>12}]\n", period.max() as f64, period.len());
    }
    text
}
