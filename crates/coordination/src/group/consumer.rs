//! The members of KIP-848: they join, live and leave by heartbeats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_types::{GroupId, MemberEpoch, MemberId};

use super::shard::GroupShard;
use super::state::{Group, Member, compile};
use super::timers::Timer;
use super::{Error, Heartbeat, HeartbeatAnswer, Subscription, SubscriptionChange, record};
use crate::assignor::Assignor;
use crate::{CoordinatorRecord, Now, Topics};

/// For a member that states none.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(300);

impl GroupShard {
    /// One that was overtaken by a later one of the same member says what is not so any more: that the member does not have what it
    /// has taken since, for one. It is refused whole (P5).
    pub(super) fn heartbeat(
        &mut self,
        now: Now,
        asked: Heartbeat,
    ) -> Result<(HeartbeatAnswer, Vec<CoordinatorRecord>), Error> {
        let (group, member, found) = (asked.group.clone(), asked.member.clone(), asked.number);
        let seen = self.heard.get(&group).and_then(|heard| heard.get(&member)).copied().unwrap_or_default();
        if found != 0 && found <= seen {
            return Err(Error::Overtaken { group, member, seen, found });
        }
        let taken = self.heartbeat_in_order(now, asked)?;
        let stays = self.timers.is_set(&group, Timer::Session(member.clone()));
        if found != 0 && stays {
            self.heard.entry(group).or_default().insert(member, found);
        }
        Ok(taken)
    }

    fn heartbeat_in_order(
        &mut self,
        now: Now,
        asked: Heartbeat,
    ) -> Result<(HeartbeatAnswer, Vec<CoordinatorRecord>), Error> {
        let (id, member) = (asked.group.clone(), asked.member.clone());
        let before = self.group(&id);
        let joins = asked.epoch == MemberEpoch::FIRST;
        let mut after = if joins { self.taken_over(&id, &before)? } else { before.clone() };
        if after.members.get(&member).is_some_and(|known| known.classic.is_some()) {
            return Err(Error::OtherKind(id));
        }
        let changed = match asked.epoch {
            MemberEpoch::FIRST => self.join(&mut after, &asked)?,
            MemberEpoch::LEAVE | MemberEpoch::LEAVE_STATIC => return self.leave(now, before, &asked),
            epoch if epoch.get() < 0 => return Err(Error::BadEpoch(epoch)),
            _ => check_epoch(&after, &asked)? | update(&mut after, &asked, &self.topics)?,
        };
        if let Some(known) = after.members.get(&member) {
            self.check_bytes(&known.subscription, &asked)?;
        }
        if changed {
            after.assign(&self.topics);
        }
        after.empty_since = None;
        let Some(known) = after.members.get(&member).cloned() else {
            return Err(Error::UnknownMember { group: id, member });
        };
        let next = after.step(&member, &known, asked.owned.as_ref());
        let told = before.members.get(&member).map(|it| (it.epoch, it.assignment()));
        // Also what an answer said that was lost.
        let repeats = asked.epoch != next.epoch;
        let news = joins || repeats || asked.owned.is_some() || told != Some((next.epoch, next.assignment()));
        let answer = HeartbeatAnswer {
            member: member.clone(),
            epoch: next.epoch,
            heartbeat_interval: self.config.heartbeat_interval,
            session_timeout: self.config.session_timeout,
            assignment: news.then(|| next.assignment()),
        };
        self.timers.set(&id, Timer::Session(member.clone()), Some(now.elapsed + self.config.session_timeout));
        let is_revoking = !next.revoking.is_empty();
        if is_revoking != self.timers.is_set(&id, Timer::Rebalance(member.clone())) {
            let at = is_revoking.then(|| now.elapsed + next.rebalance_timeout);
            self.timers.set(&id, Timer::Rebalance(member.clone()), at);
        }
        if next != *known {
            after.members.insert(member, Arc::new(next));
        }
        let mut records = record::changes(&id, &before, &after);
        if joins {
            records.extend(self.leave_classic(now, &id, &after));
        }
        Ok((answer, records))
    }

    /// A member is one record: one that could not be written would be the end of this coordinator.
    fn check_bytes(&self, subscription: &Subscription, asked: &Heartbeat) -> Result<(), Error> {
        let stated = [&asked.client_id, &asked.client_host].map(String::len);
        let found = subscription.bytes() + stated.iter().sum::<usize>() + asked.rack.as_ref().map_or(0, String::len);
        let max = self.config.classic_bytes_max;
        if found <= max { Ok(()) } else { Err(Error::TooLarge { group: asked.group.clone(), found, max }) }
    }

    /// Returns whether there is to be a new target.
    fn join(&mut self, group: &mut Group, asked: &Heartbeat) -> Result<bool, Error> {
        if group.members.contains_key(&asked.member) {
            // An answer was lost, or it begins anew: it has nothing.
            if let Some(member) = group.members.get_mut(&asked.member) {
                let member = Arc::make_mut(member);
                (member.epoch, member.previous_epoch) = (MemberEpoch::FIRST, MemberEpoch::FIRST);
            }
            return update(group, asked, &self.topics);
        }
        if asked.subscription == SubscriptionChange::default() {
            return Err(Error::NoSubscription);
        }
        let mut subscription = Subscription::default();
        asked.subscription.apply(&mut subscription);
        check_subscription(&subscription, asked.assignor.as_deref())?;
        let mut new = Member {
            instance: asked.instance.clone(),
            rack: asked.rack.clone(),
            client_id: asked.client_id.clone(),
            client_host: asked.client_host.clone(),
            subscription,
            assignor: asked.assignor.clone().unwrap_or_default(),
            rebalance_timeout: asked.rebalance_timeout.unwrap_or(REBALANCE_TIMEOUT),
            epoch: MemberEpoch::FIRST,
            previous_epoch: MemberEpoch::FIRST,
            assigned: BTreeMap::new(),
            revoking: BTreeMap::new(),
            classic: None,
        };
        let same_instance = |(_, member): &(&MemberId, &Arc<Member>)| member.instance == asked.instance;
        let other = asked.instance.as_ref().and_then(|_| group.members.iter().find(same_instance));
        let Some((old_id, old)) = other.map(|(id, member)| (id.clone(), Arc::clone(member))) else {
            if group.members.len() >= self.config.members_max {
                return Err(Error::Full { group: asked.group.clone(), max: self.config.members_max });
            }
            group.members.insert(asked.member.clone(), Arc::new(new));
            return Ok(true);
        };
        // In the classic protocol, who comes last has the place.
        if old.epoch != MemberEpoch::LEAVE_STATIC && old.classic.is_none() {
            let (group, session) = (asked.group.clone(), self.config.session_timeout);
            let instance = old.instance.clone().or_else(|| asked.instance.clone());
            return Err(match instance {
                Some(instance) => Error::UnreleasedInstance { group, instance, session },
                None => Error::UnknownMember { group, member: asked.member.clone() },
            });
        }
        // A static member is back, under a new id: what it had is its own again, and nobody else's moves.
        let same = (&old.subscription, &old.assignor) == (&new.subscription, &new.assignor);
        let has_moved = old.rack != new.rack;
        new.assigned = old.assigned.clone();
        group.members.remove(&old_id);
        group.members.insert(asked.member.clone(), Arc::new(new));
        if let Some(target) = group.target.remove(&old_id) {
            group.target.insert(asked.member.clone(), target);
        }
        self.forget(&asked.group, &old_id);
        Ok(!same || (has_moved && group.has_better_target(None, &self.topics)))
    }

    fn leave(
        &mut self,
        now: Now,
        before: Group,
        asked: &Heartbeat,
    ) -> Result<(HeartbeatAnswer, Vec<CoordinatorRecord>), Error> {
        let (id, member) = (&asked.group, &asked.member);
        let known = before.member_of(id, member, asked.instance.as_ref())?;
        let records = if asked.epoch == MemberEpoch::LEAVE_STATIC && known.instance.is_some() {
            let mut away = Member::clone(known);
            away.epoch = MemberEpoch::LEAVE_STATIC;
            // What it was giving up, it has given up.
            away.revoking.clear();
            let mut after = before.clone();
            after.members.insert(member.clone(), Arc::new(away));
            self.timers.set(id, Timer::Rebalance(member.clone()), None);
            self.timers.set(id, Timer::Session(member.clone()), Some(now.elapsed + self.config.session_timeout));
            record::changes(id, &before, &after)
        } else {
            self.remove(now, id, &before, [member])
        };
        let answer = HeartbeatAnswer {
            member: member.clone(),
            epoch: asked.epoch,
            heartbeat_interval: self.config.heartbeat_interval,
            session_timeout: self.config.session_timeout,
            assignment: None,
        };
        Ok((answer, records))
    }

    /// What does not outlive the coordinator, of a member that is gone.
    pub(super) fn forget(&mut self, id: &GroupId, member: &MemberId) {
        self.timers.clear(id, member);
        if let Some(heard) = self.heard.get_mut(id) {
            heard.remove(member);
            if heard.is_empty() {
                self.heard.remove(id);
            }
        }
    }

    /// Members are gone; the others get what they had. Classic ones that are left alone go on by themselves.
    pub(super) fn remove<'a>(
        &mut self,
        now: Now,
        id: &GroupId,
        before: &Group,
        gone: impl IntoIterator<Item = &'a MemberId>,
    ) -> Vec<CoordinatorRecord> {
        let mut after = before.clone();
        for member in gone {
            after.members.remove(member);
            after.target.remove(member);
            self.forget(id, member);
        }
        let classic = self.downgrade(now, id, &mut after);
        if classic.is_none() {
            after.assign(&self.topics);
            if after.members.is_empty() {
                after.empty_since = Some(now.wall);
            }
        }
        record::changes(id, before, &after).into_iter().chain(classic).collect()
    }
}

fn check_subscription(subscription: &Subscription, assignor: Option<&str>) -> Result<(), Error> {
    if let Err(error) = compile(&subscription.pattern) {
        return Err(Error::Pattern { pattern: subscription.pattern.clone(), problem: error.to_string() });
    }
    match assignor {
        Some(name) if Assignor::from_name(name).is_none() => Err(Error::UnsupportedAssignor(name.to_owned())),
        _ => Ok(()),
    }
}

/// Whether the member is in the epoch that it says. Its last answer may have been lost: then it says the one before, and that
/// it has no more than it was told.
fn check_epoch(group: &Group, asked: &Heartbeat) -> Result<bool, Error> {
    let known = group.member_of(&asked.group, &asked.member, asked.instance.as_ref())?;
    let owns_no_more = asked.owned.as_ref().is_none_or(|owned| owned.iter().all(|tp| known.has(tp)));
    let repeats = asked.epoch == known.previous_epoch && owns_no_more;
    if asked.epoch == known.epoch || repeats {
        return Ok(false);
    }
    let (current, found) = (known.epoch, asked.epoch);
    Err(Error::FencedEpoch { group: asked.group.clone(), member: asked.member.clone(), current, found })
}

/// Takes over what the member says of itself. Returns whether there is to be a new target.
fn update(group: &mut Group, asked: &Heartbeat, topics: &Topics) -> Result<bool, Error> {
    let Some(known) = group.members.get(&asked.member) else { return Ok(false) };
    let mut next = Member::clone(known);
    asked.subscription.apply(&mut next.subscription);
    if let Some(assignor) = &asked.assignor {
        next.assignor.clone_from(assignor);
    }
    check_subscription(&next.subscription, Some(&next.assignor))?;
    next.rebalance_timeout = asked.rebalance_timeout.unwrap_or(next.rebalance_timeout);
    if asked.rack.is_some() {
        next.rack.clone_from(&asked.rack);
    }
    let changed = (&next.subscription, &next.assignor) != (&known.subscription, &known.assignor);
    let has_moved = next.rack != known.rack;
    if next != **known {
        group.members.insert(asked.member.clone(), Arc::new(next));
    }
    Ok(changed || (has_moved && group.has_better_target(None, topics)))
}
