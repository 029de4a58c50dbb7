//! How long something took, over fixed buckets.

use std::time::Duration;

use crate::Counter;

/// Upper bounds of the buckets, in microseconds: from a sync of fast flash to a request that waited for long. One more takes
/// what is beyond.
const BOUNDS_MICROS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// See the module. The buckets are the same for all, so that any two can be added.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each by itself; a page adds them up.
    buckets: [Counter; BOUNDS_MICROS.len() + 1],
    sum_micros: Counter,
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].inc();
        self.sum_micros.add(micros);
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// In seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum_micros.get() as f64 / 1e6
    }

    /// Upper bounds in seconds, with how many are at or below each; the last is all of them.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(&self.buckets).scan(0, |below, (bound, bucket)| {
            *below += bucket.get();
            Some((bound, *below))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_every_bucket_that_is_not_below_it() {
        let histogram = Histogram::default();
        for micros in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let buckets: Vec<_> = histogram.cumulative().collect();
        assert_eq!((buckets[0], buckets[1]), ((0.0001, 2), (0.00025, 3)));
        assert_eq!((buckets[15], buckets[16]), ((10.0, 4), (f64::INFINITY, 5)));
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 20.000_202).abs() < 1e-9);
    }
}
