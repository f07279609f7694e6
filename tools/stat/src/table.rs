//! Tables of text, as wide as there is room. Pure.

use std::fmt::Write;

use super::Look;
use super::rows::{Row, View, rows};
use outboard_reach::find::Running;
use outboard_wire::stats::buckets::Part;

/// Width of a table when nobody says how wide the terminal is.
const USUAL: usize = 100;
/// From this width on, the parts have columns of their own.
const WIDE: usize = 130;

/// The whole table, for `--once`.
pub fn whole(vm: &Running, look: &Look, view: &View) -> String {
    let mut text = String::new();
    for line in head(vm, look).into_iter().chain(lines(look, view, USUAL)) {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// What is above the table: the VM, and how its waits went.
pub fn head(vm: &Running, look: &Look) -> Vec<String> {
    let said = &look.snapshot.vm;
    let seconds = look.ns(look.tsc.saturating_sub(said.start_tsc)) / 1_000_000_000;
    let plugin = if said.path.is_empty() { "the embedded machine" } else { &said.path };
    let state = if look.ended { "ended" } else { said.state_name() };
    let waits = look.snapshot.waits();
    let sum = |of: fn(&outboard_wire::stats::read::Vcpu) -> u64| look.snapshot.vcpus.iter().map(of).sum::<u64>();
    vec![
        format!("VM {}  {state}  {} vCPUs  up {seconds} s  {plugin}", vm.title(), said.vcpus),
        format!(
            "waits: {} spun, {} slept, {} wakes, {} on a full ring; {} interrupted; {} trace records lost",
            waits.spun,
            waits.slept,
            waits.wakes,
            waits.ring_full,
            sum(|vcpu| vcpu.interrupted),
            sum(|vcpu| vcpu.dropped)
        ),
    ]
}

/// The table: a line of titles, then the rows.
pub fn lines(look: &Look, view: &View, width: usize) -> Vec<String> {
    let wide = width >= WIDE;
    let mut lines = vec![titles(view, wide)];
    lines.extend(rows(&look.snapshot, view).iter().map(|row| line(look, view, row, wide)));
    lines
}

fn titles(view: &View, wide: bool) -> String {
    let mut line = String::new();
    if view.by_vcpu {
        line.push_str("vCPU ");
    }
    let _ = write!(line, "{:<18}", "exit");
    if view.by_range {
        let _ = write!(line, "{:<22}", "range");
    }
    let _ = write!(line, "{:>11}{:>10}{:>7}", "count", "per s", "time%");
    let part = if view.part == Part::Whole { "us" } else { view.part.name() };
    for quantile in ["p50", "p99", "p99.9"] {
        let _ = write!(line, "{:>9}", format!("{quantile} {}", if quantile == "p50" { part } else { "" }).trim_end());
    }
    if wide {
        let _ = write!(line, "{:>9}{:>9} |", "mean", "max");
        for part in [Part::Publish, Part::Plugin, Part::Enter] {
            let _ = write!(line, "{:>12}{:>9}", format!("{} p50", part.name()), "p99");
        }
    }
    line
}

fn line(look: &Look, view: &View, row: &Row, wide: bool) -> String {
    let us = |ticks| us(look.ns(ticks));
    let mut line = String::new();
    if view.by_vcpu {
        let _ = write!(line, "{:<5}", row.vcpu.unwrap_or(0));
    }
    let _ = write!(line, "{:<18}", row.exit);
    if view.by_range {
        let _ = write!(line, "{:<22}", row.range_name());
    }
    let per_second = row.counts.count as f64 / (look.ns(look.span).max(1) as f64 / 1e9);
    let share = 100.0 * row.share(look.span, look.snapshot.vm.vcpus);
    let _ = write!(line, "{:>11}{:>10.0}{:>7.1}", row.counts.count, per_second, share);
    let quantiles = |line: &mut String, part: Part, widths: &[(f64, usize)]| {
        let ticks = row.counts.part(part);
        for (quantile, width) in widths {
            let text = if ticks.count() == 0 { "-".to_owned() } else { us(ticks.quantile(*quantile)) };
            let _ = write!(line, "{text:>width$}");
        }
    };
    quantiles(&mut line, view.part, &[(0.5, 9), (0.99, 9), (0.999, 9)]);
    if wide {
        let _ = write!(line, "{:>9}{:>9} |", us(row.counts.mean(Part::Whole)), us(row.counts.max));
        for part in [Part::Publish, Part::Plugin, Part::Enter] {
            quantiles(&mut line, part, &[(0.5, 12), (0.99, 9)]);
        }
    }
    line
}

/// Nanoseconds as microseconds, in at most eight characters.
fn us(ns: u64) -> String {
    match ns {
        0..100_000 => format!("{:.2}", ns as f64 / 1e3),
        100_000..10_000_000 => format!("{:.0}", ns as f64 / 1e3),
        10_000_000..100_000_000_000 => format!("{:.0} ms", ns as f64 / 1e6),
        _ => format!("{:.0} s", ns as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::us;

    #[test]
    fn times_fit_their_column() {
        for (ns, said) in [(0, "0.00"), (56, "0.06"), (99_999, "100.00"), (1_234_567, "1235"), (12_345_678, "12 ms")] {
            assert_eq!(us(ns), said);
        }
        assert!((0..64).all(|bit| us(1 << bit).len() <= 14 && (bit > 60 || us(1 << bit).len() <= 12)));
    }
}
