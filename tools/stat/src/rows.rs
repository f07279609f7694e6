//! What is shown: the counts of a snapshot, grouped and sorted. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use clap::ValueEnum;

use outboard_wire::stats::buckets::Part;
use outboard_wire::stats::cell::{Cell, INSIDE};
use outboard_wire::stats::read::{Counts, Range, Snapshot};

/// Order of rows, largest first except for names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Share of time.
    #[default]
    Time,
    /// Number of exits.
    Count,
    /// Median.
    P50,
    /// 99th percentile.
    P99,
    /// Name and range.
    Name,
}

impl Sort {
    /// The next one, round and round.
    pub fn next(self) -> Sort {
        let all = Sort::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }

    pub fn name(self) -> &'static str {
        match self {
            Sort::Time => "time",
            Sort::Count => "count",
            Sort::P50 => "p50",
            Sort::P99 => "p99",
            Sort::Name => "name",
        }
    }
}

/// How to show it.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// A row per reserved range, else per kind of exit.
    pub by_range: bool,
    /// Rows for each vCPU, else for all together.
    pub by_vcpu: bool,
    pub sort: Sort,
    pub reverse: bool,
    /// The part of an exit whose percentiles are shown.
    pub part: Part,
}

impl Default for View {
    fn default() -> View {
        View { by_range: false, by_vcpu: false, sort: Sort::default(), reverse: false, part: Part::Whole }
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    pub vcpu: Option<usize>,
    pub exit: &'static str,
    pub range: Option<Range>,
    pub counts: Counts,
}

impl Row {
    /// The share of the time that the vCPUs had together, 0 to 1.
    pub fn share(&self, span: u64, vcpus: usize) -> f64 {
        let vcpus = if self.vcpu.is_some() { 1 } else { vcpus.max(1) };
        self.counts.sums[Part::Whole as usize] as f64 / (span as f64 * vcpus as f64)
    }

    /// The range as people write it; empty if there is none.
    pub fn range_name(&self) -> String {
        self.range.map(range_name).unwrap_or_default()
    }
}

/// A range as people write it.
pub fn range_name(range: Range) -> String {
    if range.further {
        return "further ranges".to_owned();
    }
    let last = range.start.saturating_add(range.length.saturating_sub(1));
    let space = if range.mmio { "mmio" } else { "port" };
    let mark = if range.released { "!" } else { "" };
    match range.length {
        1 => format!("{space} {:x}{mark}", range.start),
        _ => format!("{space} {:x}-{last:x}{mark}", range.start),
    }
}

/// The rows of a snapshot, sorted. Time in `KVM_RUN` is a row too.
pub fn rows(snapshot: &Snapshot, view: &View) -> Vec<Row> {
    type Key = (Option<usize>, &'static str, Option<(bool, bool, u64, u64)>);
    let mut all: BTreeMap<Key, Row> = BTreeMap::new();
    for (vcpu, cells) in snapshot.vcpus.iter().enumerate() {
        for (cell, counts) in &cells.cells {
            let vcpu = view.by_vcpu.then_some(vcpu);
            let range = view.by_range.then(|| snapshot.range(*cell)).flatten();
            let exit = name(snapshot, *cell);
            let key = (vcpu, exit, range.map(|range| (range.further, range.mmio, range.start, range.length)));
            let row = all.entry(key).or_insert_with(|| Row { vcpu, exit, range, counts: Counts::default() });
            row.counts.merge(counts);
        }
    }
    let mut rows: Vec<Row> = all.into_values().collect();
    let quantile = |row: &Row, quantile| Reverse(row.counts.part(view.part).quantile(quantile));
    match view.sort {
        Sort::Time => rows.sort_by_key(|row| Reverse(row.counts.sums[Part::Whole as usize])),
        Sort::Count => rows.sort_by_key(|row| Reverse(row.counts.count)),
        Sort::P50 => rows.sort_by_key(|row| quantile(row, 0.5)),
        Sort::P99 => rows.sort_by_key(|row| quantile(row, 0.99)),
        Sort::Name => {}
    }
    if view.reverse {
        rows.reverse();
    }
    rows
}

fn name(snapshot: &Snapshot, cell: Cell) -> &'static str {
    if cell == INSIDE { "in KVM_RUN" } else { snapshot.name(cell) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_wire::stats::cell::UNCLAIMED;
    use outboard_wire::stats::read::Vcpu;

    fn counts(count: u64, whole: u64) -> Counts {
        Counts { count, sums: [0, 0, 0, whole], ..Counts::default() }
    }

    fn snapshot() -> Snapshot {
        let range = |start| Range { mmio: false, posted: false, released: false, further: false, start, length: 8 };
        let mut snapshot = Snapshot { ranges: vec![Some(range(0x3f8)), Some(range(0x60))], ..Snapshot::default() };
        for scale in [1, 10] {
            let mut vcpu = Vcpu::default();
            vcpu.cells.insert(INSIDE, counts(5 * scale, 1000 * scale));
            vcpu.cells.insert(UNCLAIMED, counts(scale, 2 * scale));
            vcpu.cells.insert(Cell::of_range(0, true, false), counts(2 * scale, 100 * scale));
            vcpu.cells.insert(Cell::of_range(1, true, false), counts(3 * scale, 10 * scale));
            snapshot.vcpus.push(vcpu);
        }
        snapshot
    }

    #[test]
    fn rows_are_grouped_as_asked() {
        let said = |view: View| -> Vec<(Option<usize>, &'static str, String, u64)> {
            let rows = rows(&snapshot(), &view);
            rows.iter().map(|row| (row.vcpu, row.exit, row.range_name(), row.counts.count)).collect()
        };
        let none = String::new;
        let kinds = vec![
            (None, "in KVM_RUN", none(), 55),
            (None, "port write", none(), 55),
            (None, "unclaimed access", none(), 11),
        ];
        assert_eq!(said(View::default()), kinds);
        let ranges = said(View { by_range: true, ..View::default() });
        assert_eq!(ranges[1], (None, "port write", "port 3f8-3ff".to_owned(), 22));
        assert_eq!(ranges[2], (None, "port write", "port 60-67".to_owned(), 33));
        assert_eq!(said(View { by_vcpu: true, ..View::default() }).len(), 6);
        let least_first = said(View { sort: Sort::Count, reverse: true, ..View::default() });
        assert_eq!(least_first[0].1, "unclaimed access");
    }

    #[test]
    fn shares_are_of_the_time_that_the_vcpus_had() {
        let row = Row { vcpu: None, exit: "x", range: None, counts: counts(1, 500) };
        assert_eq!(row.share(1000, 2), 0.25);
        assert_eq!(Row { vcpu: Some(0), ..row }.share(1000, 2), 0.5);
    }

    #[test]
    fn every_order_is_reached() {
        let mut sort = Sort::Time;
        for _ in Sort::value_variants() {
            sort = sort.next();
        }
        assert_eq!(sort, Sort::Time);
    }
}
