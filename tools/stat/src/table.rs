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
        format!(
            "VM {}  {state}  {} vCPU{}  up {seconds} s  {plugin}",
            vm.title(),
            said.vcpus,
            if said.vcpus == 1 { "" } else { "s" }
        ),
        format!(
            "waits: {} spun, {} slept, {} wakes, {} ring full; {} interrupted; {} trace lost",
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
    let columns = Columns::new(view, width);
    let mut lines = vec![titles(view, &columns)];
    lines.extend(rows(&look.snapshot, view).iter().map(|row| line(look, view, row, &columns)));
    lines
}

/// What is shown, and how wide.
#[derive(Debug, PartialEq, Eq)]
struct Columns {
    count: usize,
    rate: usize,
    share: usize,
    quantile: usize,
    /// How many of the three quantiles there is room for.
    quantiles: usize,
    /// The parts have columns of their own.
    parts: bool,
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

impl Columns {
    fn new(view: &View, width: usize) -> Columns {
        let names = 18 + if view.by_vcpu { 5 } else { 0 } + if view.by_range { 22 } else { 0 };
        let usual = Columns { count: 11, rate: 10, share: 7, quantile: 9, quantiles: 3, parts: width >= WIDE };
        if width >= names + 28 + 27 {
            return usual;
        }
        let quantiles = (width.saturating_sub(names + 24) / 8).clamp(1, 3);
        Columns { count: 9, rate: 9, share: 6, quantile: 8, quantiles, parts: false }
    }
}

fn titles(view: &View, columns: &Columns) -> String {
    let mut line = String::new();
    if view.by_vcpu {
        line.push_str("vCPU ");
    }
    let _ = write!(line, "{:<18}", "exit");
    if view.by_range {
        let _ = write!(line, "{:<22}", "range");
    }
    let Columns { count, rate, share, quantile: width, .. } = *columns;
    let _ = write!(line, "{:>count$}{:>rate$}{:>share$}", "count", "per s", "time%");
    let part = if view.part == Part::Whole { "us" } else { view.part.name() };
    for (name, _) in &QUANTILES[..columns.quantiles] {
        // A part with a long name takes the place of the unit.
        let title = if *name == "p50" && width > 8 { format!("{name} {part}") } else { (*name).to_owned() };
        let _ = write!(line, "{title:>width$}");
    }
    if columns.parts {
        let _ = write!(line, "{:>9}{:>9} |", "mean", "max");
        for part in [Part::Publish, Part::Plugin, Part::Enter] {
            let _ = write!(line, "{:>12}{:>9}", format!("{} p50", part.name()), "p99");
        }
    }
    line
}

fn line(look: &Look, view: &View, row: &Row, columns: &Columns) -> String {
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
    let Columns { count, rate, share: share_width, quantile: width, .. } = *columns;
    let _ = write!(line, "{:>count$}{per_second:>rate$.0}{share:>share_width$.1}", row.counts.count);
    let quantiles = |line: &mut String, part: Part, widths: &[(f64, usize)]| {
        let ticks = row.counts.part(part);
        for (quantile, width) in widths {
            let text = if ticks.count() == 0 { "-".to_owned() } else { us(ticks.quantile(*quantile)) };
            let _ = write!(line, "{text:>width$}");
        }
    };
    let shown: Vec<(f64, usize)> =
        QUANTILES[..columns.quantiles].iter().map(|(_, quantile)| (*quantile, width)).collect();
    quantiles(&mut line, view.part, &shown);
    if columns.parts {
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
    use super::*;

    #[test]
    fn a_narrow_terminal_has_whole_columns() {
        let view = |by_range, by_vcpu| View { by_range, by_vcpu, ..View::default() };
        for (view, quantiles) in
            [(view(false, false), 3), (view(false, true), 3), (view(true, false), 2), (view(true, true), 1)]
        {
            let columns = Columns::new(&view, 80);
            assert_eq!(columns.quantiles, quantiles, "{view:?}");
            assert!(titles(&view, &columns).len() <= 80, "{}", titles(&view, &columns));
        }
        assert!(Columns::new(&view(true, true), 200).parts);
    }

    #[test]
    fn times_fit_their_column() {
        for (ns, said) in [(0, "0.00"), (56, "0.06"), (99_999, "100.00"), (1_234_567, "1235"), (12_345_678, "12 ms")] {
            assert_eq!(us(ns), said);
        }
        assert!((0..64).all(|bit| us(1 << bit).len() <= 14 && (bit > 60 || us(1 << bit).len() <= 12)));
    }
}
