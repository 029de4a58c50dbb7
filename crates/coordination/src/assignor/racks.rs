//! Where members and replicas are.

use std::collections::BTreeMap;

use highwater_types::{MemberId, TopicPartition};

use crate::Topics;

/// The racks of members, and of the replicas of what they read.
#[derive(Debug, Clone, Default)]
pub struct Racks {
    /// Of those that have said it.
    members: BTreeMap<MemberId, String>,
    topics: Topics,
}

impl Racks {
    pub fn new(members: impl IntoIterator<Item = (MemberId, String)>, topics: &Topics) -> Self {
        Self { members: members.into_iter().collect(), topics: topics.clone() }
    }

    /// Nobody is near to anything.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn of_member(&self, member: &MemberId) -> Option<&str> {
        self.members.get(member).map(String::as_str)
    }

    pub(super) fn of_replicas(&self, tp: TopicPartition) -> impl Iterator<Item = &str> {
        let of = self.topics.get(tp.topic).and_then(|topic| topic.racks.get(tp.partition.get() as usize));
        of.into_iter().flatten().map(|rack| &**rack)
    }

    /// Whether a replica is in the rack of the member.
    pub(super) fn is_near(&self, member: &MemberId, tp: TopicPartition) -> bool {
        self.of_member(member).is_some_and(|rack| self.of_replicas(tp).any(|of| of == rack))
    }
}
