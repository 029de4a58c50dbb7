//! The groups of one partition of `__consumer_offsets`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_types::{GroupId, LeaderEpoch, MemberEpoch, MemberId, Offset, TopicPartition};

use super::record::{self, Change};
use super::state::{Entry, Group, Member, compile};
use super::{
    Action, DescribedGroup, DescribedMember, Error, GroupConfig, Heartbeat, HeartbeatAnswer, ListedGroup, Request,
    Response, offsets,
};
use crate::assignor::Assignor;
use crate::{CoordinatorRecord, CorruptRecord, Effects, EndMarker, Now, ProducerIdentity, Shard, Token, Topics, Write};

type GroupEffects = Effects<Response, Error, Action>;

/// How often offsets are looked at for their age.
const RETENTION_PERIOD: Duration = Duration::from_secs(600);
/// For a member that states none.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug, Clone)]
pub struct GroupShard {
    config: GroupConfig,
    groups: BTreeMap<GroupId, Entry>,
    topics: Topics,
    timers: Timers,
    next_retention: Option<Duration>,
}

/// When members are given up: what does not outlive the coordinator.
#[derive(Debug, Clone, Default)]
struct Timers {
    at: BTreeMap<(GroupId, MemberId, Why), Duration>,
    by_time: BTreeSet<(Duration, GroupId, MemberId, Why)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// It was not heard of.
    Session,
    /// It did not give up what it should.
    Rebalance,
}

impl Timers {
    fn set(&mut self, group: &GroupId, member: &MemberId, why: Why, at: Option<Duration>) {
        let key = (group.clone(), member.clone(), why);
        if let Some(before) = self.at.remove(&key) {
            self.by_time.remove(&(before, key.0.clone(), key.1.clone(), why));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key.0.clone(), key.1.clone(), why));
            self.at.insert(key, at);
        }
    }

    fn is_set(&self, group: &GroupId, member: &MemberId, why: Why) -> bool {
        self.at.contains_key(&(group.clone(), member.clone(), why))
    }

    fn clear(&mut self, group: &GroupId, member: &MemberId) {
        self.set(group, member, Why::Session, None);
        self.set(group, member, Why::Rebalance, None);
    }

    fn due(&self, now: Duration) -> BTreeSet<(GroupId, MemberId)> {
        self.by_time
            .iter()
            .take_while(|(at, ..)| *at <= now)
            .map(|(_, group, member, _)| (group.clone(), member.clone()))
            .collect()
    }
}

fn effects(write: Vec<CoordinatorRecord>) -> GroupEffects {
    let write = (!write.is_empty()).then_some(Write { transaction_of: None, records: write });
    Effects { write, ..Effects::default() }
}

impl GroupShard {
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            topics: Topics::default(),
            timers: Timers::default(),
            next_retention: None,
        }
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> &BTreeMap<GroupId, Entry> {
        &self.groups
    }

    fn group(&self, id: &GroupId) -> Group {
        self.groups.get(id).map(|entry| entry.group.clone()).unwrap_or_default()
    }

    fn known(&self, id: &GroupId) -> Result<&Entry, Error> {
        self.groups.get(id).ok_or_else(|| Error::UnknownGroup(id.clone()))
    }

    fn apply(&mut self, id: GroupId, change: Change, transaction_of: Option<ProducerIdentity>) {
        let entry = self.groups.entry(id.clone()).or_default();
        match (change, transaction_of) {
            (Change::Group(value), _) => {
                (entry.group.epoch, entry.group.empty_since) = value.unwrap_or_default();
            }
            (Change::Member(member, Some(value)), _) => _ = entry.group.members.insert(member, Arc::new(*value)),
            (Change::Member(member, None), _) => _ = entry.group.members.remove(&member),
            (Change::Target(member, Some(value)), _) => _ = entry.group.target.insert(member, Arc::new(value)),
            (Change::Target(member, None), _) => _ = entry.group.target.remove(&member),
            (Change::Offset(tp, Some(value)), Some(producer)) => {
                entry.pending.entry(producer.id).or_default().insert(tp, value);
            }
            // What comes later in the log counts, whatever becomes of a transaction that began before: compaction, too, leaves
            // the later one only (T39).
            (Change::Offset(tp, value), _) => {
                entry.pending.values_mut().for_each(|offsets| _ = offsets.remove(&tp));
                entry.pending.retain(|_, offsets| !offsets.is_empty());
                match value {
                    Some(value) => _ = entry.offsets.insert(tp, value),
                    None => _ = entry.offsets.remove(&tp),
                }
            }
        }
        if entry.is_nothing() {
            self.groups.remove(&id);
        }
    }

    fn heartbeat(&mut self, now: Now, asked: Heartbeat) -> Result<(HeartbeatAnswer, Vec<CoordinatorRecord>), Error> {
        let (id, member) = (asked.group.clone(), asked.member.clone());
        let before = self.group(&id);
        let mut after = before.clone();
        let joins = asked.epoch == MemberEpoch::FIRST;
        let changed = match asked.epoch {
            MemberEpoch::FIRST => self.join(&mut after, &asked)?,
            MemberEpoch::LEAVE | MemberEpoch::LEAVE_STATIC => return self.leave(now, before, &asked),
            epoch if epoch.get() < 0 => return Err(Error::BadEpoch(epoch)),
            _ => check_epoch(&after, &asked)? | update(&mut after, &asked)?,
        };
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
        self.timers.set(&id, &member, Why::Session, Some(now.elapsed + self.config.session_timeout));
        let is_revoking = !next.revoking.is_empty();
        if is_revoking != self.timers.is_set(&id, &member, Why::Rebalance) {
            self.timers.set(&id, &member, Why::Rebalance, is_revoking.then(|| now.elapsed + next.rebalance_timeout));
        }
        if next != *known {
            after.members.insert(member, Arc::new(next));
        }
        Ok((answer, record::changes(&id, &before, &after)))
    }

    /// Returns whether there is to be a new target.
    fn join(&mut self, group: &mut Group, asked: &Heartbeat) -> Result<bool, Error> {
        if group.members.contains_key(&asked.member) {
            // An answer was lost, or it begins anew: it has nothing.
            if let Some(member) = group.members.get_mut(&asked.member) {
                let member = Arc::make_mut(member);
                (member.epoch, member.previous_epoch) = (MemberEpoch::FIRST, MemberEpoch::FIRST);
            }
            return update(group, asked);
        }
        let subscription = asked.subscription.clone().ok_or(Error::NoSubscription)?;
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
        if old.epoch != MemberEpoch::LEAVE_STATIC {
            let (group, session) = (asked.group.clone(), self.config.session_timeout);
            let instance = old.instance.clone().or_else(|| asked.instance.clone());
            return Err(match instance {
                Some(instance) => Error::UnreleasedInstance { group, instance, session },
                None => Error::UnknownMember { group, member: asked.member.clone() },
            });
        }
        // A static member is back, under a new id: what it had is its own again, and nobody else's moves.
        let same = (&old.subscription, &old.assignor) == (&new.subscription, &new.assignor);
        new.assigned = old.assigned.clone();
        group.members.remove(&old_id);
        group.members.insert(asked.member.clone(), Arc::new(new));
        if let Some(target) = group.target.remove(&old_id) {
            group.target.insert(asked.member.clone(), target);
        }
        self.timers.clear(&asked.group, &old_id);
        Ok(!same)
    }

    fn leave(
        &mut self,
        now: Now,
        before: Group,
        asked: &Heartbeat,
    ) -> Result<(HeartbeatAnswer, Vec<CoordinatorRecord>), Error> {
        let (id, member) = (&asked.group, &asked.member);
        let unknown = || Error::UnknownMember { group: id.clone(), member: member.clone() };
        let known = before.members.get(member).ok_or_else(unknown)?;
        let mut after = before.clone();
        if asked.epoch == MemberEpoch::LEAVE_STATIC && known.instance.is_some() {
            let mut away = Member::clone(known);
            away.epoch = MemberEpoch::LEAVE_STATIC;
            // What it was giving up, it has given up.
            away.revoking.clear();
            after.members.insert(member.clone(), Arc::new(away));
            self.timers.set(id, member, Why::Rebalance, None);
            self.timers.set(id, member, Why::Session, Some(now.elapsed + self.config.session_timeout));
        } else {
            self.remove(now, id, &mut after, [member]);
        }
        let answer = HeartbeatAnswer {
            member: member.clone(),
            epoch: asked.epoch,
            heartbeat_interval: self.config.heartbeat_interval,
            session_timeout: self.config.session_timeout,
            assignment: None,
        };
        Ok((answer, record::changes(id, &before, &after)))
    }

    /// Members are gone; the others get what they had.
    fn remove<'a>(&mut self, now: Now, id: &GroupId, group: &mut Group, gone: impl IntoIterator<Item = &'a MemberId>) {
        for member in gone {
            group.members.remove(member);
            group.target.remove(member);
            self.timers.clear(id, member);
        }
        group.assign(&self.topics);
        if group.members.is_empty() {
            group.empty_since = Some(now.wall);
        }
    }

    fn commit(&self, now: Now, request: Request) -> Result<(Option<ProducerIdentity>, Vec<CoordinatorRecord>), Error> {
        let Request::CommitOffsets { group, member, instance, offsets, transaction } = request else {
            return Ok((None, Vec::new()));
        };
        // One that this broker has yet to hear of would be taken for deleted.
        if let Some(unknown) = offsets.iter().map(|it| it.partition.topic).find(|id| self.topics.get(*id).is_none()) {
            return Err(Error::UnknownTopic(unknown));
        }
        let nothing = Entry::default();
        let entry = self.groups.get(&group).unwrap_or(&nothing);
        entry.check_commit(
            &self.config,
            &group,
            member.as_ref(),
            instance.as_ref(),
            transaction.is_some(),
            &offsets,
        )?;
        let one =
            |it: &super::OffsetCommit| record::offset(&group, &it.partition, Some(&offsets::committed(it, now.wall)));
        Ok((transaction.map(|it| it.producer), offsets.iter().map(one).collect()))
    }

    fn delete_offsets(&self, id: &GroupId, partitions: &[TopicPartition]) -> Result<Vec<CoordinatorRecord>, Error> {
        let entry = self.known(id)?;
        let subscribed = entry.group.subscribed(&self.topics);
        if partitions.iter().any(|tp| subscribed.values().any(|wanted| wanted.contains(tp))) {
            return Err(Error::Subscribed(id.clone()));
        }
        let there = partitions.iter().filter(|tp| entry.offsets.contains_key(*tp));
        Ok(there.map(|tp| record::offset(id, tp, None)).collect())
    }

    fn delete_group(&self, id: &GroupId) -> Result<Vec<CoordinatorRecord>, Error> {
        let entry = self.known(id)?;
        if !entry.group.members.is_empty() || !entry.pending.is_empty() {
            return Err(Error::NonEmpty(id.clone()));
        }
        Ok(forget(id, entry, entry.offsets.keys().copied().collect()))
    }

    fn describe(&self, id: &GroupId) -> Result<DescribedGroup, Error> {
        let group = &self.known(id)?.group;
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
        };
        Ok(DescribedGroup {
            listed: ListedGroup { group: id.clone(), state: group.state() },
            epoch: group.epoch,
            assignor: group.assignor().name(),
            members: group.members.iter().map(member).collect(),
        })
    }

    fn expire_offsets(&self, now: Now) -> Vec<CoordinatorRecord> {
        let one = |(id, entry): (&GroupId, &Entry)| {
            let expired = entry.expired(&self.config, now.wall);
            let is_due = !expired.is_empty() || entry.is_over(&self.config, now.wall);
            if is_due { forget(id, entry, expired) } else { Vec::new() }
        };
        self.groups.iter().flat_map(one).collect()
    }

    /// New targets where topics have changed; offsets of deleted ones go.
    fn follow_topics(&self) -> Vec<CoordinatorRecord> {
        let mut records = Vec::new();
        for (id, entry) in &self.groups {
            if !entry.group.members.is_empty() && entry.group.has_other_partitions(&self.topics) {
                let mut after = entry.group.clone();
                after.assign(&self.topics);
                records.extend(record::changes(id, &entry.group, &after));
            }
            // Without any topic, the metadata have yet to come.
            if self.topics.iter().next().is_some() {
                let gone = entry.offsets.keys().filter(|tp| self.topics.get(tp.topic).is_none());
                records.extend(gone.map(|tp| record::offset(id, tp, None)));
            }
        }
        records
    }
}

/// Forgets these offsets, and the group if nothing else is left of it.
fn forget(id: &GroupId, entry: &Entry, offsets: Vec<TopicPartition>) -> Vec<CoordinatorRecord> {
    let mut records: Vec<_> = offsets.iter().map(|tp| record::offset(id, tp, None)).collect();
    if offsets.len() == entry.offsets.len() && entry.group.members.is_empty() && entry.pending.is_empty() {
        records.extend(record::changes(id, &entry.group, &Group::default()));
    }
    records
}

fn check_subscription(subscription: &super::Subscription, assignor: Option<&str>) -> Result<(), Error> {
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
    let unknown = || Error::UnknownMember { group: asked.group.clone(), member: asked.member.clone() };
    let known = group.members.get(&asked.member).ok_or_else(unknown)?;
    if let Some(instance) = asked.instance.as_ref().filter(|instance| known.instance.as_ref() != Some(instance)) {
        return Err(Error::FencedInstance { group: asked.group.clone(), instance: instance.clone() });
    }
    let owns_no_more = asked.owned.as_ref().is_none_or(|owned| owned.iter().all(|tp| known.has(tp)));
    let repeats = asked.epoch == known.previous_epoch && owns_no_more;
    if asked.epoch == known.epoch || repeats {
        return Ok(false);
    }
    let (current, found) = (known.epoch, asked.epoch);
    Err(Error::FencedEpoch { group: asked.group.clone(), member: asked.member.clone(), current, found })
}

/// Takes over what the member says of itself. Returns whether there is to be a new target.
fn update(group: &mut Group, asked: &Heartbeat) -> Result<bool, Error> {
    let Some(known) = group.members.get(&asked.member) else { return Ok(false) };
    let mut next = Member::clone(known);
    if let Some(subscription) = &asked.subscription {
        next.subscription = subscription.clone();
    }
    if let Some(assignor) = &asked.assignor {
        next.assignor.clone_from(assignor);
    }
    check_subscription(&next.subscription, Some(&next.assignor))?;
    next.rebalance_timeout = asked.rebalance_timeout.unwrap_or(next.rebalance_timeout);
    if asked.rack.is_some() {
        next.rack.clone_from(&asked.rack);
    }
    let changed = (&next.subscription, &next.assignor) != (&known.subscription, &known.assignor);
    if next != **known {
        group.members.insert(asked.member.clone(), Arc::new(next));
    }
    Ok(changed)
}

impl Shard for GroupShard {
    type Request = Request;
    type Response = Response;
    type Error = Error;
    type Action = Action;

    fn replay(
        &mut self,
        offset: Offset,
        transaction_of: Option<ProducerIdentity>,
        record: &CoordinatorRecord,
    ) -> Result<(), CorruptRecord> {
        match record::parse(record) {
            Ok(Some((group, change))) => {
                self.apply(group, change, transaction_of);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(problem) => Err(CorruptRecord { offset, problem }),
        }
    }

    fn replay_marker(&mut self, _: Offset, marker: EndMarker) {
        for entry in self.groups.values_mut() {
            if let Some(offsets) = entry.pending.remove(&marker.producer.id).filter(|_| marker.commit) {
                entry.offsets.extend(offsets);
            }
        }
        self.groups.retain(|_, entry| !entry.is_nothing());
    }

    fn loaded(&mut self, now: Now, _: LeaderEpoch, topics: &Topics) -> GroupEffects {
        self.topics = topics.clone();
        self.timers = Timers::default();
        self.next_retention = Some(now.elapsed + RETENTION_PERIOD);
        // Members need time to find this coordinator: each gets a whole session.
        for (id, entry) in &self.groups {
            for (member, known) in &entry.group.members {
                self.timers.set(id, member, Why::Session, Some(now.elapsed + self.config.session_timeout));
                if !known.revoking.is_empty() {
                    self.timers.set(id, member, Why::Rebalance, Some(now.elapsed + known.rebalance_timeout));
                }
            }
        }
        effects(self.follow_topics())
    }

    fn handle(&mut self, now: Now, token: Token, request: Request) -> GroupEffects {
        let mut transaction_of = None;
        let result = match request {
            Request::Heartbeat(asked) => {
                self.heartbeat(now, asked).map(|(answer, records)| (Response::Heartbeat(answer), records))
            }
            request @ Request::CommitOffsets { .. } => self.commit(now, request).map(|(producer, records)| {
                transaction_of = producer;
                (Response::Committed, records)
            }),
            Request::FetchOffsets { group, partitions, require_stable } => {
                let nothing = Entry::default();
                let entry = self.groups.get(&group).unwrap_or(&nothing);
                let partitions = if partitions.is_empty() { entry.partitions() } else { partitions };
                let found = partitions.into_iter().map(|tp| (tp, entry.fetch(&tp, require_stable)));
                Ok((Response::Offsets(found.collect()), Vec::new()))
            }
            Request::DeleteOffsets { group, partitions } => {
                self.delete_offsets(&group, &partitions).map(|records| (Response::Deleted, records))
            }
            Request::ListGroups => {
                let one =
                    |(id, entry): (&GroupId, &Entry)| ListedGroup { group: id.clone(), state: entry.group.state() };
                Ok((Response::Groups(self.groups.iter().map(one).collect()), Vec::new()))
            }
            Request::DescribeGroup(group) => self.describe(&group).map(|found| (Response::Group(found), Vec::new())),
            Request::DeleteGroup(group) => self.delete_group(&group).map(|records| (Response::Deleted, records)),
        };
        let (reply, records) = match result {
            Ok((response, records)) => (Ok(response), records),
            Err(error) => (Err(error), Vec::new()),
        };
        let write = (!records.is_empty()).then_some(Write { transaction_of, records });
        Effects { write, replies: vec![(token, reply)], actions: Vec::new() }
    }

    fn next_timer(&self) -> Option<Duration> {
        let first = self.timers.by_time.first().map(|(at, ..)| *at);
        [first, self.next_retention].into_iter().flatten().min()
    }

    fn on_time(&mut self, now: Now) -> GroupEffects {
        let mut records = Vec::new();
        let mut gone: BTreeMap<GroupId, Vec<MemberId>> = BTreeMap::new();
        for (group, member) in self.timers.due(now.elapsed) {
            gone.entry(group).or_default().push(member);
        }
        for (id, members) in gone {
            let before = self.group(&id);
            let mut after = before.clone();
            self.remove(now, &id, &mut after, &members);
            records.extend(record::changes(&id, &before, &after));
        }
        if self.next_retention.is_some_and(|at| at <= now.elapsed) {
            self.next_retention = Some(now.elapsed + RETENTION_PERIOD);
            records.extend(self.expire_offsets(now));
        }
        effects(records)
    }

    fn on_topics(&mut self, _: Now, topics: &Topics) -> GroupEffects {
        self.topics = topics.clone();
        effects(self.follow_topics())
    }
}
