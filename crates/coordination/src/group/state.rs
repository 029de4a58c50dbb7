//! A group as its records say it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_types::{GroupId, InstanceId, MemberEpoch, MemberId, ProducerId, TimestampMs, TopicId, TopicPartition};

use super::classic;
use super::{CommittedOffset, Error, GroupConfig, Protocol};
use crate::Topics;
use crate::assignor::{Assignment, Assignor, Racks};

/// What a member reads: topics by name, and those whose whole name matches a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    pub topics: BTreeSet<String>,
    /// Empty: none.
    pub pattern: String,
}

/// What a member says of its subscription; each part that it leaves out is as before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionChange {
    pub topics: Option<BTreeSet<String>>,
    /// Empty: none any more.
    pub pattern: Option<String>,
}

impl From<Subscription> for SubscriptionChange {
    fn from(whole: Subscription) -> Self {
        Self { topics: Some(whole.topics), pattern: Some(whole.pattern) }
    }
}

impl SubscriptionChange {
    pub(super) fn apply(&self, subscription: &mut Subscription) {
        if let Some(topics) = &self.topics {
            subscription.topics.clone_from(topics);
        }
        if let Some(pattern) = &self.pattern {
            subscription.pattern.clone_from(pattern);
        }
    }
}

impl Subscription {
    /// About what it takes in its member's record.
    pub(super) fn bytes(&self) -> usize {
        self.topics.iter().map(String::len).sum::<usize>() + self.pattern.len()
    }

    /// The partitions of all topics that it names or matches now.
    pub(super) fn partitions(&self, topics: &Topics) -> BTreeSet<TopicPartition> {
        let pattern = compile(&self.pattern).ok().flatten();
        // Internal topics by their names only.
        let by_pattern = |name: &str| !name.starts_with("__") && pattern.as_ref().is_some_and(|it| it.is_match(name));
        let matches = |name: &str| self.topics.contains(name) || by_pattern(name);
        let of = topics.iter().filter(|(_, topic)| matches(topic.name.as_str()));
        let each = of.flat_map(|(id, topic)| {
            (0..topic.partitions()).map(move |p| TopicPartition::new(id, highwater_types::PartitionId::new(p)))
        });
        each.collect()
    }
}

/// A pattern that must match a whole name; `None` for none.
pub(super) fn compile(pattern: &str) -> Result<Option<regex::Regex>, regex::Error> {
    if pattern.is_empty() {
        return Ok(None);
    }
    regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build().map(Some)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub instance: Option<InstanceId>,
    pub rack: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub subscription: Subscription,
    /// Empty: the default.
    pub assignor: String,
    pub rebalance_timeout: Duration,
    /// `LEAVE_STATIC`: it has left for a while.
    pub epoch: MemberEpoch,
    pub previous_epoch: MemberEpoch,
    /// What it was told to have, with the epoch since which it has it.
    pub assigned: BTreeMap<TopicPartition, MemberEpoch>,
    /// What it was told to give up, and has not said that it did; since which epoch it has it.
    pub revoking: BTreeMap<TopicPartition, MemberEpoch>,
    /// Of one that speaks the classic protocol: its generation is its epoch.
    pub classic: Option<Arc<ClassicFacts>>,
}

/// What is known of a member of the classic protocol besides, in a group that is not classic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassicFacts {
    pub session_timeout: Duration,
    /// In order of preference; at least one.
    pub protocols: Vec<Protocol>,
}

impl Member {
    pub(super) fn has(&self, tp: &TopicPartition) -> bool {
        self.assigned.contains_key(tp) || self.revoking.contains_key(tp)
    }

    pub(super) fn session_timeout(&self, config: &GroupConfig) -> Duration {
        self.classic.as_ref().map_or(config.session_timeout, |classic| classic.session_timeout)
    }

    pub(super) fn assignment(&self) -> BTreeSet<TopicPartition> {
        self.assigned.keys().copied().collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Group {
    /// Of members, subscriptions and topics; the target is always of this one. Of a classic group: the generation.
    pub epoch: i32,
    pub members: BTreeMap<MemberId, Arc<Member>>,
    pub target: BTreeMap<MemberId, Arc<BTreeSet<TopicPartition>>>,
    /// Since when it has no members.
    pub empty_since: Option<TimestampMs>,
}

/// A group, and what it has committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Entry {
    pub group: Group,
    /// Of a classic group, with `epoch` and `empty_since` of `group`, which has no members then.
    pub classic: Option<classic::Durable>,
    pub offsets: BTreeMap<TopicPartition, CommittedOffset>,
    /// Of transactions that are open, by producer.
    pub pending: BTreeMap<ProducerId, BTreeMap<TopicPartition, CommittedOffset>>,
}

impl Entry {
    pub(super) fn is_pending(&self, tp: &TopicPartition) -> bool {
        self.pending.values().any(|offsets| offsets.contains_key(tp))
    }

    /// Of either kind, as it was written down.
    pub(super) fn has_members(&self) -> bool {
        !self.group.members.is_empty() || self.classic.as_ref().is_some_and(|classic| !classic.members.is_empty())
    }

    /// Whether there is nothing to remember of it.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Group {
    pub(super) fn target_of(&self, member: &MemberId) -> BTreeSet<TopicPartition> {
        self.target.get(member).map(|target| BTreeSet::clone(target)).unwrap_or_default()
    }

    pub(super) fn state(&self) -> &'static str {
        let settled = |(id, member): (&MemberId, &Arc<Member>)| {
            member.revoking.is_empty() && member.assignment() == self.target_of(id)
        };
        match self.members.is_empty() {
            true => "Empty",
            false if self.members.iter().all(settled) => "Stable",
            false => "Reconciling",
        }
    }

    /// Who says that it is `member`, and `instance`, is.
    pub(super) fn member_of(
        &self,
        id: &GroupId,
        member: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<&Arc<Member>, Error> {
        let known = self.members.get(member);
        let Some(instance) = instance.filter(|it| known.is_none_or(|known| known.instance.as_ref() != Some(*it)))
        else {
            return known.ok_or_else(|| Error::UnknownMember { group: id.clone(), member: member.clone() });
        };
        // Another has its place, or it never had that one.
        let is_others = self.members.values().any(|other| other.instance.as_ref() == Some(instance));
        match known.is_some() || is_others {
            true => Err(Error::FencedInstance { group: id.clone(), instance: instance.clone() }),
            false => Err(Error::UnknownMember { group: id.clone(), member: member.clone() }),
        }
    }

    /// The one that most members ask for; of equals, the first by name.
    pub(super) fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        self.members
            .values()
            .filter(|it| !it.assignor.is_empty())
            .for_each(|it| *votes.entry(&it.assignor).or_default() += 1);
        let most = votes.into_iter().rev().max_by_key(|(_, count)| *count);
        most.and_then(|(name, _)| Assignor::from_name(name)).unwrap_or_default()
    }

    pub(super) fn subscribed(&self, topics: &Topics) -> Assignment {
        self.members.iter().map(|(id, member)| (id.clone(), member.subscription.partitions(topics))).collect()
    }

    fn target_with(&self, topics: &Topics) -> BTreeMap<MemberId, Arc<BTreeSet<TopicPartition>>> {
        let current: Assignment =
            self.target.iter().map(|(id, target)| (id.clone(), BTreeSet::clone(target))).collect();
        let racks = self.members.iter().filter_map(|(id, it)| Some((id.clone(), it.rack.clone()?)));
        let target = self.assignor().assign(&self.subscribed(topics), &current, &Racks::new(racks, topics));
        target.into_iter().map(|(id, target)| (id, Arc::new(target))).collect()
    }

    /// A new epoch, with a target of its own.
    pub(super) fn assign(&mut self, topics: &Topics) {
        self.epoch += 1;
        self.target = self.target_with(topics);
    }

    /// Whether a member or a replica is in another rack now, so that there is a better target than the present one. `before`: the
    /// topics of which it was made, if that is known.
    pub(super) fn has_better_target(&self, before: Option<&Topics>, topics: &Topics) -> bool {
        let racks = |of: &Topics, id: TopicId| of.get(id).map(|topic| topic.racks.clone());
        let targeted: BTreeSet<TopicId> = self.target.values().flat_map(|it| it.iter().map(|tp| tp.topic)).collect();
        let is_other = |id: &TopicId| before.is_none_or(|before| racks(before, *id) != racks(topics, *id));
        let has_racks = self.members.values().any(|member| member.rack.is_some());
        has_racks && targeted.iter().any(is_other) && self.target_with(topics) != self.target
    }

    /// Whether the topics that it subscribes to have other partitions than when the target was made.
    pub(super) fn has_other_partitions(&self, topics: &Topics) -> bool {
        let wanted: BTreeSet<TopicPartition> = self.subscribed(topics).into_values().flatten().collect();
        let targeted: BTreeSet<TopicPartition> = self.target.values().flat_map(|it| it.iter().copied()).collect();
        wanted != targeted
    }
}
