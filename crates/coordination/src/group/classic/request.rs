//! What members ask, and are answered.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{Generation, GroupId, InstanceId, MemberId};

use super::super::Error;

/// A way to assign that a member supports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    /// What the member tells the leader. Opaque.
    pub metadata: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    pub group: GroupId,
    /// `None`: it has no id yet.
    pub member: Option<MemberId>,
    /// The id it gets if it has none.
    pub fresh: MemberId,
    pub instance: Option<InstanceId>,
    pub session_timeout: Duration,
    /// Zero: as the session timeout.
    pub rebalance_timeout: Duration,
    pub protocol_type: String,
    /// In order of preference.
    pub protocols: Vec<Protocol>,
    /// One without an id is told one, and joins again with it (KIP-394).
    pub require_known_member: bool,
    pub client_id: String,
    pub client_host: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    pub generation: Generation,
    pub protocol_type: String,
    pub protocol: String,
    pub leader: MemberId,
    pub member: MemberId,
    /// The leader need not assign: what there is stays (KIP-814).
    pub skip_assignment: bool,
    /// Told to the leader only.
    pub members: Vec<JoinedMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub metadata: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    pub group: GroupId,
    pub member: MemberId,
    pub generation: Generation,
    pub instance: Option<InstanceId>,
    /// Checked if stated.
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// Of the leader.
    pub assignments: BTreeMap<MemberId, Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncAnswer {
    pub protocol_type: String,
    pub protocol: String,
    pub assignment: Bytes,
}

/// By id, by instance, or by both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingMember {
    pub member: Option<MemberId>,
    pub instance: Option<InstanceId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftMember {
    pub asked: LeavingMember,
    pub result: Result<(), Error>,
}
