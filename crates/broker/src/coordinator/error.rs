//! Why a coordinator did not answer as a coordinator.

use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, PartitionId};

/// Of a call to a shard. But for `Shard` and `Lost`, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    #[error("this broker does not coordinate what is kept in partition {partition}{}", leader_text(*.leader))]
    NotCoordinator { partition: PartitionId, leader: Option<(BrokerId, LeaderEpoch)> },
    /// The shard was thrown away while the call waited: what it changed may yet be committed, or not.
    #[error("this broker stopped coordinating partition {partition} before the request was committed: it may take effect or not{}", leader_text(*.leader))]
    Lost { partition: PartitionId, leader: Option<(BrokerId, LeaderEpoch)> },
    #[error("the coordinator of partition {partition} is reading its state back; ask again")]
    Loading { partition: PartitionId },
    /// What it would have to write could not be written now, its state can't be read, or there is no topic for it.
    #[error("the coordinator can't serve now: {why}")]
    Unavailable { why: String },
    /// The transaction that was asked about may have ended since: ask about it again. See [`Guard`](crate::transaction::verify::Guard).
    #[error("a transaction of this producer has ended meanwhile")]
    Outdated,
    /// Of a marker that the log does not take: nothing was changed.
    #[error(transparent)]
    Marker(#[from] MarkerRefused),
    /// What the shard itself refuses.
    #[error("{0}")]
    Shard(E),
}

/// The end of a transaction that is over, or of a coordinator that is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct MarkerRefused {
    pub code: ErrorCode,
    pub why: String,
}

fn leader_text(leader: Option<(BrokerId, LeaderEpoch)>) -> String {
    leader.map(|(leader, _)| format!("; broker {leader} does")).unwrap_or_default()
}

impl<E> CallError<E> {
    /// `Err`: the shard's own refusal.
    pub fn code(&self) -> Result<ErrorCode, &E> {
        match self {
            Self::NotCoordinator { .. } | Self::Lost { .. } => Ok(ErrorCode::NotCoordinator),
            Self::Loading { .. } => Ok(ErrorCode::CoordinatorLoadInProgress),
            Self::Unavailable { .. } => Ok(ErrorCode::CoordinatorNotAvailable),
            Self::Outdated => Ok(ErrorCode::ConcurrentTransactions),
            Self::Marker(refused) => Ok(refused.code),
            Self::Shard(error) => Err(error),
        }
    }

    /// Whether it can't be said that nothing happened.
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Who coordinates, as far as this broker knows.
    pub fn leader(&self) -> Option<(BrokerId, LeaderEpoch)> {
        match self {
            Self::NotCoordinator { leader, .. } | Self::Lost { leader, .. } => *leader,
            _ => None,
        }
    }

    /// The same, with another kind of refusal by the shard.
    pub fn map_shard<F>(self, map: impl FnOnce(E) -> F) -> CallError<F> {
        match self {
            Self::NotCoordinator { partition, leader } => CallError::NotCoordinator { partition, leader },
            Self::Lost { partition, leader } => CallError::Lost { partition, leader },
            Self::Loading { partition } => CallError::Loading { partition },
            Self::Unavailable { why } => CallError::Unavailable { why },
            Self::Outdated => CallError::Outdated,
            Self::Marker(refused) => CallError::Marker(refused),
            Self::Shard(error) => CallError::Shard(map(error)),
        }
    }
}
