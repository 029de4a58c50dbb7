//! How long to wait before trying again.

use std::time::Duration;

use highwater_seams::Entropy;

/// Doubles from `first` up to `max`, each varied by a fifth either way, so that clients do not march in step.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let wait = self.first.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let fifth = wait.as_micros() as u64 / 5;
        let jitter = Duration::from_micros(entropy.below(2 * fifth + 1));
        wait - Duration::from_micros(fifth) + jitter
    }

    /// Whether so much has failed in a row that what is known of the cluster may be stale.
    pub fn raises_doubt(&self) -> bool {
        self.failures >= 4
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use highwater_seams::SeededEntropy;

    use super::*;

    #[test]
    fn doubles_to_its_bound_and_varies_by_a_fifth() {
        let entropy = SeededEntropy::new(1);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(80));
        for expected in [10, 20, 40, 80, 80, 80] {
            let wait = backoff.next(&entropy).as_micros();
            assert!((expected * 800..=expected * 1200).contains(&wait), "{wait} for {expected} ms");
        }
        backoff.reset();
        assert!(backoff.next(&entropy) <= Duration::from_millis(12));
    }
}
