//! What is measured beside the floor, and how the two take turns.

use hdrhistogram::Histogram;

use crate::common::args::Args;
use crate::common::place::Place;
use crate::common::{line, report};

/// Somebody who runs the guest, a chunk at a time.
pub trait Subject {
    /// The TSC at each exit of one chunk.
    fn chunk(&mut self) -> Vec<u64>;
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Turns of floor and subject.
    pub turns: usize,
    /// Accesses in a chunk, those not counted included.
    pub chunk: u16,
    /// Accesses at the start of a chunk that are not counted: caches and spin policy warm up. More than a posted-write
    /// ring holds, because a ring may be filled before its plugin looks.
    pub warm_up: usize,
}

impl Amount {
    /// By the command line.
    pub fn new(args: &Args) -> Amount {
        let turns = args.count(24, 2);
        Amount { turns, chunk: args.count(1300, 400) as u16, warm_up: 300 }
    }
}

/// What came out. All times are ticks.
pub struct Measured {
    /// From exit to exit with the subject.
    pub subject: Histogram<u64>,
    /// From exit to exit with nobody.
    pub floor: Histogram<u64>,
    /// Round trips of a cache line between the two CPUs.
    pub line: Option<Histogram<u64>>,
    /// What the subject adds at p50: the median of what each turn adds to the floors before and after it.
    pub added: i64,
    /// What the other one added that it is compared with.
    pub other_added: Option<i64>,
}

impl Measured {
    /// Adds at p99, over all turns.
    pub fn added_p99(&self) -> i64 {
        self.subject.value_at_quantile(0.99) as i64 - self.floor.value_at_quantile(0.99) as i64
    }
}

/// Measures the line, the floor and the subject in turns, and with them another one that the subject is compared with.
pub fn measure(
    subject: &mut dyn Subject,
    mut other: Option<&mut (dyn Subject + '_)>,
    floor: &mut dyn Subject,
    place: &Place,
    amount: Amount,
) -> Measured {
    let mut measured = Measured {
        subject: report::histogram(),
        floor: report::histogram(),
        line: place.pair().map(|_| report::histogram()),
        added: 0,
        other_added: None,
    };
    let (mut added, mut other_added) = (Vec::new(), Vec::new());
    let mut before = count(&floor.chunk(), amount, &mut measured.floor);
    for _ in 0..amount.turns {
        if let (Some((a, b)), Some(line)) = (place.pair(), &mut measured.line) {
            line.add(line::round_trip(a, b, 2_000)).expect("the same bounds");
        }
        let with = count(&subject.chunk(), amount, &mut measured.subject);
        let with_other = other.as_mut().map(|other| count(&other.chunk(), amount, &mut report::histogram()));
        let after = count(&floor.chunk(), amount, &mut measured.floor);
        let between = (before + after) as i64 / 2;
        added.push(with as i64 - between);
        other_added.extend(with_other.map(|with| with as i64 - between));
        before = after;
    }
    measured.added = median(&mut added).unwrap_or(0);
    measured.other_added = median(&mut other_added);
    measured
}

fn median<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Counts the periods of a chunk behind its warm-up; returns their median.
fn count(left: &[u64], amount: Amount, into: &mut Histogram<u64>) -> u64 {
    assert_eq!(left.len(), usize::from(amount.chunk), "a chunk has another length");
    let mut periods: Vec<u64> = left[amount.warm_up..].windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    for period in &periods {
        into.saturating_record(*period);
    }
    median(&mut periods).unwrap_or(0)
}
