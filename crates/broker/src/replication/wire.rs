//! Entries and answers to and from the wire.

use highwater_protocol::internal::{ReplicaFetchPartition, ReplicaFetchPartitionResult};
use highwater_protocol::{PartitionKey, ProtocolError, code_of, topic_id_bytes, v1};
use highwater_record::Batch;
use highwater_replication::{Asked, EpochEnd, FollowerFetch, LeaderError, LeaderResponse};
use highwater_types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicPartition};

/// Field numbers of `ReplicaFetchResponse.partitions` and `ReplicaFetchPartitionResult.records`.
pub(super) const PARTITIONS_FIELD: u32 = 1;
pub(super) const RECORDS_FIELD: u32 = 7;

pub(super) fn entry_to_wire(tp: TopicPartition, fetch: &FollowerFetch, want_records: bool) -> ReplicaFetchPartition {
    ReplicaFetchPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: fetch.leader_epoch.get(),
        fetch_offset: fetch.fetch_offset.get(),
        durable_offset: fetch.durable_offset.get(),
        last_fetched_epoch: fetch.last_fetched_epoch.get(),
        log_start_offset: fetch.log_start_offset.get(),
        want_records,
        disk_full: fetch.disk_full,
    }
}

pub(super) fn entry_from_wire(
    follower: BrokerId,
    broker_epoch: BrokerEpoch,
    entry: &ReplicaFetchPartition,
) -> Result<(TopicPartition, FollowerFetch), ProtocolError> {
    let offset = |field, value| {
        if value < 0 { Err(ProtocolError::Value { field, value }) } else { Ok(Offset::new(value)) }
    };
    let fetch = FollowerFetch {
        follower,
        broker_epoch,
        leader_epoch: LeaderEpoch::new(entry.leader_epoch),
        fetch_offset: offset("fetch_offset", entry.fetch_offset)?,
        durable_offset: offset("durable_offset", entry.durable_offset)?,
        last_fetched_epoch: LeaderEpoch::new(entry.last_fetched_epoch),
        log_start_offset: offset("log_start_offset", entry.log_start_offset)?,
        disk_full: entry.disk_full,
    };
    Ok((entry.topic_partition()?, fetch))
}

/// An answer to `fetch` with nothing in it yet.
pub(super) fn result_head(tp: TopicPartition, fetch: &FollowerFetch) -> ReplicaFetchPartitionResult {
    ReplicaFetchPartitionResult {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: fetch.leader_epoch.get(),
        answers_fetch: true,
        fetch_offset: fetch.fetch_offset.get(),
        last_fetched_epoch: fetch.last_fetched_epoch.get(),
        ..ReplicaFetchPartitionResult::default()
    }
}

pub(super) fn diverging_to_wire(end: EpochEnd) -> v1::EpochEndOffset {
    v1::EpochEndOffset { leader_epoch: end.epoch.get(), end_offset: end.end.get() }
}

pub(super) fn asked(result: &ReplicaFetchPartitionResult) -> Asked {
    Asked {
        leader_epoch: LeaderEpoch::new(result.leader_epoch),
        fetch_offset: Offset::new(result.fetch_offset),
        last_fetched_epoch: LeaderEpoch::new(result.last_fetched_epoch),
    }
}

pub(super) fn response_from_wire(result: &ReplicaFetchPartitionResult, batches: &[Batch]) -> LeaderResponse {
    let records = batches.first().zip(batches.last());
    let diverging = result.diverging.as_ref();
    LeaderResponse {
        asked: asked(result),
        high_watermark: Offset::new(result.high_watermark),
        log_start_offset: Offset::new(result.log_start_offset),
        diverging: diverging
            .map(|end| EpochEnd { epoch: LeaderEpoch::new(end.leader_epoch), end: Offset::new(end.end_offset) }),
        records: records.map(|(first, last)| (first.header().base_offset, last.header().next_offset())),
    }
}

pub(super) fn error_from_wire(result: &ReplicaFetchPartitionResult, error: &v1::Error) -> LeaderError {
    let valid = error.valid_offsets.as_ref();
    LeaderError {
        asked: asked(result),
        code: code_of(error),
        valid_offsets: valid.map(|range| (Offset::new(range.start), Offset::new(range.end))),
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{PartitionId, TopicId};

    use super::*;

    #[test]
    fn an_entry_survives_the_wire_and_a_negative_offset_does_not() {
        let tp = TopicPartition::new(TopicId::from_u128(9), PartitionId::new(3));
        let fetch = FollowerFetch {
            follower: BrokerId::new(2),
            broker_epoch: BrokerEpoch::new(7),
            leader_epoch: LeaderEpoch::new(4),
            fetch_offset: Offset::new(100),
            durable_offset: Offset::new(90),
            last_fetched_epoch: LeaderEpoch::NONE,
            log_start_offset: Offset::new(10),
            disk_full: true,
        };
        let mut wire = entry_to_wire(tp, &fetch, true);
        assert!(wire.want_records);
        let back = entry_from_wire(fetch.follower, fetch.broker_epoch, &wire).unwrap();
        assert_eq!(back, (tp, fetch));
        wire.fetch_offset = -1;
        assert!(entry_from_wire(fetch.follower, fetch.broker_epoch, &wire).is_err());
    }
}
