//! The records of `__transaction_state`: one per transactional id, whose latest says all there is.
//!
//! Protobuf, so that fields can be added; a change that older versions must not overlook raises [`VERSION`].

use bytes::Bytes;
use highwater_record::TransactionResult;
use highwater_types::{PartitionId, ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicPartition, TransactionalId};
use prost::Message;

use super::TransactionState;
use super::state::Transaction;
use crate::{CoordinatorRecord, ProducerIdentity};

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Key {
    /// Absent: of a kind that only newer versions know.
    #[prost(string, optional, tag = "1")]
    transactional_id: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, optional, tag = "2")]
    producer: Option<Producer>,
    #[prost(message, optional, tag = "3")]
    previous: Option<Producer>,
    #[prost(enumeration = "State", tag = "4")]
    state: i32,
    #[prost(uint32, tag = "5")]
    timeout_ms: u32,
    #[prost(sint64, tag = "6")]
    started_at_ms: i64,
    #[prost(sint64, tag = "7")]
    updated_at_ms: i64,
    #[prost(message, repeated, tag = "8")]
    topics: Vec<Topic>,
    #[prost(message, optional, tag = "9")]
    marker: Option<Producer>,
    #[prost(bool, tag = "10")]
    timed_out: bool,
    #[prost(bool, tag = "11")]
    keeps_epoch: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Producer {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Topic {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(uint32, repeated, tag = "2")]
    partitions: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum State {
    Unknown = 0,
    Empty = 1,
    Ongoing = 2,
    PrepareCommit = 3,
    PrepareAbort = 4,
    CompleteCommit = 5,
    CompleteAbort = 6,
}

impl From<TransactionState> for State {
    fn from(state: TransactionState) -> Self {
        match state {
            TransactionState::Empty => Self::Empty,
            TransactionState::Ongoing => Self::Ongoing,
            TransactionState::Prepare(TransactionResult::Commit) => Self::PrepareCommit,
            TransactionState::Prepare(TransactionResult::Abort) => Self::PrepareAbort,
            TransactionState::Complete(TransactionResult::Commit) => Self::CompleteCommit,
            TransactionState::Complete(TransactionResult::Abort) => Self::CompleteAbort,
        }
    }
}

impl State {
    const fn read(self) -> Option<TransactionState> {
        Some(match self {
            Self::Unknown => return None,
            Self::Empty => TransactionState::Empty,
            Self::Ongoing => TransactionState::Ongoing,
            Self::PrepareCommit => TransactionState::Prepare(TransactionResult::Commit),
            Self::PrepareAbort => TransactionState::Prepare(TransactionResult::Abort),
            Self::CompleteCommit => TransactionState::Complete(TransactionResult::Commit),
            Self::CompleteAbort => TransactionState::Complete(TransactionResult::Abort),
        })
    }
}

impl From<ProducerIdentity> for Producer {
    fn from(producer: ProducerIdentity) -> Self {
        Self { id: producer.id.get(), epoch: u32::from(producer.epoch.get().unsigned_abs()) }
    }
}

impl Producer {
    fn read(&self) -> Result<ProducerIdentity, String> {
        let epoch = i16::try_from(self.epoch).map_err(|_| format!("{} is no producer epoch", self.epoch))?;
        Ok(ProducerIdentity { id: ProducerId::new(self.id), epoch: ProducerEpoch::new(epoch) })
    }
}

fn key(id: &TransactionalId) -> Bytes {
    Key { transactional_id: Some(id.as_str().to_owned()) }.encode_to_vec().into()
}

pub(super) fn tombstone(id: &TransactionalId) -> CoordinatorRecord {
    CoordinatorRecord { key: key(id), value: None }
}

pub(super) fn record(id: &TransactionalId, transaction: &Transaction) -> CoordinatorRecord {
    let mut topics: Vec<Topic> = Vec::new();
    // In the set's order, all of a topic follow each other.
    for at in &transaction.partitions {
        match topics.last_mut() {
            Some(last) if last.id == at.topic.as_bytes()[..] => last.partitions.push(at.partition.get()),
            _ => topics
                .push(Topic { id: Bytes::copy_from_slice(at.topic.as_bytes()), partitions: vec![at.partition.get()] }),
        }
    }
    let value = Value {
        version: VERSION,
        producer: Some(transaction.producer.into()),
        previous: transaction.previous.map(Producer::from),
        state: State::from(transaction.state).into(),
        timeout_ms: transaction.timeout_ms,
        started_at_ms: transaction.started_at.get(),
        updated_at_ms: transaction.updated_at.get(),
        topics,
        marker: transaction.marker.map(Producer::from),
        timed_out: transaction.timed_out,
        keeps_epoch: transaction.keeps_epoch,
    };
    CoordinatorRecord { key: key(id), value: Some(value.encode_to_vec().into()) }
}

/// `None`: of a kind that only newer versions know. A transactional id without a transaction: a tombstone.
pub(super) fn read(record: &CoordinatorRecord) -> Result<Option<(TransactionalId, Option<Transaction>)>, String> {
    let key = Key::decode(record.key.clone()).map_err(|error| format!("its key: {error}"))?;
    let Some(id) = key.transactional_id else { return Ok(None) };
    let id = TransactionalId::new(id).map_err(|error| error.to_string())?;
    let Some(value) = &record.value else { return Ok(Some((id, None))) };
    let value = Value::decode(value.clone()).map_err(|error| format!("its value: {error}"))?;
    if value.version != VERSION {
        return Err(format!("its value has version {}; this broker reads {VERSION}: upgrade it", value.version));
    }
    let mut partitions = std::collections::BTreeSet::new();
    for topic in &value.topics {
        let id = TopicId::from_slice(&topic.id).ok_or("a topic id is not 16 bytes long")?;
        partitions
            .extend(topic.partitions.iter().map(|partition| TopicPartition::new(id, PartitionId::new(*partition))));
    }
    let state = value.state().read().ok_or_else(|| format!("{} is no state", value.state))?;
    let marker = value.marker.as_ref().map(Producer::read).transpose()?;
    if marker.is_some() != matches!(state, TransactionState::Prepare(_)) {
        return Err(format!("in state {state} its marker's producer is {marker:?}"));
    }
    let transaction = Transaction {
        producer: value.producer.as_ref().ok_or("it has no producer")?.read()?,
        previous: value.previous.as_ref().map(Producer::read).transpose()?,
        state,
        timeout_ms: value.timeout_ms,
        started_at: TimestampMs::new(value.started_at_ms),
        updated_at: TimestampMs::new(value.updated_at_ms),
        partitions,
        marker,
        timed_out: value.timed_out,
        keeps_epoch: value.keeps_epoch,
    };
    Ok(Some((id, Some(transaction))))
}
