//! Pauses between attempts: growing, bounded, and never in step with everybody else's.

use std::time::Duration;

use highwater_seams::Entropy;

/// The pause after a failure, from `first` on doubling up to `most`, each between a half and the whole of it.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn next(&mut self, entropy: &dyn Entropy) -> Duration {
        let pause = self.first.saturating_mul(1 << self.failures.min(16)).min(self.most);
        self.failures += 1;
        let half = pause / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(entropy.below(micros.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use highwater_seams::SeededEntropy;

    use super::*;

    #[test]
    fn pauses_grow_up_to_the_bound_and_start_over_after_a_success() {
        let entropy = SeededEntropy::new(1);
        let (first, most) = (Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        for failures in 0..40 {
            let whole = first.saturating_mul(1 << failures.min(16)).min(most);
            let pause = backoff.next(&entropy);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next(&entropy) <= first);
    }
}
