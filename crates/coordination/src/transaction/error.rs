//! Why the transaction coordinator refuses.

use highwater_types::{ErrorCode, PartitionId, ProducerEpoch, ProducerId, TopicId, TransactionalId};

/// A refused request. It changed nothing, but for `Completing`, which `InitProducerId` also gets when it made the transaction end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "the transaction timeout of {timeout_ms} ms is not allowed: it must be between 1 ms and transaction.max.timeout.ms, which is {max_ms}"
    )]
    InvalidTimeout { timeout_ms: u32, max_ms: u32 },
    #[error("no transaction coordinator knows of the transactional id {id:?}: it never was, or has expired")]
    UnknownId { id: TransactionalId },
    #[error(
        "the transactional id {id:?} does not belong to producer {found} (any more), but to producer {current}: get one by InitProducerId"
    )]
    OtherProducer { id: TransactionalId, found: ProducerId, current: ProducerId },
    #[error("the transactional id {id:?} has expired, and with it producer {found}: get a new one by InitProducerId")]
    Expired { id: TransactionalId, found: ProducerId },
    #[error(
        "producer {producer} of the transactional id {id:?} is fenced: it has epoch {found}, and another one took over with {current}"
    )]
    Fenced { id: TransactionalId, producer: ProducerId, found: ProducerEpoch, current: ProducerEpoch },
    #[error(
        "that transaction of {id:?} is over: it had epoch {found} of producer {producer}, which is at {current} now"
    )]
    Over { id: TransactionalId, producer: ProducerId, found: ProducerEpoch, current: ProducerEpoch },
    #[error(
        "the transaction of {id:?} in epoch {found} took longer than its timeout of {timeout_ms} ms, and was aborted: go on after InitProducerId"
    )]
    TimedOut { id: TransactionalId, found: ProducerEpoch, timeout_ms: u32 },
    #[error("the transaction of {id:?} before is still being completed: try again soon")]
    Completing { id: TransactionalId },
    #[error("that transaction of {id:?} can't be {asked}: it was {ended} already")]
    EndedOtherwise { id: TransactionalId, asked: &'static str, ended: &'static str },
    #[error("partition {partition} of topic {topic} is not part of the open transaction of {id:?}")]
    NotInTransaction { id: TransactionalId, topic: TopicId, partition: PartitionId },
}

impl Error {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidTimeout { .. } => ErrorCode::InvalidTransactionTimeout,
            Self::UnknownId { .. } => ErrorCode::TransactionalIdNotFound,
            Self::OtherProducer { .. } | Self::Expired { .. } => ErrorCode::InvalidProducerIdMapping,
            Self::Fenced { .. } => ErrorCode::ProducerFenced,
            Self::Over { .. } | Self::TimedOut { .. } => ErrorCode::InvalidProducerEpoch,
            Self::Completing { .. } => ErrorCode::ConcurrentTransactions,
            Self::EndedOtherwise { .. } => ErrorCode::InvalidTransactionState,
            Self::NotInTransaction { .. } => ErrorCode::TransactionAbortable,
        }
    }
}
