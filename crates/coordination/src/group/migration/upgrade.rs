//! A classic group becomes one of KIP-848.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_types::{GroupId, MemberEpoch, MemberId, TopicPartition};

use super::super::classic::{self, ClassicGroup, consumer_protocol};
use super::super::shard::GroupShard;
use super::super::state::{ClassicFacts, Group, Member};
use super::super::timers::Timer;
use super::super::{Error, Subscription, record};
use super::{CONSUMER, Named, Said, known, said};
use crate::{CoordinatorRecord, Now};

impl GroupShard {
    /// The group with the members of a classic one, for a member of KIP-848 to join; as it is if it has none. Only consumers whose
    /// metadata can be read are taken over, and not while they join: what each has must be known.
    pub(in super::super) fn taken_over(&self, id: &GroupId, group: &Group) -> Result<Group, Error> {
        let mut group = group.clone();
        let Some(classic) = self.classic.get(id).filter(|classic| classic.has_members()) else { return Ok(group) };
        let members = classic.consumers().ok_or_else(|| Error::OtherKind(id.clone()))?;
        let read = |(id, member): (&MemberId, &Arc<classic::Member>)| {
            Some((id.clone(), (Arc::clone(member), said(&member.protocols)?)))
        };
        let members: Option<BTreeMap<_, _>> = members.iter().map(read).collect();
        let members = members.ok_or_else(|| Error::OtherKind(id.clone()))?;
        // Also not what it has of a topic of which this coordinator has yet to hear.
        let is_unknown = |name: &String| self.topics.id_of(name).is_none();
        let assigned = members.values().filter_map(|(member, _)| consumer_protocol::assigned(&member.assignment));
        if !classic.is_stable() || assigned.flat_map(Named::into_keys).any(|name| is_unknown(&name)) {
            return Err(Error::RebalanceInProgress(id.clone()));
        }
        let owners = self.owners(&members);
        for (id, (member, said)) in members {
            let owned: BTreeSet<TopicPartition> =
                owners.iter().filter(|(_, of)| **of == id).map(|(tp, _)| *tp).collect();
            let member = member_of(&member, said, MemberEpoch::new(group.epoch), &owned);
            group.members.insert(id.clone(), Arc::new(member));
            group.target.insert(id, Arc::new(owned));
        }
        Ok(group)
    }

    /// Who has what: what it was assigned, and what nobody was, but it had when it joined and may be giving up only now.
    fn owners(&self, members: &BTreeMap<MemberId, (Arc<classic::Member>, Said)>) -> BTreeMap<TopicPartition, MemberId> {
        let assigned = members.iter().flat_map(|(id, (member, _))| {
            let named = consumer_protocol::assigned(&member.assignment).unwrap_or_default();
            known(&named, &self.topics).into_iter().map(move |tp| (tp, id))
        });
        let had = members
            .iter()
            .flat_map(|(id, (_, said))| known(&said.owned, &self.topics).into_iter().map(move |tp| (tp, id)));
        let mut owners = BTreeMap::new();
        assigned.chain(had).for_each(|(tp, id)| _ = owners.entry(tp).or_insert_with(|| id.clone()));
        owners
    }

    /// The group is of KIP-848 from now on, with these classic members. Ids that were given to classic members to be are void.
    pub(in super::super) fn leave_classic(
        &mut self,
        now: Now,
        id: &GroupId,
        group: &Group,
    ) -> Option<CoordinatorRecord> {
        if let Some(classic) = self.classic.remove(id) {
            classic.members_to_be().for_each(|member| self.timers.clear(id, member));
            classic.all_members().keys().for_each(|member| self.timers.clear(id, member));
            [Timer::Join, Timer::Sync].into_iter().for_each(|timer| self.timers.set(id, timer, None));
            for (member, known) in group.members.iter().filter(|(_, it)| it.classic.is_some()) {
                let at = now.elapsed + known.session_timeout(&self.config);
                self.timers.set(id, Timer::Session(member.clone()), Some(at));
            }
        }
        let was_classic = self.groups.get(id).is_some_and(|entry| entry.classic.is_some());
        was_classic.then(|| record::classic(id, None))
    }
}

fn member_of(member: &classic::Member, said: Said, epoch: MemberEpoch, owned: &BTreeSet<TopicPartition>) -> Member {
    Member {
        instance: member.instance.clone(),
        rack: said.rack,
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        subscription: Subscription { topics: said.topics, pattern: String::new() },
        assignor: String::new(),
        rebalance_timeout: member.rebalance_timeout,
        epoch,
        previous_epoch: epoch,
        assigned: owned.iter().map(|tp| (*tp, epoch)).collect(),
        revoking: BTreeMap::new(),
        classic: Some(Arc::new(ClassicFacts {
            session_timeout: member.session_timeout,
            protocols: member.protocols.clone(),
        })),
    }
}

impl ClassicGroup {
    fn consumers(&self) -> Option<&BTreeMap<MemberId, Arc<classic::Member>>> {
        (self.protocol_type() == CONSUMER).then(|| self.all_members())
    }
}
