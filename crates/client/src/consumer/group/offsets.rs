//! Committed offsets: to the coordinator and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_protocol::{PartitionKey as _, ProtocolError, code_of, status_from_error, topic_id_bytes, v1};
use highwater_types::{ErrorCode, LeaderEpoch, Offset, Outcome, PartitionId, TimestampMs, TopicName, TopicPartition};
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::client::ClientInner;
use crate::consumer::{ConsumerRecord, Position};
use crate::coordinator::Coordinator;
use crate::{AdminError, CommitError};

/// An offset to be committed: where reading goes on, not the last record read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetToCommit {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The next record to read, with the leader epoch of the one before: it detects truncation later (KIP-320).
    pub position: Position,
    /// Kept with it, as it is.
    pub metadata: String,
}

impl OffsetToCommit {
    /// This record and those before it are done.
    pub fn after(record: &ConsumerRecord) -> Self {
        Self {
            topic: record.topic.to_string(),
            partition: record.partition,
            position: Position { offset: record.offset.next(), leader_epoch: record.leader_epoch },
            metadata: String::new(),
        }
    }
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The next record to read.
    pub position: Position,
    /// Kept with it.
    pub metadata: String,
    /// When it was committed.
    pub committed_at: TimestampMs,
}

/// As whom offsets are committed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Committing {
    pub group: String,
    pub member: String,
    pub epoch: i32,
    pub instance: String,
}

/// The offsets on the wire, and the partition that each is of.
pub(crate) fn to_wire(
    client: &ClientInner,
    group: &str,
    offsets: &[OffsetToCommit],
) -> Result<Vec<v1::OffsetToCommit>, CommitError> {
    let image = client.image();
    let one = |offset: &OffsetToCommit| {
        let topic = image.topic(&offset.topic).ok_or_else(|| CommitError {
            group: group.to_owned(),
            code: ErrorCode::UnknownTopic,
            message: format!("there is no topic {:?}", offset.topic),
            outcome: Outcome::NotApplied,
        })?;
        Ok(v1::OffsetToCommit {
            topic_id: topic_id_bytes(topic.id),
            partition: offset.partition.get(),
            offset: offset.position.offset.get(),
            leader_epoch: offset.position.leader_epoch.get(),
            metadata: offset.metadata.clone(),
        })
    };
    offsets.iter().map(one).collect()
}

/// Commits, until `deadline`. Committing the same twice is the same as once, so a lost answer is asked for again.
pub(crate) async fn commit(
    coordinator: &Coordinator,
    who: Committing,
    offsets: Vec<v1::OffsetToCommit>,
    deadline: Instant,
) -> Result<(), CommitError> {
    let request = v1::CommitOffsetsRequest {
        group_id: who.group.clone(),
        member_id: who.member,
        member_epoch: who.epoch,
        instance_id: who.instance,
        offsets,
    };
    let what = format!("commit offsets of group {:?}", who.group);
    // A stale epoch is for the caller, who knows the next one.
    let may_repeat = |error: &AdminError| error.code != ErrorCode::StaleMemberEpoch;
    let send = |mut client: v1::coordinator_client::CoordinatorClient<_>| {
        let request = request.clone();
        async move { again_if_retriable(client.commit_offsets(request).await?, |answer| &answer.partitions) }
    };
    let answer = coordinator.call(&what, deadline, may_repeat, send).await;
    let answer = answer.map_err(|error| CommitError::from_admin(&who.group, error))?;
    refused(&who.group, &answer.partitions)
}

/// What some partitions are refused for a while (such as a topic that the coordinator has yet to hear of) fails the whole:
/// committing the others once more changes nothing.
pub(crate) fn again_if_retriable<T>(
    answer: Response<T>,
    partitions: impl Fn(&T) -> &[v1::CommittedPartition],
) -> Result<Response<T>, Status> {
    let mut refusals = partitions(answer.get_ref()).iter().filter_map(|partition| partition.error.clone());
    match refusals.find(|error| code_of(error).is_retriable()) {
        Some(error) => Err(status_from_error(error)),
        None => Ok(answer),
    }
}

/// The first refusal among partitions.
pub(crate) fn refused(group: &str, partitions: &[v1::CommittedPartition]) -> Result<(), CommitError> {
    let Some((partition, error)) = partitions.iter().find_map(|p| Some((p, p.error.as_ref()?))) else { return Ok(()) };
    let place = partition.topic_partition();
    let place = place.map_or_else(|_| "a partition".to_owned(), |id| format!("{}-{}", id.topic, id.partition));
    let outcome = if error.outcome_unknown { Outcome::Unknown } else { Outcome::NotApplied };
    let message = format!("{place}: {}", error.message);
    Err(CommitError { group: group.to_owned(), code: code_of(error), message, outcome })
}

/// What the group has committed; of partitions without, nothing is returned. `partitions`: empty for all.
pub(crate) async fn fetch(
    coordinator: &Coordinator,
    who: Committing,
    partitions: &[TopicPartition],
    require_stable: bool,
    deadline: Instant,
) -> Result<BTreeMap<TopicPartition, v1::CommittedOffset>, AdminError> {
    let mut topics: BTreeMap<_, Vec<u32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(partition.topic).or_default().push(partition.partition.get());
    }
    let one = |(topic, partitions)| v1::TopicPartitions { topic_id: topic_id_bytes(topic), partitions };
    let request = v1::FetchOffsetsRequest {
        group_id: who.group.clone(),
        partitions: topics.into_iter().map(one).collect(),
        require_stable,
        member_id: who.member,
        member_epoch: who.epoch,
    };
    let what = format!("fetch the offsets of group {:?}", who.group);
    let may_repeat = |error: &AdminError| error.code != ErrorCode::StaleMemberEpoch;
    loop {
        let send = |mut client: v1::coordinator_client::CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.fetch_offsets(request).await }
        };
        let answer = coordinator.call(&what, deadline, may_repeat, send).await?;
        let mut found = BTreeMap::new();
        let mut refused = None;
        for offset in answer.offsets {
            let bad = |error: ProtocolError| AdminError::new(&what, ErrorCode::Internal, error.to_string());
            let id = offset.topic_partition().map_err(bad)?;
            match &offset.error {
                Some(error) => refused = Some(AdminError::from_wire(&what, error)),
                None if offset.offset >= 0 => drop(found.insert(id, offset)),
                None => {}
            }
        }
        match refused {
            None => return Ok(found),
            // Such as an open transaction about to change it (KIP-447): it ends soon.
            Some(error) if error.is_retriable() && Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            Some(error) => return Err(error),
        }
    }
}

/// As the application sees it; `None` if the topic is gone.
pub(crate) fn from_wire(
    client: &Arc<ClientInner>,
    id: TopicPartition,
    offset: v1::CommittedOffset,
) -> Option<CommittedOffset> {
    let topic = client.image().topics().find(|topic| topic.id == id.topic)?.name.clone();
    Some(CommittedOffset {
        topic,
        partition: id.partition,
        position: position(&offset),
        metadata: offset.metadata,
        committed_at: TimestampMs::new(offset.committed_at_ms),
    })
}

pub(crate) fn position(offset: &v1::CommittedOffset) -> Position {
    Position { offset: Offset::new(offset.offset), leader_epoch: LeaderEpoch::new(offset.leader_epoch) }
}
