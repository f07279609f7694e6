//! A histogram of latencies that records in a few nanoseconds and never allocates after its creation.
//!
//! Buckets are log-linear: exact below 64 ticks, then 32 buckets per power of two, so that a value is known to 3 percent.

/// Buckets per power of two.
const SUB: u64 = 32;
/// Values below this have a bucket each.
const LINEAR: u64 = 2 * SUB;
/// Values of 2^42 ticks (about half an hour) and more share the last bucket.
const TOP_BIT: u64 = 42;
const BUCKETS: usize = (LINEAR + (TOP_BIT - 6) * SUB) as usize;

/// Counts of values in ticks of the TSC.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        // Zeroed memory of the allocator: pages that no value falls into are never touched.
        Histogram { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, max: 0 }
    }
}

impl Histogram {
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
    /// `quantile` is between 0 and 1. The result is the upper end of a bucket, at most 3 percent too high.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let wanted = ((self.count as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_end(bucket as u64).min(self.max);
            }
        }
        0
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }
}

#[inline]
fn index(ticks: u64) -> usize {
    if ticks < LINEAR {
        return ticks as usize;
    }
    let exponent = u64::from(63 - ticks.leading_zeros());
    let bucket = LINEAR + (exponent - 6) * SUB + ((ticks >> (exponent - 5)) & (SUB - 1));
    (bucket as usize).min(BUCKETS - 1)
}

fn upper_end(bucket: u64) -> u64 {
    if bucket < LINEAR {
        return bucket;
    }
    let (exponent, sub) = (6 + (bucket - LINEAR) / SUB, (bucket - LINEAR) % SUB);
    ((SUB + sub + 1) << (exponent - 5)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lies_in_the_bucket_that_ends_at_most_three_percent_above_it() {
        for bit in 0..TOP_BIT {
            for ticks in [1u64 << bit, (1 << bit) + 1, (1 << bit) | ((1 << bit) / 3), (2 << bit) - 1] {
                let end = upper_end(index(ticks) as u64);
                assert!(end >= ticks && end - ticks <= ticks / 32, "{ticks} in a bucket that ends at {end}");
            }
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_of_known_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for ticks in 1..=50 {
            histogram.record(ticks);
        }
        assert_eq!((histogram.quantile(0.5), histogram.quantile(0.99), histogram.quantile(0.0)), (25, 50, 1));
        let mut other = Histogram::default();
        other.record(1_000_000);
        histogram.merge(&other);
        assert_eq!((histogram.count(), histogram.max(), histogram.quantile(1.0)), (51, 1_000_000, 1_000_000));
    }
}
