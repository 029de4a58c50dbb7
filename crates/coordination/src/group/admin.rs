//! Groups are listed, described and deleted.

use std::sync::Arc;

use highwater_types::{GroupId, MemberId, TopicPartition};

use super::classic::ClassicGroup;
use super::shard::GroupShard;
use super::state::{Entry, Group, Member};
use super::{DescribedGroup, DescribedMember, Error, GroupCounts, GroupKind, ListedGroup, OpaqueParts, record};
use crate::CoordinatorRecord;

impl GroupShard {
    fn known(&self, id: &GroupId) -> Result<&Entry, Error> {
        self.groups.get(id).ok_or_else(|| Error::UnknownGroup(id.clone()))
    }

    pub(super) fn list(&self) -> Vec<ListedGroup> {
        let kept = self.groups.iter().filter(|(id, _)| !self.classic.contains_key(*id));
        let kept = kept.map(|(id, entry)| entry.listed(id));
        let mut all: Vec<_> = kept.chain(self.classic.iter().map(|(id, group)| group.listed(id))).collect();
        all.sort_by(|one, other| one.group.cmp(&other.group));
        all
    }

    pub(super) fn count(&self) -> GroupCounts {
        let mut counts = GroupCounts::default();
        let kept = self.groups.iter().filter(|(id, _)| !self.classic.contains_key(*id));
        kept.for_each(|(_, it)| counts.add(it.group.state(), it.group.members.len(), it.group.epoch));
        self.classic.values().for_each(|group| group.count(&mut counts));
        counts
    }

    pub(super) fn describe(&self, id: &GroupId) -> Result<DescribedGroup, Error> {
        if let Some(classic) = self.classic.get(id) {
            return Ok(classic.described(id, &self.topics));
        }
        let entry = self.known(id)?;
        if let Some(durable) = &entry.classic {
            return Ok(ClassicGroup::new(entry.group.epoch, Some(durable)).described(id, &self.topics));
        }
        let group = &entry.group;
        let member = |(id, member): (&MemberId, &Arc<Member>)| DescribedMember {
            member: id.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            epoch: member.epoch,
            subscription: member.subscription.clone(),
            assignment: member.assignment(),
            target: group.target_of(id),
            opaque: member.classic.as_ref().map(|classic| OpaqueParts {
                metadata: classic.protocols.first().map(|it| it.metadata.clone()).unwrap_or_default(),
                assignment: member.encoded_assignment(&self.topics),
            }),
        };
        Ok(DescribedGroup {
            listed: entry.listed(id),
            epoch: group.epoch,
            assignor: group.assignor().name().to_owned(),
            members: group.members.iter().map(member).collect(),
        })
    }

    pub(super) fn delete_offsets(
        &self,
        id: &GroupId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<CoordinatorRecord>, Error> {
        let entry = self.known(id)?;
        let subscribed = entry.group.subscribed(&self.topics);
        if partitions.iter().any(|tp| subscribed.values().any(|wanted| wanted.contains(tp))) {
            return Err(Error::Subscribed(id.clone()));
        }
        if let Some(classic) = self.classic.get(id).filter(|it| it.has_members()) {
            let subscribed = classic.subscribed_topics().ok_or_else(|| Error::NonEmpty(id.clone()))?;
            let is_read = |tp: &TopicPartition| {
                self.topics.get(tp.topic).is_some_and(|topic| subscribed.contains(topic.name.as_str()))
            };
            if partitions.iter().any(is_read) {
                return Err(Error::Subscribed(id.clone()));
            }
        }
        let there = partitions.iter().filter(|tp| entry.offsets.contains_key(*tp));
        Ok(there.map(|tp| record::offset(id, tp, None)).collect())
    }

    pub(super) fn delete_group(&self, id: &GroupId) -> Result<Vec<CoordinatorRecord>, Error> {
        let is_live = self.classic.get(id).is_some_and(ClassicGroup::has_members);
        let entry = match self.groups.get(id) {
            None if is_live => return Err(Error::NonEmpty(id.clone())),
            _ => self.known(id)?,
        };
        if is_live || entry.has_members() || !entry.pending.is_empty() {
            return Err(Error::NonEmpty(id.clone()));
        }
        Ok(forget(id, entry, entry.offsets.keys().copied().collect()))
    }
}

impl Entry {
    fn listed(&self, id: &GroupId) -> ListedGroup {
        // One of which offsets are all there is never had members.
        let is_classic = self.classic.is_some() || self.group == Group::default();
        let protocol_type = match &self.classic {
            Some(classic) => classic.protocol_type.clone(),
            None if is_classic => String::new(),
            None => "consumer".to_owned(),
        };
        let kind = if is_classic { GroupKind::Classic } else { GroupKind::Consumer };
        ListedGroup { group: id.clone(), kind, state: self.group.state(), protocol_type }
    }
}

/// Forgets these offsets, and the group if nothing else is left of it.
pub(super) fn forget(id: &GroupId, entry: &Entry, offsets: Vec<TopicPartition>) -> Vec<CoordinatorRecord> {
    let mut records: Vec<_> = offsets.iter().map(|tp| record::offset(id, tp, None)).collect();
    if offsets.len() == entry.offsets.len() && !entry.has_members() && entry.pending.is_empty() {
        records.extend(record::changes(id, &entry.group, &Group::default()));
        records.extend(entry.classic.iter().map(|_| record::classic(id, None)));
    }
    records
}
