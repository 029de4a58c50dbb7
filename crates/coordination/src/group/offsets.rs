//! Committed offsets: who may commit, and what is kept.

use std::collections::BTreeSet;

use highwater_types::{GroupId, InstanceId, MemberEpoch, MemberId, TimestampMs, TopicPartition};

use super::request::Unstable;
use super::state::Entry;
use super::{CommittedOffset, Error, GroupConfig, OffsetCommit};

impl Entry {
    /// Whether these may be committed by `member` (T40), or by nobody in particular.
    pub(super) fn check_commit(
        &self,
        config: &GroupConfig,
        id: &GroupId,
        member: Option<&(MemberId, MemberEpoch)>,
        instance: Option<&InstanceId>,
        is_transaction: bool,
        offsets: &[OffsetCommit],
    ) -> Result<(), Error> {
        let max = config.metadata_bytes_max;
        if let Some(length) = offsets.iter().map(|it| it.metadata.len()).find(|length| *length > max) {
            return Err(Error::MetadataTooLarge { length, max });
        }
        let Some((member, found)) = member else {
            // A transaction without group metadata is not checked (KIP-447).
            let is_free = self.group.members.is_empty() || is_transaction;
            return if is_free { Ok(()) } else { Err(Error::NonEmpty(id.clone())) };
        };
        let unknown = || Error::UnknownMember { group: id.clone(), member: member.clone() };
        let known = self.group.members.get(member).ok_or_else(unknown)?;
        if let Some(instance) = instance.filter(|instance| known.instance.as_ref() != Some(instance)) {
            return Err(Error::FencedInstance { group: id.clone(), instance: instance.clone() });
        }
        let (group, member, current, found) = (id.clone(), member.clone(), known.epoch, *found);
        if found > current || current == MemberEpoch::LEAVE_STATIC {
            return Err(Error::FencedEpoch { group, member, current, found });
        }
        // What it has let go of, and is another's by now.
        let is_others = |tp: &TopicPartition| {
            !known.has(tp)
                && self.group.members.values().any(|other| !std::sync::Arc::ptr_eq(other, known) && other.has(tp))
        };
        if offsets.iter().any(|it| is_others(&it.partition)) {
            return Err(Error::FencedEpoch { group, member, current, found });
        }
        // In an older epoch, only what it has had since then: nobody else can have committed it meanwhile.
        let has_kept = |tp: &TopicPartition| {
            let since = known.assigned.get(tp).or_else(|| known.revoking.get(tp));
            since.is_some_and(|since| *since <= found)
        };
        if found < current && !offsets.iter().all(|it| has_kept(&it.partition)) {
            return Err(Error::StaleEpoch { group, member, current, found });
        }
        Ok(())
    }

    pub(super) fn fetch(&self, tp: &TopicPartition, require_stable: bool) -> Result<Option<CommittedOffset>, Unstable> {
        if require_stable && self.is_pending(tp) { Err(Unstable) } else { Ok(self.offsets.get(tp).cloned()) }
    }

    /// Every partition that has an offset, or will if a transaction commits.
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        let pending = self.pending.values().flat_map(|offsets| offsets.keys());
        self.offsets.keys().chain(pending).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether nobody has been in the group for the time that offsets are kept.
    pub(super) fn is_over(&self, config: &GroupConfig, now: TimestampMs) -> bool {
        let retention = i64::try_from(config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let is_empty = self.group.members.is_empty() && self.offsets.is_empty() && self.pending.is_empty();
        is_empty && self.group.empty_since.is_none_or(|since| now.get().saturating_sub(since.get()) > retention)
    }

    /// The offsets whose time is over: of a group without members, and not part of an open transaction (T39).
    pub(super) fn expired(&self, config: &GroupConfig, now: TimestampMs) -> Vec<TopicPartition> {
        if !self.group.members.is_empty() {
            return Vec::new();
        }
        let retention = i64::try_from(config.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let is_over = |since: TimestampMs| now.get().saturating_sub(since.get()) > retention;
        let since = |it: &CommittedOffset| self.group.empty_since.map_or(it.at, |empty| empty.max(it.at));
        let expired = self.offsets.iter().filter(|(tp, it)| is_over(since(it)) && !self.is_pending(tp));
        expired.map(|(tp, _)| *tp).collect()
    }
}

pub(super) fn committed(commit: &OffsetCommit, at: TimestampMs) -> CommittedOffset {
    let OffsetCommit { offset, leader_epoch, metadata, .. } = commit;
    CommittedOffset { offset: *offset, leader_epoch: *leader_epoch, metadata: metadata.clone(), at }
}
