//! Why a leader refuses a follower's fetch entry.

use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};

/// A refused entry acknowledges nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("broker {follower} follows leader epoch {asked}, this leader's is {current}: newer metadata is on its way")]
    FencedLeaderEpoch { follower: BrokerId, asked: LeaderEpoch, current: LeaderEpoch },
    #[error("broker {follower} follows leader epoch {asked}, this broker knows {current} only: ask again")]
    UnknownLeaderEpoch { follower: BrokerId, asked: LeaderEpoch, current: LeaderEpoch },
    #[error("broker {follower} is no replica of the partition, as far as its leader knows")]
    NotReplica { follower: BrokerId },
    #[error("broker {follower} fetches in broker epoch {asked}, its newest incarnation has {current}")]
    StaleBrokerEpoch { follower: BrokerId, asked: BrokerEpoch, current: BrokerEpoch },
    /// The follower's log has nothing in common with what the leader still has: it starts anew at `start`.
    #[error("broker {follower} asks from offset {asked}; its log can go on only from the leader's {start} to {end}")]
    OffsetOutOfRange { follower: BrokerId, asked: Offset, start: Offset, end: Offset },
}

impl FetchError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
            // To the follower it is the same: only newer metadata, here or there, can help.
            Self::NotReplica { .. } => ErrorCode::NotLeader,
            Self::StaleBrokerEpoch { .. } => ErrorCode::StaleBrokerEpoch,
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        }
    }
}
