//! A group of which only classic members are left becomes a classic one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use highwater_types::{GroupId, MemberEpoch, MemberId};

use super::super::classic::{self, ClassicGroup, Durable};
use super::super::shard::GroupShard;
use super::super::state::Group;
use super::super::{JoinRequest, record};
use super::CONSUMER;
use crate::{CoordinatorRecord, Now};

impl GroupShard {
    /// The last member of KIP-848, if it is a static one that is away, and one that joins takes its place.
    pub(in super::super) fn last_replaced_by(&self, asked: &JoinRequest) -> Option<MemberId> {
        let group = self.group(&asked.group);
        let instance = asked.instance.as_ref().filter(|_| asked.member.is_none())?;
        let mut others = group.members.iter().filter(|(_, it)| it.classic.is_none());
        let (last, known) = others.next().filter(|_| others.next().is_none())?;
        let is_replaced = known.instance.as_ref() == Some(instance) && known.epoch == MemberEpoch::LEAVE_STATIC;
        (is_replaced && self.check_join(&group, asked).is_ok()).then(|| last.clone())
    }

    /// Removes the last member of KIP-848, so that there is a classic group, perhaps without members.
    pub(in super::super) fn remove_last(&mut self, now: Now, id: &GroupId, last: &MemberId) -> Vec<CoordinatorRecord> {
        let before = self.group(id);
        let records = self.remove(now, id, &before, [last]);
        // Its record is yet to be replayed.
        self.classic.entry(id.clone()).or_insert_with(|| ClassicGroup::new(before.epoch + 1, None));
        records
    }

    /// Members have gone, and there is no new target yet. In the epoch in which they are, the classic ones are told to join again,
    /// also by a coordinator that takes over: what they have stays theirs until they do. Returns what is to be written besides the
    /// change of the group; nothing if others are left.
    pub(in super::super) fn downgrade(
        &mut self,
        now: Now,
        id: &GroupId,
        group: &mut Group,
    ) -> Option<CoordinatorRecord> {
        if !group.is_all_classic() {
            return None;
        }
        group.target.clear();
        let members = std::mem::take(&mut group.members);
        members.keys().for_each(|member| self.timers.clear(id, member));
        let members = members.into_iter().filter_map(|(member, known)| {
            let facts = known.classic.as_ref()?;
            let classic = classic::Member {
                instance: known.instance.clone(),
                client_id: known.client_id.clone(),
                client_host: known.client_host.clone(),
                session_timeout: facts.session_timeout,
                rebalance_timeout: known.rebalance_timeout,
                protocols: facts.protocols.clone(),
                // It is about to be assigned anew.
                assignment: Bytes::new(),
            };
            Some((member, Arc::new(classic)))
        });
        let mut durable = Durable {
            protocol_type: CONSUMER.to_owned(),
            protocol: String::new(),
            leader: None,
            is_assigned: true,
            is_over: true,
            members: members.collect::<BTreeMap<MemberId, _>>(),
        };
        durable.protocol = ClassicGroup::new(group.epoch, Some(&durable)).elect_protocol();
        self.classic.insert(id.clone(), ClassicGroup::new(group.epoch, Some(&durable)));
        let ((), out) = self.with_classic(now, id, |turn| turn.loaded());
        debug_assert!(out.records.is_empty() && out.replies.is_empty(), "nobody has joined, nobody waits");
        Some(record::classic(id, Some(&durable)))
    }
}
