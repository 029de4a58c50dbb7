//! What can go wrong, one type for each kind of operation. Each says whether a retry can help and whether the outcome
//! is known.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::{code_of, error_from_status, v1};
use highwater_record::BatchError;
use highwater_types::{ErrorCode, LeaderEpoch, Offset, Outcome, PartitionId};

/// Why no connection to a cluster came about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// A bootstrap address could not be read.
    #[error("{address:?} is no address of a broker; write host:port, as in 127.0.0.1:9092")]
    BadAddress {
        /// As it was given.
        address: String,
    },
    /// No bootstrap address was given.
    #[error("no address of a broker was given; write one or more as host:port, separated by commas")]
    NoAddress,
    /// No broker answered in time.
    #[error("no broker answered within {waited:?}; tried {tried}. Is the cluster running, and are these its brokers?")]
    Unreachable {
        /// How long was tried.
        waited: Duration,
        /// Each address tried, with its last error.
        tried: String,
    },
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} can't be {value}: {allowed}")]
pub struct InvalidSetting {
    /// The setting's name.
    pub setting: &'static str,
    /// What it was set to.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}{}", place(topic, *partition), outcome_text(*outcome))]
pub struct ProduceError {
    /// What happened, as the broker or the client names it.
    pub code: ErrorCode,
    /// What was asked, what was found, and what to do.
    pub message: Arc<str>,
    /// [`Outcome::NotApplied`]: the record is not in the log and never will be. [`Outcome::Unknown`]: it may be there,
    /// or may yet appear; sending it again may duplicate it.
    pub outcome: Outcome,
    /// The topic asked for.
    pub topic: Arc<str>,
    /// The partition, if one had been chosen.
    pub partition: Option<PartitionId>,
    /// How many times it was sent to a broker.
    pub attempts: u32,
}

impl ProduceError {
    pub(crate) fn new(topic: &str, code: ErrorCode, message: impl Into<Arc<str>>) -> Self {
        let message = message.into();
        Self { code, message, outcome: code.outcome(), topic: topic.into(), partition: None, attempts: 0 }
    }

    /// A failure before anything was sent: whatever the code, nothing was written.
    pub(crate) fn unsent(topic: &str, code: ErrorCode, message: impl Into<Arc<str>>) -> Self {
        Self { outcome: Outcome::NotApplied, ..Self::new(topic, code, message) }
    }

    /// Whether sending the same record later can succeed with nobody changing anything. If the outcome is unknown, it
    /// may then be in the log twice.
    pub fn is_retriable(&self) -> bool {
        self.code.is_retriable()
    }
}

/// Some of the records accepted since the last flush were not acknowledged. Each one's own
/// [`Delivery`](crate::Delivery) says the same of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{failed} record(s) were not acknowledged; the first: {first}")]
pub struct FlushError {
    /// How many records.
    pub failed: u64,
    /// The first failure.
    #[source]
    pub first: ProduceError,
}

/// Why reading failed. But for [`ConsumeError::Unavailable`], the partition concerned is not read further until it is
/// [sought](crate::Consumer::seek) anew; other partitions are not affected.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsumeError {
    /// There is no such topic, or it was deleted while it was read.
    #[error("there is no topic {topic:?}; create it, or check the name")]
    UnknownTopic {
        /// The topic asked for.
        topic: String,
    },
    /// The topic was deleted, and created again under the same name: its records are not those read so far (T21).
    #[error("topic {topic:?} was deleted and created again; assign it anew to read the new one")]
    TopicRecreated {
        /// The topic read.
        topic: String,
    },
    /// The topic has fewer partitions.
    #[error("topic {topic:?} has {partitions} partitions, numbered from 0; there is no partition {partition}")]
    UnknownPartition {
        /// The topic asked for.
        topic: String,
        /// The partition asked for.
        partition: PartitionId,
        /// How many it has.
        partitions: u32,
    },
    /// The partition was not assigned to this consumer.
    #[error("{topic}-{partition} is not assigned to this consumer; assign it first")]
    NotAssigned {
        /// The topic asked for.
        topic: String,
        /// The partition asked for.
        partition: PartitionId,
    },
    /// The position is not in the log (any more), and the policy is to say so.
    #[error(
        "{topic}-{partition}: offset {position} is not in the log, which has {start} to {end} (exclusive); seek to one \
         of those, or set a reset policy"
    )]
    OffsetOutOfRange {
        /// The topic read.
        topic: String,
        /// The partition read.
        partition: PartitionId,
        /// Where the consumer was.
        position: Offset,
        /// First offset that can be read.
        start: Offset,
        /// The offset after the last that can be read.
        end: Offset,
    },
    /// The log that this consumer has read is not the leader's log: records that it may have seen were truncated away
    /// (KIP-320, T41). With the guarantees of acks=all that takes an unclean election or lost disks.
    #[error(
        "{topic}-{partition}: the log was truncated below the position {position}: it agrees with what was read only \
         up to offset {diverged_at} (leader epoch {leader_epoch}); seek there to go on"
    )]
    LogTruncated {
        /// The topic read.
        topic: String,
        /// The partition read.
        partition: PartitionId,
        /// Where the consumer was.
        position: Offset,
        /// Up to here, exclusive, the logs agree.
        diverged_at: Offset,
        /// The last leader epoch that both have.
        leader_epoch: LeaderEpoch,
    },
    /// The broker sent bytes that are no sound record batch, several times over. Nothing of them was handed out.
    #[error("{topic}-{partition}: damaged record batch at or after offset {position}: {source}")]
    CorruptBatch {
        /// The topic read.
        topic: String,
        /// The partition read.
        partition: PartitionId,
        /// Where the consumer was.
        position: Offset,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The broker refused, and asking again will not help.
    #[error("{topic}-{partition}: {message} ({code})")]
    Refused {
        /// The topic read.
        topic: String,
        /// The partition read.
        partition: PartitionId,
        /// The broker's reason.
        code: ErrorCode,
        /// What was asked, what was found, and what to do.
        message: String,
    },
    /// The group has committed no offset for the partition, or one that is not in the log, and the policy is to say so.
    #[error(
        "{topic}-{partition}: group {group:?} has committed no offset, and its reset policy is to fail; commit one, or \
         set a policy"
    )]
    NoOffset {
        /// The group.
        group: String,
        /// The topic assigned.
        topic: String,
        /// The partition assigned.
        partition: PartitionId,
    },
    /// The coordinator does not take this consumer as a member of the group, and asking again will not help. It holds no
    /// partitions any more.
    #[error("group {group:?}: {message} ({code})")]
    Group {
        /// The group.
        group: String,
        /// The coordinator's reason.
        code: ErrorCode,
        /// What was asked, what was found, and what to do.
        message: String,
    },
    /// The brokers did not answer in time; asking again may help.
    #[error("{what} failed within {waited:?}: {message} ({code})")]
    Unavailable {
        /// What was asked.
        what: String,
        /// How long was tried.
        waited: Duration,
        /// The last reason.
        code: ErrorCode,
        /// The last reason in words.
        message: String,
    },
}

impl ConsumeError {
    /// The code of the failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownTopic { .. } => ErrorCode::UnknownTopic,
            Self::TopicRecreated { .. } => ErrorCode::UnknownTopicId,
            Self::UnknownPartition { .. } => ErrorCode::UnknownPartition,
            Self::NotAssigned { .. } => ErrorCode::InvalidRequest,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::LogTruncated { .. } => ErrorCode::LogTruncated,
            Self::NoOffset { .. } => ErrorCode::OffsetOutOfRange,
            Self::CorruptBatch { .. } => ErrorCode::CorruptBatch,
            Self::Refused { code, .. } | Self::Group { code, .. } | Self::Unavailable { code, .. } => *code,
        }
    }

    /// Whether the same call can succeed later with nobody changing anything.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why offsets were not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("commit offsets of group {group:?}: {message} ({code}){}", outcome_text(*outcome))]
pub struct CommitError {
    /// The group.
    pub group: String,
    /// The reason. `UnknownMemberId`, `FencedMemberEpoch` and `IllegalGeneration` mean that the partitions are, or may
    /// be, another member's.
    pub code: ErrorCode,
    /// What was found, and what to do.
    pub message: String,
    /// Whether some may be committed all the same.
    pub outcome: Outcome,
}

impl CommitError {
    pub(crate) fn from_admin(group: &str, error: AdminError) -> Self {
        let AdminError { code, message, outcome, .. } = error;
        Self { group: group.to_owned(), code, message, outcome }
    }

    pub(crate) fn not_a_member(group: &str) -> Self {
        let message = "this consumer is not a member now: poll, and commit what it is then handed".to_owned();
        Self { group: group.to_owned(), code: ErrorCode::UnknownMemberId, message, outcome: Outcome::NotApplied }
    }

    pub(crate) fn lost(group: &str) -> Self {
        let message = "the partitions of this consumer went, or may go, to others before the commit was answered: poll, and \
                       commit what it is then handed";
        let (code, message) = (ErrorCode::UnknownMemberId, message.to_owned());
        Self { group: group.to_owned(), code, message, outcome: Outcome::Unknown }
    }

    /// Whether the same commit can succeed later with nobody changing anything.
    pub fn is_retriable(&self) -> bool {
        self.code.is_retriable()
    }
}

/// Why a transaction, or its producer, failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransactionError {
    /// A setting can't be used.
    #[error(transparent)]
    Setting(InvalidSetting),
    /// Another producer with the same transactional id has taken over, or the coordinator has aborted this one's
    /// transaction because it was open for too long. Nothing of the transaction was committed by this call. Fatal.
    #[error("the producer of transactional id {transactional_id:?} is fenced: {message} ({code})")]
    Fenced {
        /// The id.
        transactional_id: String,
        /// The coordinator's reason.
        code: ErrorCode,
        /// What was asked, what was found, and what to do.
        message: String,
    },
    /// Something of the transaction failed, so all of it was aborted; begin another.
    #[error("the transaction of {transactional_id:?} was aborted: {cause}")]
    Aborted {
        /// The id.
        transactional_id: String,
        /// What failed first.
        #[source]
        cause: ProduceError,
    },
    /// The group's coordinator did not take offsets into the transaction, which can only be aborted.
    #[error("the transaction of {transactional_id:?} can only be aborted: {source}")]
    Offsets {
        /// The id.
        transactional_id: String,
        /// Why not.
        source: CommitError,
    },
    /// The coordinator refused, and asking again will not help. Fatal.
    #[error("transactional id {transactional_id:?}: {message} ({code})")]
    Refused {
        /// The id.
        transactional_id: String,
        /// The coordinator's reason.
        code: ErrorCode,
        /// What was asked, what was found, and what to do.
        message: String,
    },
    /// The coordinator did not answer in time, or refused an attempt after one whose answer was lost. Of a commit or an abort the
    /// outcome is unknown; the next [`begin`](crate::TransactionalProducer::begin) asks for the same again, so that it happens
    /// once, or fails if this producer is of no use any more.
    #[error("transactional id {transactional_id:?}: {message} ({code}); it is asked for again before anything else")]
    Unavailable {
        /// The id.
        transactional_id: String,
        /// The last reason.
        code: ErrorCode,
        /// The last reason in words.
        message: String,
    },
}

impl TransactionError {
    pub(crate) fn from_admin(transactional_id: &str, error: AdminError) -> Self {
        let (transactional_id, message, code) = (transactional_id.to_owned(), error.to_string(), error.code);
        if crate::producer::is_fencing(code) {
            Self::Fenced { transactional_id, code, message }
        } else if code.is_retriable() {
            Self::Unavailable { transactional_id, code, message }
        } else {
            Self::Refused { transactional_id, code, message }
        }
    }

    /// The code of the failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Setting(_) => ErrorCode::InvalidRequest,
            Self::Aborted { cause, .. } => cause.code,
            Self::Offsets { source, .. } => source.code,
            Self::Fenced { code, .. } | Self::Refused { code, .. } | Self::Unavailable { code, .. } => *code,
        }
    }

    /// Whether this producer is of no use any more. A new one of the same id can go on.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fenced { .. } | Self::Refused { .. } | Self::Setting(_))
    }
}

/// Why an administrative request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}{}", outcome_text(*outcome))]
pub struct AdminError {
    /// What was asked.
    pub what: String,
    /// The reason.
    pub code: ErrorCode,
    /// What was found, and what to do.
    pub message: String,
    /// Whether the change may have been made, or may yet be, all the same.
    pub outcome: Outcome,
}

impl AdminError {
    pub(crate) fn new(what: impl Into<String>, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { what: what.into(), code, message: message.into(), outcome: code.outcome() }
    }

    pub(crate) fn from_wire(what: impl Into<String>, error: &v1::Error) -> Self {
        let outcome = if error.outcome_unknown { Outcome::Unknown } else { Outcome::NotApplied };
        Self { what: what.into(), code: code_of(error), message: error.message.clone(), outcome }
    }

    pub(crate) fn from_status(what: impl Into<String>, status: &tonic::Status) -> Self {
        Self::from_wire(what, &error_from_status(status))
    }

    /// Whether the same request can succeed later with nobody changing anything.
    pub fn is_retriable(&self) -> bool {
        self.code.is_retriable()
    }
}

fn place(topic: &str, partition: Option<PartitionId>) -> String {
    match partition {
        Some(partition) => format!("{topic}-{partition}"),
        None => format!("topic {topic:?}"),
    }
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotApplied => "",
        Outcome::Unknown => " (it may have been done all the same: the outcome is unknown)",
    }
}
