//! Log-linear buckets of times in TSC ticks, and a histogram made of them.
//!
//! Below 64 ticks each value has a bucket; above, each power of two has 32, so that a value is known to 3 percent.

/// Buckets per power of two.
pub const SUB: usize = 32;
/// Values below this have a bucket each.
pub const LINEAR: usize = 2 * SUB;
/// The first power of two with 32 buckets.
const FIRST_BIT: u32 = 6;
/// Powers of two that are told apart. Values of 2^42 ticks (about half an hour) and more share the last bucket.
pub const OCTAVES: usize = 36;
/// Buckets of a histogram.
pub const BUCKETS: usize = LINEAR + OCTAVES * SUB;

/// The parts of an exit that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// From the guest's exit to the event's publication.
    Publish,
    /// From there to the answer: the plugin's time, and the way there and back.
    Plugin,
    /// From there to the moment before the guest is entered again.
    Enter,
    /// All three.
    Whole,
}

/// Number of parts.
pub const PARTS: usize = 4;

impl Part {
    /// Every part, in the order of the layout.
    pub const ALL: [Part; PARTS] = [Part::Publish, Part::Plugin, Part::Enter, Part::Whole];

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Part::Publish => "publish",
            Part::Plugin => "plugin",
            Part::Enter => "enter",
            Part::Whole => "whole",
        }
    }
}

/// Where a value is counted: among the single values, or in a bucket of an octave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Linear(usize),
    Octave(usize, usize),
}

#[inline]
pub(super) fn place(ticks: u64) -> Place {
    if ticks < LINEAR as u64 {
        return Place::Linear(ticks as usize);
    }
    let bit = 63 - ticks.leading_zeros();
    let octave = (bit - FIRST_BIT) as usize;
    if octave >= OCTAVES {
        return Place::Octave(OCTAVES - 1, SUB - 1);
    }
    Place::Octave(octave, (ticks >> (bit - 5)) as usize % SUB)
}

#[inline]
fn index(ticks: u64) -> usize {
    match place(ticks) {
        Place::Linear(at) => at,
        Place::Octave(octave, at) => LINEAR + octave * SUB + at,
    }
}

/// Smallest and largest value of a bucket.
pub fn bounds(bucket: usize) -> (u64, u64) {
    if bucket < LINEAR {
        return (bucket as u64, bucket as u64);
    }
    let (octave, sub) = ((bucket - LINEAR) / SUB, (bucket - LINEAR) % SUB);
    let shift = octave as u32 + FIRST_BIT - 5;
    let low = ((SUB + sub) as u64) << shift;
    (low, low + (1 << shift) - 1)
}

/// Counts of values in TSC ticks. Recording takes a few nanoseconds and never allocates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, max: 0 }
    }
}

impl Histogram {
    /// A histogram of these buckets, as many as [`BUCKETS`]; further ones are left out. `max` is the largest value counted.
    pub fn of(buckets: &[u64], max: u64) -> Histogram {
        let mut all = vec![0; BUCKETS];
        all.iter_mut().zip(buckets).for_each(|(mine, theirs)| *mine = *theirs);
        let count = all.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        Histogram { buckets: all.into_boxed_slice(), count, max }
    }

    /// Counts a value.
    #[inline]
    pub fn record(&mut self, ticks: u64) {
        self.buckets[index(ticks)] += 1;
        self.count += 1;
        self.max = self.max.max(ticks);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// A value that at least this share of all values does not exceed; 0 if there are none.
    ///
    /// `quantile` is between 0 and 1. The result is the middle of a bucket, at most 1.6 percent from the truth, and no
    /// larger than the largest value.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen = seen.wrapping_add(*count);
            if seen >= wanted {
                let (low, high) = bounds(bucket);
                let value = if seen == self.count && quantile >= 1.0 { self.max } else { low + (high - low) / 2 };
                return value.min(self.max);
            }
        }
        0
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum = sum.wrapping_add(*count);
        }
        self.count = self.count.wrapping_add(other.count);
        self.max = self.max.max(other.max);
    }

    /// What was counted since an earlier state of the same histogram. The largest value stays that of all time.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let buckets: Vec<u64> =
            self.buckets.iter().zip(&earlier.buckets).map(|(now, then)| now.saturating_sub(*then)).collect();
        Histogram::of(&buckets, self.max)
    }

    /// The buckets that hold something: bounds and count.
    pub fn filled(&self) -> impl Iterator<Item = ((u64, u64), u64)> + '_ {
        self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| (bounds(at), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_its_bucket_which_is_at_most_three_percent_wide() {
        for bit in 0..42 {
            for ticks in [1u64 << bit, (1 << bit) + 1, (1 << bit) | ((1 << bit) / 3), (2 << bit) - 1] {
                let (low, high) = bounds(index(ticks));
                assert!(low <= ticks && ticks <= high && high - low <= ticks / 32, "{ticks} in {low}..={high}");
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        assert_eq!(index(1 << 42), BUCKETS - 1);
    }

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for bucket in 1..BUCKETS {
            assert_eq!(bounds(bucket).0, bounds(bucket - 1).1 + 1, "bucket {bucket}");
        }
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for ticks in 1..=50 {
            histogram.record(ticks);
        }
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99), histogram.quantile(0.0)), (25, 50, 1));
        let earlier = histogram.clone();
        let mut other = Histogram::default();
        other.record(1_000_000);
        histogram.merge(&other);
        assert_eq!((histogram.count(), histogram.max(), histogram.quantile(1.0)), (51, 1_000_000, 1_000_000));
        let since = histogram.since(&earlier);
        assert_eq!(since.count(), 1);
        assert!(since.quantile(0.5).abs_diff(1_000_000) < 16_000);
        assert_eq!(since.filled().count(), 1);
    }
}
