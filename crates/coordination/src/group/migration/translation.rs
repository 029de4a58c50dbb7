//! Classic members in a group of KIP-848: what they ask is answered from the target.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_types::{Generation, GroupId, InstanceId, MemberEpoch, MemberId, TopicPartition};

use super::super::classic::{LeavingMember, LeftMember};
use super::super::shard::GroupShard;
use super::super::state::{ClassicFacts, Group, Member};
use super::super::timers::Timer;
use super::super::{Error, JoinAnswer, JoinRequest, Request, Response, Subscription, SyncAnswer, SyncRequest, record};
use super::{CONSUMER, Said, known, said};
use crate::{CoordinatorRecord, Now};

type Translated = Result<(Response, Vec<CoordinatorRecord>), Error>;

/// Whose place a member that joins takes.
enum Place {
    Own(MemberId),
    /// Of a static member that was another before.
    Of(MemberId),
    New(MemberId),
}

impl GroupShard {
    /// Whether a request of the classic protocol is about a group of KIP-848.
    pub(in super::super) fn is_translated(&self, request: &Request) -> bool {
        let group = match request {
            Request::Join(JoinRequest { group, .. })
            | Request::Sync(SyncRequest { group, .. })
            | Request::ClassicHeartbeat { group, .. }
            | Request::Leave { group, .. } => group,
            _ => return false,
        };
        self.groups.get(group).is_some_and(|entry| !entry.group.members.is_empty())
    }

    pub(in super::super) fn translate(&mut self, now: Now, request: Request) -> Translated {
        match request {
            Request::Join(asked) => self.translated_join(now, asked),
            Request::Sync(asked) => self.translated_sync(now, &asked),
            Request::ClassicHeartbeat { group, member, generation, instance } => {
                self.translated_heartbeat(now, &group, &member, generation, instance.as_ref())
            }
            Request::Leave { group, members } => Ok(self.translated_leave(now, &group, members)),
            _ => Ok((Response::Alive, Vec::new())),
        }
    }

    fn translated_join(&mut self, now: Now, mut asked: JoinRequest) -> Translated {
        let id = asked.group.clone();
        let before = self.group(&id);
        let said = self.check_join(&before, &asked)?;
        if asked.rebalance_timeout.is_zero() {
            asked.rebalance_timeout = asked.session_timeout;
        }
        let Some(place) = self.place(&before, &asked)? else {
            let at = now.elapsed + asked.session_timeout;
            self.timers.set(&id, Timer::Pending(asked.fresh.clone()), Some(at));
            return Ok((Response::MemberIdRequired(asked.fresh), Vec::new()));
        };
        let owned = known(&said.owned, &self.topics);
        let mut after = before.clone();
        let (member, old) = match place {
            Place::Own(member) => (member.clone(), before.members.get(&member).cloned()),
            Place::New(member) => (member, None),
            Place::Of(old) => {
                let known = after.members.remove(&old);
                if let Some(target) = after.target.remove(&old) {
                    after.target.insert(asked.fresh.clone(), target);
                }
                self.forget(&id, &old);
                (asked.fresh.clone(), known)
            }
        };
        self.timers.set(&id, Timer::Pending(member.clone()), None);
        let next = member_of(&asked, said, before.members.get(&member), old.as_deref());
        let asks = |it: &Member| (it.subscription.clone(), it.assignor.clone());
        let has_changed = old.as_ref().is_none_or(|old| asks(old) != asks(&next));
        let has_moved = old.as_ref().is_some_and(|old| old.rack != next.rack);
        after.members.insert(member.clone(), Arc::new(next));
        if has_changed || (has_moved && after.has_better_target(None, &self.topics)) {
            after.assign(&self.topics);
        }
        after.take_classic_step(&member, &owned);
        let joined = after.members.get(&member).cloned();
        let unknown = || Error::UnknownMember { group: id.clone(), member: member.clone() };
        let joined = joined.ok_or_else(unknown)?;
        self.touch(now, &id, &member, &joined);
        if joined.revoking.is_empty() {
            // It has done what it was told to; its sync is yet to come.
            self.timers.set(&id, Timer::Rebalance(member.clone()), None);
        }
        self.expect_more(now, &id, &member, &joined);
        let answer = JoinAnswer {
            generation: Generation::new(joined.epoch.get()),
            protocol_type: CONSUMER.to_owned(),
            protocol: joined.protocol(),
            // Somebody else: the coordinator assigns.
            leader: after.no_classic_member().unwrap_or_else(|| member.clone()),
            member,
            skip_assignment: false,
            members: Vec::new(),
        };
        Ok((Response::Joined(answer), record::changes(&id, &before, &after)))
    }

    /// What there is to say against a join that does not depend on who it is.
    pub(super) fn check_join(&self, group: &Group, asked: &JoinRequest) -> Result<Said, Error> {
        let (min, max) = (self.config.classic_session_timeout_min, self.config.classic_session_timeout_max);
        if !(min..=max).contains(&asked.session_timeout) {
            return Err(Error::InvalidSessionTimeout { min, max, found: asked.session_timeout });
        }
        let is_itself = |id: &MemberId, it: &Member| {
            asked.member.as_ref() == Some(id) || (asked.instance.is_some() && it.instance == asked.instance)
        };
        let others = || {
            let others = group.members.iter().filter(|(id, it)| !is_itself(id, it));
            others.filter_map(|(_, it)| it.classic.as_ref())
        };
        let is_shared = |name: &str| others().all(|other| other.protocols.iter().any(|protocol| protocol.name == name));
        let read = said(&asked.protocols).filter(|_| asked.protocol_type == CONSUMER);
        // They must be able to go on without those of KIP-848.
        let read = read.filter(|_| asked.protocols.iter().any(|it| is_shared(&it.name)));
        let read = read.ok_or_else(|| Error::InconsistentProtocol(asked.group.clone()))?;
        // As one record.
        let bytes = |protocols: &[super::Protocol]| -> usize {
            protocols.iter().map(|it| it.name.len() + it.metadata.len()).sum()
        };
        let found = others().map(|other| bytes(&other.protocols)).sum::<usize>() + bytes(&asked.protocols);
        let max = self.config.classic_bytes_max;
        if found > max {
            return Err(Error::TooLarge { group: asked.group.clone(), found, max });
        }
        Ok(read)
    }

    /// `None`: it is to join again with an id (KIP-394).
    fn place(&self, group: &Group, asked: &JoinRequest) -> Result<Option<Place>, Error> {
        let id = &asked.group;
        let is_full = group.members.len() >= self.config.members_max;
        let full = || Error::Full { group: id.clone(), max: self.config.members_max };
        if let Some(member) = &asked.member {
            let is_promised = self.timers.is_set(id, Timer::Pending(member.clone()));
            if asked.instance.is_none() && is_promised && !group.members.contains_key(member) {
                return if is_full { Err(full()) } else { Ok(Some(Place::New(member.clone()))) };
            }
            group.classic_member(id, member, asked.instance.as_ref())?;
            return Ok(Some(Place::Own(member.clone())));
        }
        let with_instance = asked
            .instance
            .as_ref()
            .and_then(|instance| group.members.iter().find(|(_, it)| it.instance.as_ref() == Some(instance)));
        if let Some((old, known)) = with_instance {
            if known.classic.is_none() && known.epoch != MemberEpoch::LEAVE_STATIC {
                let instance = known.instance.clone().ok_or_else(full)?;
                let session = self.config.session_timeout;
                return Err(Error::UnreleasedInstance { group: id.clone(), instance, session });
            }
            return Ok(Some(Place::Of(old.clone())));
        }
        if is_full {
            return Err(full());
        }
        if asked.require_known_member && asked.instance.is_none() {
            if self.timers.pending(id) >= self.config.members_max {
                return Err(full());
            }
            return Ok(None);
        }
        Ok(Some(Place::New(asked.fresh.clone())))
    }

    fn translated_sync(&mut self, now: Now, asked: &SyncRequest) -> Translated {
        let group = self.group(&asked.group);
        let known = group.in_generation(&asked.group, &asked.member, asked.generation, asked.instance.as_ref())?;
        let supports = |name: &String| known.classic.iter().any(|it| it.protocols.iter().any(|it| it.name == *name));
        let is_other_type = asked.protocol_type.as_ref().is_some_and(|it| it != CONSUMER);
        if is_other_type || asked.protocol.as_ref().is_some_and(|name| !supports(name)) {
            return Err(Error::InconsistentProtocol(asked.group.clone()));
        }
        self.touch(now, &asked.group, &asked.member, known);
        // One that is to give up something first hears what that is.
        if known.epoch.get() != group.epoch && known.revoking.is_empty() {
            return Err(Error::RebalanceInProgress(asked.group.clone()));
        }
        if known.revoking.is_empty() {
            self.timers.set(&asked.group, Timer::Rebalance(asked.member.clone()), None);
        }
        let answer = SyncAnswer {
            protocol_type: CONSUMER.to_owned(),
            protocol: asked.protocol.clone().unwrap_or_else(|| known.protocol()),
            assignment: known.encoded_assignment(&self.topics),
        };
        Ok((Response::Synced(answer), Vec::new()))
    }

    fn translated_heartbeat(
        &mut self,
        now: Now,
        id: &GroupId,
        member: &MemberId,
        generation: Generation,
        instance: Option<&InstanceId>,
    ) -> Translated {
        let group = self.group(id);
        let known = group.in_generation(id, member, generation, instance)?;
        self.touch(now, id, member, known);
        let is_behind = known.epoch.get() != group.epoch || !known.revoking.is_empty();
        let is_to_join = is_behind || !group.free_for(member, known).is_empty();
        if is_to_join {
            self.expect_more(now, id, member, known);
            return Err(Error::RebalanceInProgress(id.clone()));
        }
        Ok((Response::Alive, Vec::new()))
    }

    fn translated_leave(
        &mut self,
        now: Now,
        id: &GroupId,
        members: Vec<LeavingMember>,
    ) -> (Response, Vec<CoordinatorRecord>) {
        let before = self.group(id);
        let mut gone: BTreeSet<MemberId> = BTreeSet::new();
        let mut left = Vec::with_capacity(members.len());
        for asked in members {
            let found = match (&asked.member, &asked.instance) {
                (Some(member), None) if self.timers.is_set(id, Timer::Pending(member.clone())) => {
                    self.timers.set(id, Timer::Pending(member.clone()), None);
                    Ok(None)
                }
                (Some(member), instance) => {
                    before.classic_member(id, member, instance.as_ref()).map(|_| Some(member.clone()))
                }
                (None, Some(instance)) => {
                    let is_it = |it: &Member| it.classic.is_some() && it.instance.as_ref() == Some(instance);
                    let found = before.members.iter().find(|(_, it)| is_it(it)).map(|(id, _)| Some(id.clone()));
                    found.ok_or_else(|| Error::UnknownInstance { group: id.clone(), instance: instance.clone() })
                }
                (None, None) => Err(Error::NoMember),
            };
            let is_twice = matches!(&found, Ok(Some(member)) if gone.contains(member));
            let result = match found {
                Ok(Some(member)) if is_twice => Err(Error::UnknownMember { group: id.clone(), member }),
                Ok(member) => {
                    gone.extend(member);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            left.push(LeftMember { asked, result });
        }
        let records = if gone.is_empty() { Vec::new() } else { self.remove(now, id, &before, &gone) };
        (Response::Left(left), records)
    }

    /// A classic member was heard of.
    pub(in super::super) fn touch(&mut self, now: Now, id: &GroupId, member: &MemberId, known: &Member) {
        let at = now.elapsed + known.session_timeout(&self.config);
        self.timers.set(id, Timer::Session(member.clone()), Some(at));
    }

    /// One that is told to join again has its rebalance timeout for it, and for giving up what it should; so has one that has joined for
    /// its sync.
    fn expect_more(&mut self, now: Now, id: &GroupId, member: &MemberId, told: &Member) {
        let timer = Timer::Rebalance(member.clone());
        if !self.timers.is_set(id, timer.clone()) {
            self.timers.set(id, timer, Some(now.elapsed + told.rebalance_timeout));
        }
    }
}

/// `own`: as it was before, if it was. `old`: that, or whose place it takes.
fn member_of(asked: &JoinRequest, said: Said, own: Option<&Arc<Member>>, old: Option<&Member>) -> Member {
    Member {
        instance: asked.instance.clone(),
        rack: said.rack,
        client_id: asked.client_id.clone(),
        client_host: asked.client_host.clone(),
        subscription: Subscription { topics: said.topics, pattern: String::new() },
        assignor: String::new(),
        rebalance_timeout: asked.rebalance_timeout,
        epoch: own.map_or(MemberEpoch::FIRST, |own| own.epoch),
        previous_epoch: own.map_or(MemberEpoch::FIRST, |own| own.previous_epoch),
        assigned: old.map(|old| old.assigned.clone()).unwrap_or_default(),
        revoking: own.map(|own| own.revoking.clone()).unwrap_or_default(),
        classic: Some(Arc::new(ClassicFacts {
            session_timeout: asked.session_timeout,
            protocols: asked.protocols.clone(),
        })),
    }
}

impl Member {
    /// The one it likes best: which one it is makes no difference.
    fn protocol(&self) -> String {
        self.classic.iter().flat_map(|it| it.protocols.first()).map(|it| it.name.clone()).collect()
    }
}

impl Group {
    /// A member that joins has what it says, and no more: one that gives up everything before has its own again with its sync.
    fn take_classic_step(&mut self, id: &MemberId, owned: &BTreeSet<TopicPartition>) {
        let Some(known) = self.members.get(id) else { return };
        let mut joined = Member::clone(known);
        let target = self.target_of(id);
        joined.assigned.retain(|tp, _| owned.contains(tp) || target.contains(tp));
        let next = self.step(id, &joined, Some(owned));
        self.members.insert(id.clone(), Arc::new(next));
    }

    /// What is to be its own, and nobody's now.
    fn free_for(&self, id: &MemberId, member: &Member) -> BTreeSet<TopicPartition> {
        let is_others = |tp: &TopicPartition| self.members.iter().any(|(other, it)| other != id && it.has(tp));
        let missing = self.target_of(id).into_iter().filter(|tp| !member.assigned.contains_key(tp));
        missing.filter(|tp| !is_others(tp)).collect()
    }

    fn classic_member(
        &self,
        id: &GroupId,
        member: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<&Arc<Member>, Error> {
        let known = self.member_of(id, member, instance)?;
        let unknown = || Error::UnknownMember { group: id.clone(), member: member.clone() };
        Some(known).filter(|it| it.classic.is_some()).ok_or_else(unknown)
    }

    fn in_generation(
        &self,
        id: &GroupId,
        member: &MemberId,
        found: Generation,
        instance: Option<&InstanceId>,
    ) -> Result<&Arc<Member>, Error> {
        let known = self.classic_member(id, member, instance)?;
        let current = Generation::new(known.epoch.get());
        if found == current { Ok(known) } else { Err(Error::IllegalGeneration { group: id.clone(), current, found }) }
    }

    fn no_classic_member(&self) -> Option<MemberId> {
        self.members.iter().find(|(_, it)| it.classic.is_none()).map(|(id, _)| id.clone())
    }
}
