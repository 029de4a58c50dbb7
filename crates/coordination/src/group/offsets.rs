//! Committed offsets: who may commit, and what is kept.

use std::collections::BTreeSet;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{Generation, GroupId, InstanceId, MemberEpoch, MemberId, TimestampMs, TopicPartition};

use super::admin::forget;
use super::request::Unstable;
use super::shard::GroupShard;
use super::state::Entry;
use super::{CommittedOffset, Error, GroupConfig, OffsetCommit, Request, Response, record};
use crate::{CoordinatorRecord, Now, Write};

/// Who commits, or asks; `None`: nobody in particular.
type Who = Option<(MemberId, MemberEpoch)>;

fn in_generation(who: &Who) -> Option<(MemberId, Generation)> {
    who.as_ref().map(|(member, epoch)| (member.clone(), Generation::new(epoch.get())))
}

impl GroupShard {
    /// Partitions that can't be committed don't keep the others from it; one that commits what is not its own commits nothing.
    pub(super) fn commit(&mut self, now: Now, request: Request) -> Result<(Response, Option<Write>), Error> {
        let Request::CommitOffsets { group: id, member, instance, offsets, transaction } = request else {
            return Ok((Response::Committed(Vec::new()), None));
        };
        let nothing = Entry::default();
        let entry = self.groups.get(&id).unwrap_or(&nothing);
        match self.classic.get(&id).filter(|classic| classic.has_members()) {
            _ if mutation::is_on(Mutation::CommitNotFenced) => {}
            Some(classic) => {
                classic.check_commit(&id, in_generation(&member).as_ref(), instance.as_ref(), transaction.is_some())?;
            }
            None => entry.check_commit(&id, &member, instance.as_ref(), transaction.is_some(), &offsets)?,
        }
        let (found, max) = (offsets.iter().map(OffsetCommit::bytes).sum(), self.config.classic_bytes_max);
        if found > max {
            return Err(Error::TooLarge { group: id, found, max });
        }
        let results: Vec<_> = offsets.iter().map(|it| (it.partition, self.check_offset(it))).collect();
        let taken = offsets.iter().zip(&results).filter(|(_, (_, result))| result.is_ok());
        let records = taken.map(|(it, _)| record::offset(&id, &it.partition, Some(&committed(it, now.wall))));
        let write = Write { transaction_of: transaction.map(|it| it.producer), records: records.collect() };
        if let Some((member, _)) = member {
            self.heard_of_classic(now, &id, &member);
            self.with_classic(now, &id, |turn| turn.committed(&member));
        }
        Ok((Response::Committed(results), (!write.records.is_empty()).then_some(write)))
    }

    /// A commit says that its member lives. One of KIP-848 says so by heartbeats alone.
    fn heard_of_classic(&mut self, now: Now, id: &GroupId, member: &MemberId) {
        let known = self.groups.get(id).and_then(|entry| entry.group.members.get(member)).cloned();
        if let Some(known) = known.filter(|known| known.classic.is_some()) {
            self.touch(now, id, member, &known);
        }
    }

    fn check_offset(&self, commit: &OffsetCommit) -> Result<(), Error> {
        let (tp, length, max) = (commit.partition, commit.metadata.len(), self.config.metadata_bytes_max);
        // One that this broker has yet to hear of would be taken for deleted.
        let topic = self.topics.get(tp.topic).ok_or(Error::UnknownTopic(tp.topic))?;
        if tp.partition.get() >= topic.partitions() {
            return Err(Error::UnknownPartition(tp));
        }
        if length > max { Err(Error::MetadataTooLarge { length, max }) } else { Ok(()) }
    }

    pub(super) fn fetch(
        &self,
        id: &GroupId,
        partitions: Vec<TopicPartition>,
        require_stable: bool,
        who: &Who,
    ) -> Result<Response, Error> {
        let nothing = Entry::default();
        let entry = self.groups.get(id).unwrap_or(&nothing);
        match (self.classic.get(id).filter(|classic| classic.has_members()), in_generation(who)) {
            (Some(classic), Some((member, generation))) => classic.check_generation(id, &member, None, generation)?,
            (Some(_), None) => {}
            (None, _) => entry.check_reader(id, who, &partitions)?,
        }
        let partitions = if partitions.is_empty() { entry.partitions() } else { partitions };
        let found = partitions.into_iter().map(|tp| (tp, entry.fetch(&tp, require_stable)));
        Ok(Response::Offsets(found.collect()))
    }

    pub(super) fn expire_offsets(&self, now: Now) -> Vec<CoordinatorRecord> {
        let one = |(id, entry): (&GroupId, &Entry)| {
            let expired = entry.expired(&self.config, now.wall);
            let is_due = !expired.is_empty() || entry.is_over(&self.config, now.wall);
            if is_due { forget(id, entry, expired) } else { Vec::new() }
        };
        // A classic group that has members, or will, is in use (T39).
        self.groups.iter().filter(|(id, _)| !self.classic.contains_key(*id)).flat_map(one).collect()
    }
}

impl Entry {
    /// Whether these may be committed by `who` (T40).
    fn check_commit(
        &self,
        id: &GroupId,
        who: &Who,
        instance: Option<&InstanceId>,
        is_transaction: bool,
        offsets: &[OffsetCommit],
    ) -> Result<(), Error> {
        let is_empty = self.group.members.is_empty();
        let Some((member, found)) = who else {
            // A transaction without group metadata is not checked (KIP-447).
            return if is_empty || is_transaction { Ok(()) } else { Err(Error::NonEmpty(id.clone())) };
        };
        if is_empty && found.get() < 0 {
            return Ok(());
        }
        let known = self.group.member_of(id, member, instance)?;
        // What it has let go of, and is another's by now.
        let is_others = |tp: &TopicPartition| {
            !known.has(tp)
                && self.group.members.values().any(|other| !std::sync::Arc::ptr_eq(other, known) && other.has(tp))
        };
        if offsets.iter().any(|it| is_others(&it.partition)) {
            if known.classic.is_some() {
                return Err(Error::RebalanceInProgress(id.clone()));
            }
            let (group, member, current, found) = (id.clone(), member.clone(), known.epoch, *found);
            return Err(Error::FencedEpoch { group, member, current, found });
        }
        self.check_epoch(id, member, *found, offsets.iter().map(|it| it.partition))
    }

    /// Whether one that says who it is may read these.
    fn check_reader(&self, id: &GroupId, who: &Who, partitions: &[TopicPartition]) -> Result<(), Error> {
        match who {
            None => Ok(()),
            Some((_, epoch)) if self.group.members.is_empty() && epoch.get() < 0 => Ok(()),
            Some((member, epoch)) => {
                self.group.member_of(id, member, None)?;
                self.check_epoch(id, member, *epoch, partitions.iter().copied())
            }
        }
    }

    fn check_epoch(
        &self,
        id: &GroupId,
        member: &MemberId,
        found: MemberEpoch,
        mut partitions: impl Iterator<Item = TopicPartition>,
    ) -> Result<(), Error> {
        let known = self.group.member_of(id, member, None)?;
        let (group, member, current) = (id.clone(), member.clone(), known.epoch);
        if known.classic.is_some() {
            let (current, found) = (Generation::new(current.get()), Generation::new(found.get()));
            return if found == current { Ok(()) } else { Err(Error::IllegalGeneration { group, current, found }) };
        }
        if found > current || current == MemberEpoch::LEAVE_STATIC {
            return Err(Error::FencedEpoch { group, member, current, found });
        }
        // In an older epoch, only what it has had since then: nobody else can have committed it meanwhile.
        let has_kept = |tp: TopicPartition| {
            let since = known.assigned.get(&tp).or_else(|| known.revoking.get(&tp));
            since.is_some_and(|since| *since <= found)
        };
        if found < current && !partitions.all(has_kept) {
            return Err(Error::StaleEpoch { group, member, current, found });
        }
        Ok(())
    }

    fn fetch(&self, tp: &TopicPartition, require_stable: bool) -> Result<Option<CommittedOffset>, Unstable> {
        if require_stable && self.is_pending(tp) { Err(Unstable) } else { Ok(self.offsets.get(tp).cloned()) }
    }

    /// Every partition that has an offset, or will if a transaction commits.
    fn partitions(&self) -> Vec<TopicPartition> {
        let pending = self.pending.values().flat_map(|offsets| offsets.keys());
        self.offsets.keys().chain(pending).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether nobody has been in the group for the time that offsets are kept.
    fn is_over(&self, config: &GroupConfig, now: TimestampMs) -> bool {
        let retention = i64::try_from(config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let is_empty = !self.has_members() && self.offsets.is_empty() && self.pending.is_empty();
        is_empty && self.group.empty_since.is_none_or(|since| now.get().saturating_sub(since.get()) > retention)
    }

    /// The offsets whose time is over: of a group without members, and not part of an open transaction (T39).
    fn expired(&self, config: &GroupConfig, now: TimestampMs) -> Vec<TopicPartition> {
        if self.has_members() {
            return Vec::new();
        }
        let retention = i64::try_from(config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let is_over = |since: TimestampMs| now.get().saturating_sub(since.get()) > retention;
        let since = |it: &CommittedOffset| self.group.empty_since.map_or(it.at, |empty| empty.max(it.at));
        let expired = self.offsets.iter().filter(|(tp, it)| is_over(since(it)) && !self.is_pending(tp));
        expired.map(|(tp, _)| *tp).collect()
    }
}

impl OffsetCommit {
    /// About what its record takes in a batch.
    fn bytes(&self) -> usize {
        const FIXED: usize = 64;
        FIXED + self.metadata.len()
    }
}

fn committed(commit: &OffsetCommit, at: TimestampMs) -> CommittedOffset {
    let OffsetCommit { offset, leader_epoch, metadata, .. } = commit;
    CommittedOffset { offset: *offset, leader_epoch: *leader_epoch, metadata: metadata.clone(), at }
}
