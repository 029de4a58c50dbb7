//! Offsets by timestamp, earliest and latest: asked of each partition's leader, again until it is clear who that is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use highwater_protocol::{PartitionKey as _, code_of, error_from_status, topic_id_bytes, v1};
use highwater_types::{
    BrokerId, ErrorCode, IsolationLevel, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition,
};
use tokio::time::{Instant, sleep, timeout_at};
use v1::data_client::DataClient;

use crate::AdminError;
use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::metadata::TopicMetadata;

/// Which offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first record there is.
    Earliest,
    /// After the last committed record.
    Latest,
    /// The first record with this timestamp or a later one.
    Timestamp(TimestampMs),
    /// The record with the largest timestamp, the first of several.
    MaxTimestamp,
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    /// `None`: no record is that new, or there is none.
    pub offset: Option<Offset>,
    /// The record's timestamp, where it was asked for by time.
    pub timestamp: Option<TimestampMs>,
    /// The leader epoch of that record, if known.
    pub leader_epoch: LeaderEpoch,
}

#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    pub topic: Arc<TopicMetadata>,
    pub partition: PartitionId,
    pub at: OffsetAt,
}

type Answer = Result<TimestampedOffset, AdminError>;

const ATTEMPT_WAIT: Duration = Duration::from_secs(5);

/// An answer for each, in the order asked, within the client's request timeout.
pub(crate) async fn look_up(
    client: &Arc<ClientInner>,
    asked: Vec<Lookup>,
    isolation: IsolationLevel,
) -> Vec<(Lookup, Answer)> {
    let deadline = Instant::now() + client.request_timeout;
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(250));
    let mut answers: Vec<Option<Answer>> = vec![None; asked.len()];
    loop {
        let mut by_leader: BTreeMap<BrokerId, Vec<usize>> = BTreeMap::new();
        let image = client.image();
        for (index, lookup) in asked.iter().enumerate() {
            if !answers[index].as_ref().is_none_or(may_repeat) {
                continue;
            }
            let topic = image.topic(lookup.topic.name.as_str()).filter(|topic| topic.id == lookup.topic.id);
            match topic.and_then(|topic| topic.partition(lookup.partition)) {
                None => {
                    answers[index] = Some(Err(failure(lookup, ErrorCode::UnknownTopic, "it is not there any more")))
                }
                Some(partition) => match partition.leader {
                    Some(leader) => by_leader.entry(leader).or_default().push(index),
                    None => {
                        answers[index] =
                            Some(Err(failure(lookup, ErrorCode::LeaderNotAvailable, "nobody leads it now")))
                    }
                },
            }
        }
        let rounds =
            by_leader.into_iter().map(|(leader, indexes)| ask(client, leader, &asked, indexes, isolation, deadline));
        for (index, answer) in join_all(rounds).await.into_iter().flatten() {
            answers[index] = Some(answer);
        }
        let done = answers.iter().all(|answer| answer.as_ref().is_some_and(|answer| !may_repeat(answer)));
        let pause = backoff.next(&*client.seams.entropy);
        if done || Instant::now() + pause >= deadline {
            break;
        }
        sleep(pause).await;
    }
    let unanswered = |lookup: &Lookup| Err(failure(lookup, ErrorCode::RequestTimedOut, "no answer in time"));
    asked
        .into_iter()
        .zip(answers)
        .map(|(lookup, answer)| {
            let answer = answer.unwrap_or_else(|| unanswered(&lookup));
            (lookup, answer)
        })
        .collect()
}

pub(crate) fn isolation_to_wire(isolation: IsolationLevel) -> i32 {
    match isolation {
        IsolationLevel::ReadUncommitted => v1::IsolationLevel::ReadUncommitted.into(),
        IsolationLevel::ReadCommitted => v1::IsolationLevel::ReadCommitted.into(),
    }
}

fn may_repeat(answer: &Answer) -> bool {
    matches!(answer, Err(error) if error.is_retriable())
}

fn failure(lookup: &Lookup, code: ErrorCode, message: &str) -> AdminError {
    AdminError::new(format!("list the offset of {}-{}", lookup.topic.name, lookup.partition), code, message)
}

/// Asks one leader for the offsets at `indexes`.
async fn ask(
    client: &Arc<ClientInner>,
    leader: BrokerId,
    asked: &[Lookup],
    indexes: Vec<usize>,
    isolation: IsolationLevel,
    deadline: Instant,
) -> Vec<(usize, Answer)> {
    let all = |code: ErrorCode, message: &str| {
        indexes.iter().map(|&index| (index, Err(failure(&asked[index], code, message)))).collect()
    };
    let Some(channel) = client.channel(leader) else {
        return all(ErrorCode::LeaderNotAvailable, "the leader's address is not known yet");
    };
    let partitions = indexes.iter().map(|&index| {
        let lookup = &asked[index];
        v1::ListOffsetsPartition {
            topic_id: topic_id_bytes(lookup.topic.id),
            partition: lookup.partition.get(),
            leader_epoch: -1,
            at: Some(match lookup.at {
                OffsetAt::Earliest => v1::list_offsets_partition::At::Earliest(true),
                OffsetAt::Latest => v1::list_offsets_partition::At::Latest(true),
                OffsetAt::Timestamp(at) => v1::list_offsets_partition::At::TimestampMs(at.get()),
                OffsetAt::MaxTimestamp => v1::list_offsets_partition::At::MaxTimestamp(true),
            }),
        }
    });
    let request =
        v1::ListOffsetsRequest { isolation_level: isolation_to_wire(isolation), partitions: partitions.collect() };
    let mut data = DataClient::new(channel);
    let until = deadline.min(Instant::now() + ATTEMPT_WAIT);
    let results = match timeout_at(until, data.list_offsets(request)).await {
        Ok(Ok(answer)) => answer.into_inner().partitions,
        Ok(Err(status)) => {
            let error = error_from_status(&status);
            return all(code_of(&error), &error.message);
        }
        Err(_) => return all(ErrorCode::RequestTimedOut, "the leader did not answer in time"),
    };
    let by_partition: BTreeMap<TopicPartition, v1::ListOffsetsPartitionResult> =
        results.into_iter().filter_map(|result| Some((result.topic_partition().ok()?, result))).collect();
    let answer = |index: usize| {
        let lookup = &asked[index];
        let place = TopicPartition::new(lookup.topic.id, lookup.partition);
        let Some(result) = by_partition.get(&place) else {
            return Err(failure(lookup, ErrorCode::Internal, "the leader's answer leaves it out"));
        };
        if let Some(error) = &result.error {
            client.note_leader(place, error);
            let what = format!("list the offset of {}-{}", lookup.topic.name, lookup.partition);
            return Err(AdminError::from_wire(what, error));
        }
        Ok(TimestampedOffset {
            offset: Some(result.offset).filter(|offset| *offset >= 0).map(Offset::new),
            timestamp: Some(result.timestamp_ms)
                .filter(|_| matches!(lookup.at, OffsetAt::Timestamp(_) | OffsetAt::MaxTimestamp))
                .map(TimestampMs::new),
            leader_epoch: LeaderEpoch::new(result.leader_epoch),
        })
    };
    indexes.iter().map(|&index| (index, answer(index))).collect()
}
