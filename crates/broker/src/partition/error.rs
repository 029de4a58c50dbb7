//! Why a partition refused or failed what it was asked.

use std::sync::Arc;

use highwater_coordination::ProducerIdentity;
use highwater_protocol::{code_of, v1};
use highwater_record::BatchError;
use highwater_replication::{AckOutcome, EpochEnd, FetchError};
use highwater_storage::{AppendError, DamagedRange, LogError, ProducerStateError, ReadError};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, Offset, Outcome, ProducerEpoch, TopicPartition};

/// One enum for all operations on a partition: a request over many partitions answers with any mix of them.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    #[error("there is no topic with id {0} (any more); look its name up again")]
    UnknownTopicId(highwater_types::TopicId),
    #[error("the topic has {partitions} partitions, numbered from 0; there is no partition {}", .asked.partition)]
    UnknownPartition { asked: TopicPartition, partitions: usize },
    #[error("this broker does not lead the partition; {}", leader_text(*.leader))]
    NotLeader { leader: Option<BrokerId>, leader_epoch: LeaderEpoch },
    #[error("the partition has no leader now: none of its in-sync replicas is up; ask again")]
    NoLeader { leader_epoch: LeaderEpoch },
    #[error("leader epoch {asked} is over: it is {current} now")]
    FencedLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch, leader: Option<BrokerId> },
    #[error("this broker knows leader epoch {current}, and has yet to learn of {asked}; ask again")]
    UnknownLeaderEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("{in_sync} replicas are in sync, and min.insync.replicas asks for {needed}; nothing was written")]
    NotEnoughReplicas { in_sync: usize, needed: usize },
    #[error("{}", ack_text(*.0))]
    NotAcknowledged(AckOutcome),
    #[error(
        "deleted below offset {start} at the leader, and not yet at all in-sync replicas: should the leader change now, some \
         may come back; ask again"
    )]
    NotDeletedEverywhere { start: Offset },
    #[error("the topic is the cluster's own: it can be read, and only coordinators write to it")]
    Internal,
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Of what an idempotent or transactional producer sent; nothing was written.
    #[error(transparent)]
    Producer(#[from] ProducerStateError),
    #[error("{0}")]
    Numbering(&'static str),
    #[error(
        "no transaction of producer {} in epoch {} is open in this partition{}",
        .producer.id, .producer.epoch, open_text(*.open)
    )]
    NoSuchTransaction { producer: ProducerIdentity, open: Option<ProducerEpoch> },
    /// Of the transaction that the records are part of; nothing was written.
    #[error("{}", .0.message)]
    Coordinator(v1::Error),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("offset {asked} is not in the log, which has {start} to {end} (exclusive)")]
    OffsetOutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("the end of the committed records is not known yet, as the leader is new; ask again")]
    OffsetNotAvailable,
    #[error(
        "the records read up to offset {asked} (leader epoch {asked_epoch}) are not those of this log: \
         the two agree up to leader epoch {}, offset {}", .diverging.epoch, .diverging.end
    )]
    LogTruncated { asked: Offset, asked_epoch: LeaderEpoch, diverging: EpochEnd, start: Offset, end: Offset },
    /// Of a follower's fetch.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("this replica's storage can't be used: {0}")]
    Unusable(Arc<str>),
    #[error("{0} are damaged on this replica, and are fetched anew from its peers")]
    Damaged(DamagedRange),
    #[error("this broker is shutting down; ask another one")]
    ShuttingDown,
}

fn leader_text(leader: Option<BrokerId>) -> String {
    match leader {
        Some(leader) => format!("broker {leader} does"),
        None => "look up who does".to_owned(),
    }
}

fn open_text(open: Option<ProducerEpoch>) -> String {
    open.map(|epoch| format!("; one in epoch {epoch} is")).unwrap_or_default()
}

const fn ack_text(outcome: AckOutcome) -> &'static str {
    match outcome {
        AckOutcome::Committed => "committed",
        AckOutcome::NotEnoughReplicas => {
            "written to the leader, then the in-sync replicas fell below min.insync.replicas: it may still commit"
        }
        AckOutcome::TimedOut => "written to the leader, and not to all in-sync replicas in time: it may still commit",
        AckOutcome::LeadershipLost => {
            "written to a leader that has been replaced before it was committed: it may or may not be in the log"
        }
    }
}

impl PartitionError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownTopicId(_) => ErrorCode::UnknownTopicId,
            Self::UnknownPartition { .. } => ErrorCode::UnknownPartition,
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::NoLeader { .. } => ErrorCode::LeaderNotAvailable,
            Self::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
            Self::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
            Self::NotAcknowledged(outcome) => outcome.error().unwrap_or(ErrorCode::Internal),
            Self::NotDeletedEverywhere { .. } => ErrorCode::RequestTimedOut,
            Self::Internal => ErrorCode::InvalidRequest,
            Self::Batch(error) => error.code(),
            Self::Producer(error) => error.code(),
            Self::Numbering(_) => ErrorCode::InvalidRecord,
            Self::NoSuchTransaction { .. } => ErrorCode::InvalidTransactionState,
            Self::Coordinator(error) => code_of(error),
            Self::Append(error) => error.code(),
            Self::Read(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::OffsetNotAvailable => ErrorCode::OffsetNotAvailable,
            Self::LogTruncated { .. } => ErrorCode::LogTruncated,
            Self::Fetch(error) => error.code(),
            Self::Unusable(_) => ErrorCode::StorageOffline,
            Self::Damaged(_) => ErrorCode::DamagedData,
            Self::ShuttingDown => ErrorCode::BrokerShuttingDown,
        }
    }

    /// What is known of the effect. A refusal before the append is certain even where the code alone would not say so.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotAcknowledged(AckOutcome::LeadershipLost) if mutation::is_on(Mutation::RefusalWhenDeposed) => {
                Outcome::NotApplied
            }
            Self::NotAcknowledged(_) | Self::NotDeletedEverywhere { .. } => Outcome::Unknown,
            // The write failed half way: what is on the disk is not known.
            Self::Append(AppendError::Io(_)) => Outcome::Unknown,
            Self::Coordinator(_) | Self::Append(_) | Self::Unusable(_) | Self::Read(_) => Outcome::NotApplied,
            _ => self.code().outcome(),
        }
    }

    /// Who leads, as far as the answering broker knows.
    pub fn leader(&self) -> Option<(BrokerId, LeaderEpoch)> {
        match *self {
            Self::NotLeader { leader, leader_epoch } => leader.map(|leader| (leader, leader_epoch)),
            Self::FencedLeaderEpoch { leader, current, .. } => leader.map(|leader| (leader, current)),
            _ => None,
        }
    }

    /// The offsets that can be asked for.
    pub fn valid_offsets(&self) -> Option<(Offset, Offset)> {
        match *self {
            Self::OffsetOutOfRange { start, end, .. } | Self::LogTruncated { start, end, .. } => Some((start, end)),
            Self::Log(LogError::OffsetOutOfRange { start, end, .. })
            | Self::Fetch(FetchError::OffsetOutOfRange { start, end, .. })
            | Self::Read(ReadError::OffsetOutOfRange { start, end, .. }) => Some((start, end)),
            _ => None,
        }
    }
}
