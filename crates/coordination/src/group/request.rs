//! What can be asked of the group coordinator, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{
    Generation, GroupId, InstanceId, LeaderEpoch, MemberEpoch, MemberId, Offset, TimestampMs, TopicPartition,
};

use super::{
    Error, JoinAnswer, JoinRequest, LeavingMember, LeftMember, Subscription, SubscriptionChange, SyncAnswer,
    SyncRequest,
};
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
    /// What members of classic groups may ask for.
    pub classic_session_timeout_min: Duration,
    pub classic_session_timeout_max: Duration,
    /// Bytes of what the members of one classic group say and are assigned, of what one of KIP-848 says, and of the offsets of one
    /// commit: each is one record, or one batch.
    pub classic_bytes_max: usize,
    /// How long the first member of a classic group waits for others; prolonged as they come. Zero: not at all.
    pub classic_initial_delay: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
            heartbeat_interval: Duration::from_secs(1),
            members_max: 10_000,
            metadata_bytes_max: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 3600),
            classic_session_timeout_min: Duration::from_secs(6),
            classic_session_timeout_max: Duration::from_secs(1800),
            classic_bytes_max: 4 << 20,
            classic_initial_delay: Duration::from_secs(3),
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
    /// Grows with each request of the member; zero: not said.
    pub number: u64,
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub rebalance_timeout: Option<Duration>,
    pub subscription: SubscriptionChange,
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
    Join(JoinRequest),
    Sync(SyncRequest),
    ClassicHeartbeat {
        group: GroupId,
        member: MemberId,
        generation: Generation,
        instance: Option<InstanceId>,
    },
    Leave {
        group: GroupId,
        members: Vec<LeavingMember>,
    },
    CommitOffsets {
        group: GroupId,
        /// `None`: nobody's in particular; taken while the group has no members, or as part of a transaction. The epoch of a classic
        /// member is its generation.
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
        /// Fenced as a commit is; `None`: nobody in particular.
        member: Option<(MemberId, MemberEpoch)>,
    },
    DeleteOffsets {
        group: GroupId,
        partitions: Vec<TopicPartition>,
    },
    ListGroups,
    CountGroups,
    DescribeGroup(GroupId),
    DeleteGroup(GroupId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    Heartbeat(HeartbeatAnswer),
    Joined(JoinAnswer),
    /// Join again with this id (KIP-394).
    MemberIdRequired(MemberId),
    Synced(SyncAnswer),
    /// The classic heartbeat is taken.
    Alive,
    Left(Vec<LeftMember>),
    /// As asked, one by one.
    Committed(Vec<(TopicPartition, Result<(), Error>)>),
    /// `None`: nothing is committed. `Err`: an open transaction is about to change it.
    Offsets(Vec<(TopicPartition, Result<Option<CommittedOffset>, Unstable>)>),
    Deleted,
    Groups(Vec<ListedGroup>),
    Counted(GroupCounts),
    Group(DescribedGroup),
}

/// An offset is part of an open transaction (KIP-447).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unstable;

/// What a shard has, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupCounts {
    pub by_state: BTreeMap<&'static str, u64>,
    pub members: u64,
    /// All groups' epochs or generations, added up.
    pub epochs: u64,
}

impl GroupCounts {
    pub(super) fn add(&mut self, state: &'static str, members: usize, epoch: i32) {
        *self.by_state.entry(state).or_default() += 1;
        self.members += members as u64;
        self.epochs += u64::try_from(epoch).unwrap_or(0);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    pub group: GroupId,
    pub kind: GroupKind,
    /// `Empty`, `Reconciling` or `Stable`; of a classic one `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`.
    pub state: &'static str,
    /// `consumer`; what its members say of a classic one; empty if offsets are all that is known of it.
    pub protocol_type: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// KIP-848.
    Consumer,
    Classic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    pub listed: ListedGroup,
    /// Or the generation.
    pub epoch: i32,
    /// Or the protocol that was chosen.
    pub assignor: String,
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
    /// Of a member of a classic group: what the other fields say of topics and partitions is read from this, if it can be.
    pub opaque: Option<OpaqueParts>,
}

/// What classic members tell their leader, and it them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueParts {
    pub metadata: Bytes,
    pub assignment: Bytes,
}
