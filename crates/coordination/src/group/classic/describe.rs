//! What there is to see of a classic group.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_types::{GroupId, MemberEpoch, MemberId, PartitionId, TopicPartition};

use super::super::{DescribedGroup, DescribedMember, GroupCounts, GroupKind, ListedGroup, OpaqueParts, Subscription};
use super::ClassicGroup;
use super::consumer_protocol::{self, CONSUMER};
use super::state::Member;
use crate::Topics;

impl ClassicGroup {
    pub(in super::super) fn listed(&self, id: &GroupId) -> ListedGroup {
        ListedGroup {
            group: id.clone(),
            kind: GroupKind::Classic,
            state: self.state(),
            protocol_type: self.protocol_type.clone(),
        }
    }

    pub(in super::super) fn count(&self, counts: &mut GroupCounts) {
        counts.add(self.state(), self.members.len(), self.generation);
    }

    pub(in super::super) fn described(&self, id: &GroupId, topics: &Topics) -> DescribedGroup {
        let member = |(id, it): (&MemberId, &Arc<Member>)| {
            let assignment = self.partitions_of(it, topics);
            DescribedMember {
                member: id.clone(),
                instance: it.instance.clone(),
                rack: None,
                client_id: it.client_id.clone(),
                client_host: it.client_host.clone(),
                epoch: MemberEpoch::new(self.generation),
                subscription: Subscription { topics: self.topics_of(it).unwrap_or_default(), pattern: String::new() },
                target: assignment.clone(),
                assignment,
                opaque: Some(OpaqueParts { metadata: it.metadata(&self.protocol), assignment: it.assignment.clone() }),
            }
        };
        DescribedGroup {
            listed: self.listed(id),
            epoch: self.generation,
            assignor: self.protocol.clone(),
            members: self.members.iter().map(member).collect(),
        }
    }

    /// The topics that members are subscribed to; `None`: members that are no consumers don't tell.
    pub(in super::super) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        let each = self.members.values().map(|member| self.topics_of(member)).collect::<Option<Vec<_>>>()?;
        Some(each.into_iter().flatten().collect())
    }

    fn topics_of(&self, member: &Member) -> Option<BTreeSet<String>> {
        if self.protocol_type != CONSUMER {
            return None;
        }
        let each = member.protocols.iter().map(|it| consumer_protocol::topics(&it.metadata));
        Some(each.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// As far as it can be told.
    fn partitions_of(&self, member: &Member, topics: &Topics) -> BTreeSet<TopicPartition> {
        let assigned =
            (self.protocol_type == CONSUMER).then(|| consumer_protocol::assigned(&member.assignment)).flatten();
        let by_topic =
            assigned.unwrap_or_default().into_iter().filter_map(|(name, them)| Some((topics.id_of(&name)?, them)));
        by_topic
            .flat_map(|(id, them)| them.into_iter().map(move |it| TopicPartition::new(id, PartitionId::new(it))))
            .collect()
    }
}
