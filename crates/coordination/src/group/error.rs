//! Why the group coordinator refuses.

use std::time::Duration;

use highwater_types::{ErrorCode, Generation, GroupId, InstanceId, MemberEpoch, MemberId, TopicId, TopicPartition};

/// A refused request. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no group {0:?}")]
    UnknownGroup(GroupId),
    #[error("{member:?} is no member of group {group:?} (any more): join it anew")]
    UnknownMember { group: GroupId, member: MemberId },
    #[error(
        "member {member:?} of group {group:?} is at epoch {current}, not {found}: give up all partitions and join again"
    )]
    FencedEpoch { group: GroupId, member: MemberId, current: MemberEpoch, found: MemberEpoch },
    #[error("member {member:?} of group {group:?} is at epoch {current}; {found} is older: heartbeat, then try again")]
    StaleEpoch { group: GroupId, member: MemberId, current: MemberEpoch, found: MemberEpoch },
    #[error("instance {instance:?} of group {group:?} is another member now")]
    FencedInstance { group: GroupId, instance: InstanceId },
    #[error(
        "instance {instance:?} of group {group:?} still belongs to a member that lives; it is free at the latest {session:?} after that one was last heard"
    )]
    UnreleasedInstance { group: GroupId, instance: InstanceId, session: Duration },
    #[error("there is no assignor {0:?}; there are uniform and range")]
    UnsupportedAssignor(String),
    #[error("group {group:?} has {max} members already, which is the most it may have")]
    Full { group: GroupId, max: usize },
    #[error("the topic pattern {pattern:?} can't be used: {problem}")]
    Pattern { pattern: String, problem: String },
    #[error("a new member states what it subscribes to")]
    NoSubscription,
    #[error("group {0:?} has members: stop them first")]
    NonEmpty(GroupId),
    #[error("members of group {0:?} are subscribed to a topic whose offsets are to be deleted")]
    Subscribed(GroupId),
    #[error("offset metadata of {length} bytes; at most {max} are kept")]
    MetadataTooLarge { length: usize, max: usize },
    #[error("the coordinator knows of no topic with id {0} (yet)")]
    UnknownTopic(TopicId),
    #[error("the coordinator knows of no partition {0} (yet)")]
    UnknownPartition(TopicPartition),
    #[error("a heartbeat can't have the epoch {0}")]
    BadEpoch(MemberEpoch),
    #[error(
        "heartbeat {found} of member {member:?} of group {group:?} came after its heartbeat {seen}, and is not true any more"
    )]
    Overtaken { group: GroupId, member: MemberId, seen: u64, found: u64 },
    #[error(
        "group {0:?} has members of the other group protocol that can't be in one group with this one: stop them first"
    )]
    OtherKind(GroupId),
    #[error("the protocol type or the protocols are not those of the other members of group {0:?}, or none are stated")]
    InconsistentProtocol(GroupId),
    #[error("group {group:?} is in generation {current}, not {found}: join again")]
    IllegalGeneration { group: GroupId, current: Generation, found: Generation },
    #[error("group {0:?} is rebalancing: join again")]
    RebalanceInProgress(GroupId),
    #[error("a session timeout of {found:?}; it must be from {min:?} to {max:?}")]
    InvalidSessionTimeout { min: Duration, max: Duration, found: Duration },
    #[error("what is said to group {group:?}, and kept in one piece, would be {found} bytes; at most {max} are kept")]
    TooLarge { group: GroupId, found: usize, max: usize },
    #[error("no member of group {group:?} has the instance {instance:?}")]
    UnknownInstance { group: GroupId, instance: InstanceId },
    #[error("a member that leaves is named by its id, its instance, or both")]
    NoMember,
}

impl Error {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownGroup(_) => ErrorCode::GroupIdNotFound,
            Self::UnknownMember { .. } | Self::UnknownInstance { .. } | Self::NoMember => ErrorCode::UnknownMemberId,
            Self::FencedEpoch { .. } => ErrorCode::FencedMemberEpoch,
            Self::StaleEpoch { .. } => ErrorCode::StaleMemberEpoch,
            Self::Overtaken { .. } => ErrorCode::Conflict,
            Self::FencedInstance { .. } => ErrorCode::FencedInstanceId,
            Self::UnreleasedInstance { .. } => ErrorCode::UnreleasedInstanceId,
            Self::UnsupportedAssignor(_) => ErrorCode::UnsupportedAssignor,
            Self::Full { .. } => ErrorCode::GroupMaxSizeReached,
            Self::Pattern { .. } => ErrorCode::InvalidRegularExpression,
            Self::NoSubscription | Self::BadEpoch(_) => ErrorCode::InvalidRequest,
            Self::UnknownTopic(_) => ErrorCode::UnknownTopicId,
            Self::UnknownPartition(_) => ErrorCode::UnknownPartition,
            Self::OtherKind(_) | Self::InconsistentProtocol(_) => ErrorCode::InconsistentGroupProtocol,
            Self::IllegalGeneration { .. } => ErrorCode::IllegalGeneration,
            Self::RebalanceInProgress(_) => ErrorCode::RebalanceInProgress,
            Self::TooLarge { .. } => ErrorCode::RecordTooLarge,
            Self::InvalidSessionTimeout { .. } => ErrorCode::InvalidSessionTimeout,
            Self::NonEmpty(_) => ErrorCode::NonEmptyGroup,
            Self::Subscribed(_) => ErrorCode::GroupSubscribedToTopic,
            Self::MetadataTooLarge { .. } => ErrorCode::OffsetMetadataTooLarge,
        }
    }
}
