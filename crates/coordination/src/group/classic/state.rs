//! A classic group: what its record says, and what does not outlive the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{Generation, GroupId, InstanceId, MemberId};

use super::super::Error;
use super::{JoinAnswer, JoinRequest, JoinedMember, Protocol, SyncAnswer};
use crate::Token;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Member {
    pub instance: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout: Duration,
    pub rebalance_timeout: Duration,
    /// In order of preference.
    pub protocols: Vec<Protocol>,
    /// In this generation; empty until the leader has assigned.
    pub assignment: Bytes,
}

impl Member {
    pub(super) fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|it| it.name == protocol)
    }

    /// About what it takes in the group's record.
    fn bytes(&self) -> usize {
        let protocols: usize = self.protocols.iter().map(|it| it.name.len() + it.metadata.len()).sum();
        protocols + self.client_id.len() + self.client_host.len() + self.assignment.len()
    }

    pub(super) fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols.iter().find(|it| it.name == protocol).map(|it| it.metadata.clone()).unwrap_or_default()
    }
}

/// What outlives the coordinator, beside the generation: that is the group's epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct Durable {
    pub protocol_type: String,
    /// Empty without members.
    pub protocol: String,
    pub leader: Option<MemberId>,
    /// Whether the leader has assigned.
    pub is_assigned: bool,
    /// Whether members are to join again, as it became a classic group in this generation.
    pub is_over: bool,
    pub members: BTreeMap<MemberId, Arc<Member>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Empty,
    /// Members are to join (again).
    Preparing {
        /// The group was empty: more will come.
        initial: Option<Initial>,
    },
    /// The leader is to assign.
    Completing,
    Stable,
}

/// The wait for the first members of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initial {
    /// Not longer than this.
    pub until: Duration,
    /// Somebody has come since the wait was last prolonged.
    pub grew: bool,
}

/// A request that is answered later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Join(Token),
    Sync(Token),
}

impl Wait {
    pub(super) const fn token(self) -> Token {
        match self {
            Self::Join(token) | Self::Sync(token) => token,
        }
    }
}

/// A group that has members, or ids given to members to be. In all phases but `Preparing` its record says the same.
#[derive(Debug, Clone)]
pub(in super::super) struct ClassicGroup {
    pub(super) generation: i32,
    pub(super) phase: Phase,
    pub(super) protocol_type: String,
    pub(super) protocol: String,
    pub(super) leader: Option<MemberId>,
    pub(super) members: BTreeMap<MemberId, Arc<Member>>,
    pub(super) waits: BTreeMap<MemberId, Wait>,
    /// Members of no generation yet.
    pub(super) new: BTreeSet<MemberId>,
    /// Members of this generation that have not asked for their assignments.
    pub(super) unsynced: BTreeSet<MemberId>,
    /// Ids that were given, and not used yet (KIP-394).
    pub(super) pending: BTreeSet<MemberId>,
    /// See [`Durable::is_over`].
    pub(super) is_over: bool,
}

impl ClassicGroup {
    /// As it was written down in this generation; `None`: it was not a classic group, or there was none.
    pub(in super::super) fn new(generation: i32, durable: Option<&Durable>) -> Self {
        let durable = durable.cloned().unwrap_or_default();
        let phase = match durable.members.is_empty() {
            true => Phase::Empty,
            false if durable.is_assigned => Phase::Stable,
            false => Phase::Completing,
        };
        // A static one that was away may stay away.
        let expected = durable.members.iter().filter(|(_, it)| phase == Phase::Completing && it.instance.is_none());
        Self {
            generation,
            phase,
            unsynced: expected.map(|(id, _)| id.clone()).collect(),
            protocol_type: durable.protocol_type,
            protocol: durable.protocol,
            leader: durable.leader,
            members: durable.members,
            waits: BTreeMap::new(),
            new: BTreeSet::new(),
            pending: BTreeSet::new(),
            is_over: durable.is_over,
        }
    }

    pub(in super::super) fn durable(&self) -> Durable {
        Durable {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            is_assigned: self.phase == Phase::Stable,
            is_over: self.is_over,
            members: self.members.clone(),
        }
    }

    /// Whether its record says all of it.
    pub(in super::super) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    pub(in super::super) fn has_members(&self) -> bool {
        !self.members.is_empty()
    }

    pub(in super::super) fn is_stable(&self) -> bool {
        self.phase == Phase::Stable
    }

    pub(in super::super) fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    pub(in super::super) fn all_members(&self) -> &BTreeMap<MemberId, Arc<Member>> {
        &self.members
    }

    pub(in super::super) fn members_to_be(&self) -> impl Iterator<Item = &MemberId> {
        self.pending.iter()
    }

    pub(in super::super) fn state(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing { .. } => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    pub(super) fn joins(&self, member: &MemberId) -> bool {
        matches!(self.waits.get(member), Some(Wait::Join(_)))
    }

    pub(super) fn member_with(&self, instance: &InstanceId) -> Option<&MemberId> {
        self.members.iter().find(|(_, it)| it.instance.as_ref() == Some(instance)).map(|(id, _)| id)
    }

    /// Who says that it is `member`, and `instance`, is.
    pub(in super::super) fn check_member(
        &self,
        id: &GroupId,
        member: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<(), Error> {
        let unknown = || Error::UnknownMember { group: id.clone(), member: member.clone() };
        if let Some(instance) = instance {
            let known = self.member_with(instance).ok_or_else(unknown)?;
            if known != member {
                return Err(Error::FencedInstance { group: id.clone(), instance: instance.clone() });
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(unknown()) }
    }

    pub(in super::super) fn check_generation(
        &self,
        id: &GroupId,
        member: &MemberId,
        instance: Option<&InstanceId>,
        found: Generation,
    ) -> Result<(), Error> {
        self.check_member(id, member, instance)?;
        let current = Generation::new(self.generation);
        if found == current {
            return Ok(());
        }
        Err(Error::IllegalGeneration { group: id.clone(), current, found })
    }

    /// Whether a member may commit (T40).
    pub(in super::super) fn check_commit(
        &self,
        id: &GroupId,
        member: Option<&(MemberId, Generation)>,
        instance: Option<&InstanceId>,
        is_transaction: bool,
    ) -> Result<(), Error> {
        match member {
            Some((member, generation)) => self.check_generation(id, member, instance, *generation)?,
            // A transaction without group metadata is not checked (KIP-447).
            None if is_transaction => {}
            None => return Err(Error::NonEmpty(id.clone())),
        }
        // It has joined, and has yet to learn what is its own now.
        if self.phase == Phase::Completing && !is_transaction {
            return Err(Error::RebalanceInProgress(id.clone()));
        }
        Ok(())
    }

    /// Whether one that joins shares a protocol with all `others`.
    pub(super) fn agrees(&self, asked: &JoinRequest, itself: Option<&MemberId>) -> bool {
        let others = || self.members.iter().filter(|(id, _)| Some(*id) != itself).map(|(_, member)| member);
        let is_shared = |protocol: &Protocol| others().all(|other| other.supports(&protocol.name));
        let is_first = others().next().is_none();
        let same_type = is_first || self.protocol_type == asked.protocol_type;
        same_type && !asked.protocol_type.is_empty() && asked.protocols.iter().any(is_shared)
    }

    /// About what its record takes without `except`, and without assignments if there are to be others.
    pub(super) fn bytes(&self, except: Option<&MemberId>, with_assignments: bool) -> usize {
        let kept = self.members.iter().filter(|(id, _)| Some(*id) != except);
        kept.map(|(_, it)| it.bytes() - if with_assignments { 0 } else { it.assignment.len() }).sum()
    }

    /// The one that most members like best, of those that all support; of equals, the first by name.
    pub(in super::super) fn elect_protocol(&self) -> String {
        let is_shared = |name: &str| self.members.values().all(|member| member.supports(name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some(best) = member.protocols.iter().find(|it| is_shared(&it.name)) {
                *votes.entry(&best.name).or_default() += 1;
            }
        }
        let most = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    /// For as long as the slowest member asks.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(|it| it.rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn join_answer(&self, member: &MemberId, skip_assignment: bool) -> JoinAnswer {
        let leader = self.leader.clone().unwrap_or_else(|| member.clone());
        let leads = leader == *member;
        let one = |(id, it): (&MemberId, &Arc<Member>)| JoinedMember {
            member: id.clone(),
            instance: it.instance.clone(),
            metadata: it.metadata(&self.protocol),
        };
        JoinAnswer {
            generation: Generation::new(self.generation),
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member: member.clone(),
            skip_assignment: skip_assignment && leads,
            members: if leads { self.members.iter().map(one).collect() } else { Vec::new() },
        }
    }

    pub(super) fn sync_answer(&self, member: &MemberId) -> SyncAnswer {
        SyncAnswer {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(member).map(|it| it.assignment.clone()).unwrap_or_default(),
        }
    }
}
