//! Producers that have gone: some day, what is known of them is let go of.
//!
//! Timestamps of records are the producer's own, and may be of long ago while it writes. So it must have been silent for a while
//! as well, for longer than a batch is sent again (T30).

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_storage::ProducerDescription;
use highwater_types::{ProducerId, TimestampMs};

use super::{Partition, Storage};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Of its newest records.
const AGE_MIN: Duration = DAY.saturating_mul(7);
/// Since it was first seen with nothing new.
const SILENCE_MIN: Duration = DAY;

/// The producers with old records only, and since when they are as they are.
#[derive(Default)]
pub(super) struct IdleProducers {
    seen: BTreeMap<ProducerId, (ProducerDescription, Duration)>,
}

impl IdleProducers {
    fn look(&mut self, old: impl Iterator<Item = ProducerDescription>, now: Duration) {
        let before = std::mem::take(&mut self.seen);
        let since = |one: &ProducerDescription| match before.get(&one.producer_id) {
            Some((same, since)) if same == one => *since,
            _ => now,
        };
        self.seen = old.map(|one| (one.producer_id, (one, since(&one)))).collect();
    }

    fn has_gone(&self, id: ProducerId, now: Duration) -> bool {
        self.seen.get(&id).is_some_and(|(_, since)| now.saturating_sub(*since) >= SILENCE_MIN)
    }
}

impl Partition {
    /// Forgets producers whose records are old and that have long been silent, in any role. To be called now and then.
    pub(crate) fn expire_producers(&self, now: Duration, wall: TimestampMs) {
        let age_ms = i64::try_from(AGE_MIN.as_millis()).unwrap_or(i64::MAX);
        let before = TimestampMs::new(wall.get().saturating_sub(age_ms));
        let mut state = self.lock();
        let state = &mut *state;
        let Storage::Open(log) = &mut state.storage else { return };
        let producers = log.producers().into_iter();
        state.idle_producers.look(producers.filter(|one| one.last_timestamp < before), now);
        let forgotten = log.expire_producers(before, |id| state.idle_producers.has_gone(id, now));
        if forgotten > 0 {
            tracing::debug!(partition = %self.tp, forgotten, "producers that have gone");
        }
    }
}
