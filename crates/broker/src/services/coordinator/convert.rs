//! Between the wire and the coordinators' words.

use std::collections::BTreeSet;

use highwater_coordination::ProducerIdentity;
use highwater_coordination::group::{self, DescribedMember, GroupKind, ListedGroup, OffsetCommit};
use highwater_coordination::transaction::TransactionDescription;
use highwater_metadata::ClusterImage;
use highwater_protocol::{status_from_error, topic_id_bytes, v1};
use highwater_storage::ProducerDescription;
use highwater_types::{
    ErrorCode, GroupId, InstanceId, LeaderEpoch, MemberId, Offset, PartitionId, ProducerEpoch, ProducerId, TopicId,
    TopicPartition, TransactionalId,
};
use tonic::Status;

use super::super::error::invalid;
use crate::coordinator::CallError;

pub(super) fn malformed(message: String) -> Status {
    status_from_error(invalid(message))
}

pub(super) fn transactional_id(text: &str) -> Result<TransactionalId, Status> {
    TransactionalId::new(text).map_err(|error| malformed(error.to_string()))
}

pub(super) fn group_id(text: &str) -> Result<GroupId, Status> {
    GroupId::new(text).map_err(|error| status_from_error(v1::Error::new(ErrorCode::InvalidGroupId, error.to_string())))
}

pub(super) fn member_id(text: &str) -> Result<MemberId, Status> {
    MemberId::new(text).map_err(|error| malformed(error.to_string()))
}

/// The empty text is none.
pub(super) fn instance_id(text: &str) -> Result<Option<InstanceId>, Status> {
    let given = Some(text).filter(|text| !text.is_empty());
    given.map(InstanceId::new).transpose().map_err(|error| malformed(error.to_string()))
}

/// Below 0 it is none, and kept as it is: some clients commit Kafka's names for the ends of a log, -2 and -1, and want to read them again.
pub(super) fn offset(wire: v1::OffsetToCommit) -> Result<OffsetCommit, Status> {
    let partition = partition(&wire.topic_id, wire.partition)?;
    let (offset, leader_epoch) = (Offset::new(wire.offset), LeaderEpoch::new(wire.leader_epoch));
    Ok(OffsetCommit { partition, offset, leader_epoch, metadata: wire.metadata })
}

pub(super) fn committed(results: Vec<(TopicPartition, Result<(), group::Error>)>) -> Vec<v1::CommittedPartition> {
    let one = |(tp, result): (TopicPartition, Result<(), group::Error>)| v1::CommittedPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        error: result.err().map(|error| group_error(&error)),
    };
    results.into_iter().map(one).collect()
}

/// Of a part of a request.
pub(super) fn group_error(error: &group::Error) -> v1::Error {
    v1::Error::new(error.code(), error.to_string())
}

pub(super) fn assignment(partitions: &BTreeSet<TopicPartition>) -> v1::GroupAssignment {
    let partitions: Vec<_> = partitions.iter().copied().collect();
    v1::GroupAssignment { partitions: wire_partitions(&partitions) }
}

pub(super) fn member(found: DescribedMember) -> v1::DescribedMember {
    let is_classic = found.opaque.is_some();
    let (metadata, given) = found.opaque.map(|it| (it.metadata, it.assignment)).unwrap_or_default();
    v1::DescribedMember {
        member_id: found.member.to_string(),
        instance_id: found.instance.map(|it| it.to_string()).unwrap_or_default(),
        client_id: found.client_id,
        client_host: found.client_host,
        rack_id: found.rack.unwrap_or_default(),
        member_epoch: found.epoch.get(),
        subscription: Some(v1::GroupSubscription {
            topics: found.subscription.topics.into_iter().collect(),
            topic_pattern: found.subscription.pattern,
        }),
        assignment: Some(assignment(&found.assignment)),
        target: Some(assignment(&found.target)),
        protocol_metadata: metadata,
        protocol_assignment: given,
        is_classic,
    }
}

pub(super) fn listed(found: &ListedGroup) -> v1::ListedGroup {
    let kind = match found.kind {
        GroupKind::Consumer => v1::GroupKind::Consumer,
        GroupKind::Classic => v1::GroupKind::Classic,
    };
    v1::ListedGroup {
        group_id: found.group.to_string(),
        kind: kind.into(),
        state: found.state.to_owned(),
        protocol_type: found.protocol_type.clone(),
    }
}

pub(super) fn producer(id: i64, epoch: i32) -> Result<ProducerIdentity, Status> {
    let epoch = i16::try_from(epoch).ok().filter(|epoch| id >= 0 && *epoch >= 0);
    let wrong = || malformed("a producer has an id, and an epoch from 0 to 32767".to_owned());
    Ok(ProducerIdentity { id: ProducerId::new(id), epoch: ProducerEpoch::new(epoch.ok_or_else(wrong)?) })
}

pub(super) fn partitions(wire: &[v1::TopicPartitions], max: usize) -> Result<Vec<TopicPartition>, Status> {
    let count: usize = wire.iter().map(|topic| topic.partitions.len()).sum();
    if count > max {
        return Err(malformed(format!("{count} partitions in one request; at most {max} are allowed")));
    }
    let mut partitions = Vec::with_capacity(count);
    for of in wire {
        let length = of.topic_id.len();
        let topic = TopicId::from_slice(&of.topic_id);
        let topic = topic.ok_or_else(|| malformed(format!("a topic id is 16 bytes long, this one {length}")))?;
        partitions.extend(of.partitions.iter().map(|p| TopicPartition::new(topic, PartitionId::new(*p))));
    }
    Ok(partitions)
}

pub(super) fn partition(topic: &[u8], partition: u32) -> Result<TopicPartition, Status> {
    let wrong = || malformed(format!("a topic id is 16 bytes long, this one {}", topic.len()));
    let topic = TopicId::from_slice(topic).ok_or_else(wrong)?;
    Ok(TopicPartition::new(topic, PartitionId::new(partition)))
}

pub(super) fn described_producer(of: ProducerDescription) -> v1::ProducerInfo {
    v1::ProducerInfo {
        producer_id: of.producer_id.get(),
        producer_epoch: of.epoch.get().into(),
        last_sequence: of.last_sequence.get(),
        last_timestamp_ms: of.last_timestamp.get(),
        coordinator_epoch: of.coordinator_epoch,
        transaction_start_offset: of.transaction_start.map_or(-1, highwater_types::Offset::get),
    }
}

/// By topic, in the order in which they come.
fn wire_partitions(partitions: &[TopicPartition]) -> Vec<v1::TopicPartitions> {
    let by_topic = partitions.chunk_by(|one, next| one.topic == next.topic);
    let of = |chunk: &[TopicPartition]| v1::TopicPartitions {
        topic_id: chunk.first().map(|tp| topic_id_bytes(tp.topic)).unwrap_or_default(),
        partitions: chunk.iter().map(|tp| tp.partition.get()).collect(),
    };
    by_topic.map(of).collect()
}

pub(super) fn transaction(found: TransactionDescription) -> v1::TransactionInfo {
    v1::TransactionInfo {
        transactional_id: found.transactional_id.as_str().to_owned(),
        producer_id: found.producer.id.get(),
        producer_epoch: found.producer.epoch.get().into(),
        state: found.state.to_string(),
        timeout_ms: found.timeout_ms,
        started_at_ms: found.started_at.map_or(-1, highwater_types::TimestampMs::get),
        partitions: wire_partitions(&found.partitions),
    }
}

/// With who coordinates instead, and whether the outcome is known.
pub(crate) fn call_error<E: std::fmt::Display>(
    error: CallError<E>,
    image: &ClusterImage,
    code_of: impl FnOnce(&E) -> ErrorCode,
) -> v1::Error {
    let code = error.code().unwrap_or_else(code_of);
    let mut wire = v1::Error::new(code, error.to_string());
    wire.outcome_unknown |= error.outcome_is_unknown();
    if let Some((leader, leader_epoch)) = error.leader() {
        let endpoint = image.broker(leader).map(|broker| &broker.client_endpoint);
        wire = wire.with_leader(v1::LeaderHint {
            node_id: leader.get().into(),
            host: endpoint.map(|endpoint| endpoint.host.clone()).unwrap_or_default(),
            port: endpoint.map_or(0, |endpoint| endpoint.port.into()),
            leader_epoch: leader_epoch.get(),
        });
    }
    wire
}
