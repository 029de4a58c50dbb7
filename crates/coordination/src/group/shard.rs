//! The groups of one partition of `__consumer_offsets`: takes requests, time and topics to those that know what follows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{GroupId, LeaderEpoch, MemberId, Offset};

use super::classic::{ClassicGroup, Out, Turn};
use super::record::{self, Change};
use super::state::{Entry, Group};
use super::timers::{Timer, Timers};
use super::{Action, Error, GroupConfig, JoinRequest, Request, Response};
use crate::{CoordinatorRecord, CorruptRecord, Effects, EndMarker, Now, ProducerIdentity, Shard, Token, Topics, Write};

type GroupEffects = Effects<Response, Error, Action>;

/// How often offsets are looked at for their age.
const RETENTION_PERIOD: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Clone)]
pub struct GroupShard {
    pub(super) config: GroupConfig,
    pub(super) groups: BTreeMap<GroupId, Entry>,
    /// Of those that have members, or ids given to members to be: with what does not outlive the coordinator.
    pub(super) classic: BTreeMap<GroupId, ClassicGroup>,
    pub(super) topics: Topics,
    pub(super) timers: Timers,
    /// The highest number of a heartbeat of each member that numbers them.
    pub(super) heard: BTreeMap<GroupId, BTreeMap<MemberId, u64>>,
    next_retention: Option<Duration>,
}

fn write(records: Vec<CoordinatorRecord>) -> Option<Write> {
    (!records.is_empty()).then_some(Write { transaction_of: None, records })
}

fn effects(records: Vec<CoordinatorRecord>) -> GroupEffects {
    Effects { write: write(records), ..Effects::default() }
}

impl From<Out> for GroupEffects {
    fn from(out: Out) -> Self {
        Self { write: write(out.records), replies: out.replies, actions: Vec::new() }
    }
}

impl GroupShard {
    pub fn new(config: GroupConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            classic: BTreeMap::new(),
            topics: Topics::default(),
            timers: Timers::default(),
            heard: BTreeMap::new(),
            next_retention: None,
        }
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> &BTreeMap<GroupId, Entry> {
        &self.groups
    }

    pub(super) fn group(&self, id: &GroupId) -> Group {
        self.groups.get(id).map(|entry| entry.group.clone()).unwrap_or_default()
    }

    fn apply(&mut self, id: GroupId, change: Change, transaction_of: Option<ProducerIdentity>) {
        let entry = self.groups.entry(id.clone()).or_default();
        match (change, transaction_of) {
            (Change::Group(value), _) => {
                (entry.group.epoch, entry.group.empty_since) = value.unwrap_or_default();
            }
            (Change::Classic(value), _) => entry.classic = value,
            (Change::Member(member, Some(value)), _) => _ = entry.group.members.insert(member, Arc::new(*value)),
            (Change::Member(member, None), _) => _ = entry.group.members.remove(&member),
            (Change::Target(member, Some(value)), _) => _ = entry.group.target.insert(member, Arc::new(value)),
            (Change::Target(member, None), _) => _ = entry.group.target.remove(&member),
            (Change::Offset(tp, Some(value)), Some(producer)) if !mutation::is_on(Mutation::OffsetsCommittedAtOnce) => {
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

    /// Lets something happen to a classic group, which may come to be by it.
    pub(super) fn with_classic<R>(&mut self, now: Now, id: &GroupId, act: impl FnOnce(&mut Turn<'_>) -> R) -> (R, Out) {
        let mut group = self.classic.remove(id).unwrap_or_else(|| {
            let entry = self.groups.get(id);
            ClassicGroup::new(entry.map_or(0, |it| it.group.epoch), entry.and_then(|it| it.classic.as_ref()))
        });
        let mut out = Out::default();
        let (config, timers) = (&self.config, &mut self.timers);
        let result = act(&mut Turn { id, now, config, timers, group: &mut group, out: &mut out });
        if !group.is_idle() {
            self.classic.insert(id.clone(), group);
        }
        (result, out)
    }

    /// Requests that are answered at once.
    fn answer(&mut self, now: Now, request: Request) -> Result<(Response, Option<Write>), Error> {
        let written = |response, records| Ok((response, write(records)));
        match request {
            Request::Heartbeat(asked) => {
                let (answer, records) = self.heartbeat(now, asked)?;
                written(Response::Heartbeat(answer), records)
            }
            Request::CommitOffsets { .. } => self.commit(now, request),
            Request::FetchOffsets { group, partitions, require_stable, member } => {
                Ok((self.fetch(&group, partitions, require_stable, &member)?, None))
            }
            Request::DeleteOffsets { group, partitions } => {
                let records = self.delete_offsets(&group, &partitions)?;
                written(Response::Deleted, records)
            }
            Request::CountGroups => Ok((Response::Counted(self.count()), None)),
            Request::ListGroups => Ok((Response::Groups(self.list()), None)),
            Request::DescribeGroup(group) => Ok((Response::Group(self.describe(&group)?), None)),
            Request::DeleteGroup(group) => {
                let records = self.delete_group(&group)?;
                written(Response::Deleted, records)
            }
            // These take the other way.
            Request::Join(_) | Request::Sync(_) | Request::ClassicHeartbeat { .. } | Request::Leave { .. } => {
                Ok((Response::Alive, None))
            }
        }
    }

    /// Of a classic member in a group of KIP-848.
    fn handle_translated(&mut self, now: Now, token: Token, request: Request) -> GroupEffects {
        let replaced = match &request {
            Request::Join(asked) => self.last_replaced_by(asked),
            _ => None,
        };
        let request = match (request, replaced) {
            (Request::Join(asked), Some(old)) => return self.join_after(now, token, &old, asked),
            (request, _) => request,
        };
        let (reply, records) = match self.translate(now, request) {
            Ok((response, records)) => (Ok(response), records),
            Err(error) => (Err(error), Vec::new()),
        };
        Out { records, replies: vec![(token, reply)] }.into()
    }

    /// With the last member of KIP-848 gone, the group is a classic one, which the one that takes its place joins.
    fn join_after(&mut self, now: Now, token: Token, old: &MemberId, asked: JoinRequest) -> GroupEffects {
        let id = asked.group.clone();
        let mut records = self.remove_last(now, &id, old);
        let ((), out) = self.with_classic(now, &id, |turn| turn.join(token, asked));
        records.extend(out.records);
        Out { records, replies: out.replies }.into()
    }

    /// New targets where topics have changed; offsets of deleted ones go. `before`: what they were.
    fn follow_topics(&self, before: Option<&Topics>) -> Vec<CoordinatorRecord> {
        let mut records = Vec::new();
        for (id, entry) in &self.groups {
            let is_outdated = |group: &Group| {
                group.has_other_partitions(&self.topics) || group.has_better_target(before, &self.topics)
            };
            if !entry.group.members.is_empty() && is_outdated(&entry.group) {
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
        self.classic = BTreeMap::new();
        self.heard = BTreeMap::new();
        self.next_retention = Some(now.elapsed + RETENTION_PERIOD);
        // Members need time to find this coordinator: each gets a whole session.
        for (id, entry) in &self.groups {
            for (member, known) in &entry.group.members {
                let session = now.elapsed + known.session_timeout(&self.config);
                self.timers.set(id, Timer::Session(member.clone()), Some(session));
                if !known.revoking.is_empty() {
                    let rebalance = now.elapsed + known.rebalance_timeout;
                    self.timers.set(id, Timer::Rebalance(member.clone()), Some(rebalance));
                }
            }
        }
        let classic: Vec<GroupId> =
            self.groups.iter().filter(|(_, entry)| entry.classic.is_some()).map(|(id, _)| id.clone()).collect();
        for id in classic {
            self.with_classic(now, &id, |turn| turn.loaded());
        }
        effects(self.follow_topics(None))
    }

    fn handle(&mut self, now: Now, token: Token, request: Request) -> GroupEffects {
        let is_translated = self.is_translated(&request);
        match request {
            request if is_translated => self.handle_translated(now, token, request),
            Request::Join(asked) => {
                let id = asked.group.clone();
                self.with_classic(now, &id, |turn| turn.join(token, asked)).1.into()
            }
            Request::Sync(asked) => {
                let id = asked.group.clone();
                self.with_classic(now, &id, |turn| turn.sync(token, asked)).1.into()
            }
            Request::ClassicHeartbeat { group, member, generation, instance } => {
                let beat = |turn: &mut Turn<'_>| {
                    let taken = turn.heartbeat(&member, instance.as_ref(), generation);
                    turn.reply(token, taken.map(|()| Response::Alive));
                };
                self.with_classic(now, &group, beat).1.into()
            }
            Request::Leave { group, members } => {
                let leave = |turn: &mut Turn<'_>| {
                    let left = turn.leave(members);
                    turn.reply(token, Ok(Response::Left(left)));
                };
                self.with_classic(now, &group, leave).1.into()
            }
            request => {
                let (reply, write) = match self.answer(now, request) {
                    Ok((response, write)) => (Ok(response), write),
                    Err(error) => (Err(error), None),
                };
                Effects { write, replies: vec![(token, reply)], actions: Vec::new() }
            }
        }
    }

    fn next_timer(&self) -> Option<Duration> {
        [self.timers.first(), self.next_retention].into_iter().flatten().min()
    }

    fn on_time(&mut self, now: Now) -> GroupEffects {
        let mut all = Out::default();
        let mut gone: BTreeMap<GroupId, Vec<MemberId>> = BTreeMap::new();
        while let Some((group, timer)) = self.timers.pop_due(now.elapsed) {
            match timer {
                Timer::Session(member) | Timer::Rebalance(member) => gone.entry(group).or_default().push(member),
                // Of a member to be in a group of the other kind: the timer was all there was of it.
                Timer::Pending(_) if !self.classic.contains_key(&group) => {}
                timer if !self.classic.contains_key(&group) => {
                    debug_assert!(false, "{timer:?} of group {group:?}, which has no members");
                }
                timer => {
                    let ((), out) = self.with_classic(now, &group, |turn| turn.on_timer(&timer));
                    all.records.extend(out.records);
                    all.replies.extend(out.replies);
                }
            }
        }
        for (id, members) in gone {
            let before = self.group(&id);
            all.records.extend(self.remove(now, &id, &before, &members));
        }
        if self.next_retention.is_some_and(|at| at <= now.elapsed) {
            self.next_retention = Some(now.elapsed + RETENTION_PERIOD);
            all.records.extend(self.expire_offsets(now));
        }
        all.into()
    }

    fn on_topics(&mut self, _: Now, topics: &Topics) -> GroupEffects {
        let before = std::mem::replace(&mut self.topics, topics.clone());
        effects(self.follow_topics(Some(&before)))
    }
}
