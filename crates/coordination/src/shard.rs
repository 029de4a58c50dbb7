//! What a coordinator shard is to whoever drives it.
//!
//! The driver's rules, for every kind of shard:
//! 1. It calls one method at a time. After each, before anything else, it appends `write` to the partition as one batch and
//!    replays it on the shard. If the append fails, the shard is thrown away, and loaded anew from the log.
//! 2. `replies` and `actions` leave only once everything that the shard had replayed when it returned them is committed: so
//!    nobody ever acts on what a failover could take back, readers included.
//! 3. On losing the leadership the shard is thrown away, and whoever still waits is told NOT_COORDINATOR.

use std::time::Duration;

use bytes::Bytes;
use highwater_record::partition_for_key;
use highwater_types::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, TimestampMs};

use crate::Topics;

/// The time, both ways: timers run by `elapsed`, which never jumps; what is written down is by `wall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the process started.
    pub elapsed: Duration,
    pub wall: TimestampMs,
}

/// One record of an internal topic; without a value it is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// A producer in one of its epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerIdentity {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

/// What is appended as one batch, whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// As part of this producer's transaction: in force only once that commits.
    pub transaction_of: Option<ProducerIdentity>,
    pub records: Vec<CoordinatorRecord>,
}

/// The end of a transaction in a coordinator's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndMarker {
    pub producer: ProducerIdentity,
    pub commit: bool,
}

/// Names a request to the driver, who chose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What follows from one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects<Response, Error, Action> {
    pub write: Option<Write>,
    /// Of this request, or of earlier ones that waited. A request has exactly one.
    pub replies: Vec<(Token, Result<Response, Error>)>,
    pub actions: Vec<Action>,
}

impl<Response, Error, Action> Default for Effects<Response, Error, Action> {
    fn default() -> Self {
        Self { write: None, replies: Vec::new(), actions: Vec::new() }
    }
}

/// A record of the log that can't be what it claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator record at offset {offset} can't be read: {problem}")]
pub struct CorruptRecord {
    pub offset: Offset,
    pub problem: String,
}

/// See the module.
pub trait Shard {
    type Request;
    type Response;
    type Error;
    /// What the driver does for the shard; how it went comes back as a request.
    type Action;

    /// A record of the log, in the log's order. A tombstone of what is not there, and a kind that only newer versions know, are
    /// passed over.
    fn replay(
        &mut self,
        offset: Offset,
        transaction_of: Option<ProducerIdentity>,
        record: &CoordinatorRecord,
    ) -> Result<(), CorruptRecord>;

    /// A marker of the log, in the log's order.
    fn replay_marker(&mut self, offset: Offset, marker: EndMarker);

    /// Everything is replayed, and this broker is the coordinator, in the given leader epoch of the partition: timers start anew.
    fn loaded(
        &mut self,
        now: Now,
        coordinator_epoch: LeaderEpoch,
        topics: &Topics,
    ) -> Effects<Self::Response, Self::Error, Self::Action>;

    fn handle(
        &mut self,
        now: Now,
        token: Token,
        request: Self::Request,
    ) -> Effects<Self::Response, Self::Error, Self::Action>;

    /// When [`Shard::on_time`] has something to do next, as `Now::elapsed`.
    fn next_timer(&self) -> Option<Duration>;

    fn on_time(&mut self, now: Now) -> Effects<Self::Response, Self::Error, Self::Action>;

    /// The cluster's topics have changed.
    fn on_topics(&mut self, now: Now, topics: &Topics) -> Effects<Self::Response, Self::Error, Self::Action>;
}

/// Which partition of the internal topic holds a group or transactional id. Part of the format: it can't change while the
/// topic lives.
pub fn partition_for_id(id: &str, partitions: u32) -> PartitionId {
    partition_for_key(id.as_bytes(), partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_spread_over_all_partitions() {
        let mut counts = [0_u32; 50];
        (0..5000).for_each(|n| counts[partition_for_id(&format!("group-{n}"), 50).get() as usize] += 1);
        assert!(counts.iter().all(|count| (40..=180).contains(count)), "{counts:?}");
        assert_eq!(partition_for_id("orders", 1), PartitionId::new(0));
    }
}
