//! How far one follower is.

use std::time::Duration;

use highwater_types::{BrokerEpoch, Offset};

/// One follower's progress in the present leader epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// What it has made its own, by the topic's durability; `None` until its first fetch in this leader epoch.
    pub acknowledged: Option<Offset>,
    /// The incarnation that its last fetch stated.
    pub broker_epoch: BrokerEpoch,
    /// The last time at which it is known to have had everything that the leader then had.
    pub caught_up_at: Duration,
    /// When the last fetch that moved on came, and where the leader's log ended then.
    last_fetch: (Duration, Offset),
}

impl ReplicaProgress {
    /// Nothing known yet: `now` counts as caught up, so that a new leader gives everybody the full time to turn up.
    pub(crate) fn new(now: Duration, leader_end: Offset) -> Self {
        Self { acknowledged: None, broker_epoch: BrokerEpoch::NONE, caught_up_at: now, last_fetch: (now, leader_end) }
    }

    /// Lag is time behind, not messages behind (T22): who reaches now where the leader was at the last fetch was caught
    /// up at that time.
    pub(crate) fn on_fetch(
        &mut self,
        acknowledged: Offset,
        broker_epoch: BrokerEpoch,
        leader_end: Offset,
        now: Duration,
    ) {
        if acknowledged >= leader_end {
            self.caught_up_at = self.caught_up_at.max(now);
        } else if acknowledged >= self.last_fetch.1 {
            self.caught_up_at = self.caught_up_at.max(self.last_fetch.0);
        }
        if acknowledged >= self.last_fetch.1 || self.acknowledged.is_none() {
            self.last_fetch = (now, leader_end);
        }
        self.acknowledged = Some(acknowledged);
        self.broker_epoch = broker_epoch;
    }

    /// Whether it has all, or had all not longer than `lag_time_max` ago.
    pub(crate) fn is_caught_up(&self, leader_end: Offset, now: Duration, lag_time_max: Duration) -> bool {
        self.acknowledged.is_some_and(|offset| offset >= leader_end)
            || now.saturating_sub(self.caught_up_at) <= lag_time_max
    }

    /// How long it has been behind; zero when it has everything.
    pub fn behind(&self, leader_end: Offset, now: Duration) -> Duration {
        if self.acknowledged.is_some_and(|offset| offset >= leader_end) {
            Duration::ZERO
        } else {
            now.saturating_sub(self.caught_up_at)
        }
    }
}
