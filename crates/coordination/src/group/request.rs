//! What can be asked of the group coordinator, and what it answers.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_types::{GroupId, InstanceId, LeaderEpoch, MemberEpoch, MemberId, Offset, TimestampMs, TopicPartition};

use super::Subscription;
use crate::ProducerIdentity;

/// Settings of all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// A member that is not heard of for so long is gone.
    pub session_timeout: Duration,
    /// How often members are to be heard of.
    pub heartbeat_interval: Duration,
    /// Members of one group.
    pub members_max: usize,
    /// Bytes of what is kept with an offset.
    pub metadata_bytes_max: usize,
    /// How long the offsets of a group without members are kept.
    pub offsets_retention: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            members_max: 10_000,
            metadata_bytes_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A member is there. What is `None` is as before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub group: GroupId,
    pub member: MemberId,
    /// `FIRST` joins, `LEAVE` and `LEAVE_STATIC` leave.
    pub epoch: MemberEpoch,
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub rebalance_timeout: Option<Duration>,
    pub subscription: Option<Subscription>,
    pub assignor: Option<String>,
    /// What the member has now.
    pub owned: Option<BTreeSet<TopicPartition>>,
    pub client_id: String,
    pub client_host: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    pub member: MemberId,
    pub epoch: MemberEpoch,
    pub heartbeat_interval: Duration,
    pub session_timeout: Duration,
    /// What the member should have: it gives up the rest, and says so. `None`: as it was.
    pub assignment: Option<BTreeSet<TopicPartition>>,
}

/// An offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    pub partition: TopicPartition,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: String,
}

/// An offset that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub metadata: String,
    pub at: TimestampMs,
}

/// Offsets as part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetsInTransaction {
    pub producer: ProducerIdentity,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Heartbeat(Heartbeat),
    CommitOffsets {
        group: GroupId,
        /// `None`: nobody's in particular; taken while the group has no members, or as part of a transaction.
        member: Option<(MemberId, MemberEpoch)>,
        instance: Option<InstanceId>,
        offsets: Vec<OffsetCommit>,
        transaction: Option<OffsetsInTransaction>,
    },
    FetchOffsets {
        group: GroupId,
        /// Empty: all that have one.
        partitions: Vec<TopicPartition>,
        require_stable: bool,
    },
    DeleteOffsets {
        group: GroupId,
        partitions: Vec<TopicPartition>,
    },
    ListGroups,
    DescribeGroup(GroupId),
    DeleteGroup(GroupId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Heartbeat(HeartbeatAnswer),
    Committed,
    /// `None`: nothing is committed. `Err`: an open transaction is about to change it.
    Offsets(Vec<(TopicPartition, Result<Option<CommittedOffset>, Unstable>)>),
    Deleted,
    Groups(Vec<ListedGroup>),
    Group(DescribedGroup),
}

/// An offset is part of an open transaction (KIP-447).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unstable;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: GroupId,
    /// `Empty`, `Reconciling` or `Stable`.
    pub state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    pub listed: ListedGroup,
    pub epoch: i32,
    pub assignor: &'static str,
    pub members: Vec<DescribedMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub epoch: MemberEpoch,
    pub subscription: Subscription,
    pub assignment: BTreeSet<TopicPartition>,
    pub target: BTreeSet<TopicPartition>,
}
