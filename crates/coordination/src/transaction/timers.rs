//! When which open transaction times out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_types::TransactionalId;

#[derive(Debug, Default)]
pub(super) struct Timers {
    by_id: BTreeMap<TransactionalId, Duration>,
    by_time: BTreeSet<(Duration, TransactionalId)>,
}

impl Timers {
    pub(super) fn set(&mut self, id: &TransactionalId, at: Duration) {
        self.clear(id);
        self.by_id.insert(id.clone(), at);
        self.by_time.insert((at, id.clone()));
    }

    pub(super) fn clear(&mut self, id: &TransactionalId) {
        if let Some(at) = self.by_id.remove(id) {
            self.by_time.remove(&(at, id.clone()));
        }
    }

    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Those due, the longest due first.
    pub(super) fn due(&self, now: Duration) -> impl Iterator<Item = &TransactionalId> {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, id)| id)
    }
}
