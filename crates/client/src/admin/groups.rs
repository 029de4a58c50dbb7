//! Consumer groups: who is in them, what they have committed, and how far behind they are.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::{topic_id_bytes, v1};
use highwater_types::{ErrorCode, IsolationLevel, Offset, PartitionId, TopicId, TopicName, TopicPartition};
use tokio::time::Instant;
use v1::coordinator_client::CoordinatorClient;

use crate::admin::{Admin, unknown_topic};
use crate::ask::{ask_all, coordinator};
use crate::consumer::group::offsets::{self, Committing};
use crate::consumer::{CommittedOffset, OffsetToCommit, Position};
use crate::coordinator::Coordinator;
use crate::offsets::{Lookup, look_up};
use crate::{AdminError, CommitError, OffsetAt};

/// Which protocol a group speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupProtocol {
    /// KIP-848: the coordinator assigns.
    Consumer,
    /// The classic one: a member assigns.
    Classic,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupListing {
    /// Its id.
    pub group_id: String,
    /// Which protocol it speaks.
    pub protocol: GroupProtocol,
    /// `Empty`, `Assigning`, `Reconciling`, `Stable`, `PreparingRebalance`, `CompletingRebalance` or `Dead`.
    pub state: String,
    /// Of the classic protocol: `consumer` for consumers.
    pub protocol_type: String,
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDescription {
    /// What it is.
    pub group: GroupListing,
    /// Group epoch, or generation.
    pub epoch: i32,
    /// The epoch that the assignment was made for.
    pub assignment_epoch: i32,
    /// The assignor, or the classic protocol's name.
    pub assignor: String,
    /// The broker that coordinates it.
    pub coordinator: u32,
    /// By id.
    pub members: Vec<MemberDescription>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// A static member's name.
    pub instance_id: Option<String>,
    /// What it calls itself.
    pub client_id: String,
    /// Where it is.
    pub client_host: String,
    /// Its rack, if it said.
    pub rack: Option<String>,
    /// What it has reached of the group's epochs.
    pub epoch: i32,
    /// The topics that it subscribed to by name.
    pub topics: Vec<String>,
    /// And by pattern; empty: none.
    pub topic_pattern: String,
    /// What it holds.
    pub assignment: Vec<(TopicName, PartitionId)>,
    /// What it should hold.
    pub target: Vec<(TopicName, PartitionId)>,
    /// Speaks the classic protocol.
    pub is_classic: bool,
}

/// How far behind a group is in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// What the group has committed; `None`: nothing.
    pub committed: Option<CommittedOffset>,
    /// The high watermark; `None` if nobody could say.
    pub end: Option<Offset>,
    /// Offsets between the two, never negative; not known, rather than 0, without a commit (T42). Control records and
    /// what compaction took count too.
    pub lag: Option<u64>,
    /// The member that holds the partition.
    pub member: Option<String>,
}

impl Admin {
    /// Every group, by id, of all coordinators.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>, AdminError> {
        let send = |channel| async move { coordinator(channel).list_groups(v1::ListGroupsRequest {}).await };
        let answers = ask_all(&self.client, "list groups", send).await?;
        // One that moved meanwhile may be told twice.
        let all =
            answers.into_iter().flat_map(|(_, answer)| answer.groups).map(|group| (group.group_id.clone(), group));
        Ok(all.collect::<BTreeMap<_, _>>().into_values().map(listing).collect())
    }

    /// One group. Fails with [`ErrorCode::GroupIdNotFound`] if there is none.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, AdminError> {
        let what = format!("describe group {group:?}");
        let request = v1::DescribeGroupRequest { group_id: group.to_owned() };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.describe_group(request).await }
        };
        let found = self.of_group(group).call(&what, self.deadline(), |_| true, send).await?;
        let names: BTreeMap<_, _> = self.client.image().topics().map(|topic| (topic.id, topic.name.clone())).collect();
        let mut members: Vec<_> = found.members.into_iter().map(|member| describe_member(member, &names)).collect();
        members.sort_by(|a, b| a.member_id.cmp(&b.member_id));
        let missing = || AdminError::new(&what, ErrorCode::Internal, "the answer has no group in it");
        Ok(GroupDescription {
            group: listing(found.group.ok_or_else(missing)?),
            epoch: found.epoch,
            assignment_epoch: found.assignment_epoch,
            assignor: found.assignor,
            coordinator: found.coordinator,
            members,
        })
    }

    /// Deletes a group and its offsets; refused while it has members.
    pub async fn delete_group(&self, group: &str) -> Result<(), AdminError> {
        let what = format!("delete group {group:?}");
        let request = v1::DeleteGroupRequest { group_id: group.to_owned() };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.delete_group(request).await }
        };
        let coordinator = self.of_group(group);
        coordinator.call(&what, self.deadline(), crate::admin::is_not_applied, send).await.map(drop)
    }

    /// What a group has committed.
    pub async fn group_offsets(&self, group: &str) -> Result<Vec<CommittedOffset>, AdminError> {
        let who = Committing { group: group.to_owned(), epoch: -1, ..Committing::default() };
        let found = offsets::fetch(&self.of_group(group), who, &[], false, self.deadline()).await?;
        Ok(found.into_iter().filter_map(|(id, offset)| offsets::from_wire(&self.client, id, offset)).collect())
    }

    /// What a group has committed for one partition. Waits for the end of a transaction that is about to change it.
    pub async fn stable_group_offset(
        &self,
        group: &str,
        topic: &str,
        partition: PartitionId,
    ) -> Result<Option<CommittedOffset>, AdminError> {
        let absent = || {
            let what = format!("fetch the offsets of group {group:?}");
            AdminError::new(what, ErrorCode::UnknownTopic, format!("there is no topic {topic:?}"))
        };
        let asked = TopicPartition::new(self.client.topic(topic).await.ok_or_else(absent)?.id, partition);
        let who = Committing { group: group.to_owned(), epoch: -1, ..Committing::default() };
        let mut found = offsets::fetch(&self.of_group(group), who, &[asked], true, self.deadline()).await?;
        Ok(found.remove(&asked).and_then(|offset| offsets::from_wire(&self.client, asked, offset)))
    }

    /// Sets a group's offsets; refused while it has members.
    pub async fn alter_group_offsets(&self, group: &str, offsets: &[OffsetToCommit]) -> Result<(), AdminError> {
        let what = format!("alter the offsets of group {group:?}");
        let failed = |error: CommitError| AdminError {
            what: what.clone(),
            code: error.code,
            message: error.message,
            outcome: error.outcome,
        };
        let wire = offsets::to_wire(&self.client, group, offsets).map_err(failed)?;
        let who = Committing { group: group.to_owned(), epoch: -1, ..Committing::default() };
        offsets::commit(&self.of_group(group), who, wire, self.deadline()).await.map_err(failed)
    }

    /// Sets a group's offsets in a topic to the start, the end, or the first record from a time on (the end, if there is
    /// none), in these partitions or, if there are none, all. Refused while the group has members. Returns the new ones.
    pub async fn reset_group_offsets(
        &self,
        group: &str,
        topic: &str,
        partitions: &[PartitionId],
        at: OffsetAt,
    ) -> Result<Vec<(PartitionId, Offset)>, AdminError> {
        let mut found = BTreeMap::new();
        for (partition, offset) in self.list_offsets(topic, at).await? {
            found.insert(partition, offset);
        }
        if found.values().any(|offset| offset.offset.is_none()) {
            for (partition, end) in self.list_offsets(topic, OffsetAt::Latest).await? {
                found.entry(partition).and_modify(|found| found.offset = found.offset.or(end.offset));
            }
        }
        if let Some(missing) = partitions.iter().find(|partition| !found.contains_key(partition)) {
            let why = format!("topic {topic:?} has no partition {missing}");
            return Err(AdminError::new(format!("reset group {group:?}"), ErrorCode::UnknownPartition, why));
        }
        found.retain(|partition, _| partitions.is_empty() || partitions.contains(partition));
        let one = |(partition, found): (&PartitionId, &crate::TimestampedOffset)| {
            // The epoch of the record there, not of the one before: not to be compared with.
            let position = Position { offset: found.offset?, leader_epoch: crate::LeaderEpoch::NONE };
            let (topic, partition, metadata) = (topic.to_owned(), *partition, String::new());
            Some(OffsetToCommit { topic, partition, position, metadata })
        };
        let new: Vec<_> = found.iter().filter_map(one).collect();
        self.alter_group_offsets(group, &new).await?;
        Ok(new.into_iter().map(|offset| (offset.partition, offset.position.offset)).collect())
    }

    /// Forgets what a group has committed for these partitions; refused while a member is subscribed to their topics.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[(TopicName, PartitionId)],
    ) -> Result<(), AdminError> {
        let what = format!("delete offsets of group {group:?}");
        let image = self.client.image();
        let one = |(name, partition): &(TopicName, PartitionId)| {
            let topic = image.topic(name.as_str()).ok_or_else(|| unknown_topic(&what, name.as_str()))?;
            Ok(v1::TopicPartitions { topic_id: topic_id_bytes(topic.id), partitions: vec![partition.get()] })
        };
        let partitions = partitions.iter().map(one).collect::<Result<_, AdminError>>()?;
        let request = v1::DeleteOffsetsRequest { group_id: group.to_owned(), partitions };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.delete_offsets(request).await }
        };
        // Forgotten twice is forgotten.
        let answer = self.of_group(group).call(&what, self.deadline(), |_| true, send).await?;
        offsets::refused(group, &answer.partitions).map_err(|error| AdminError {
            what,
            code: error.code,
            message: error.message,
            outcome: error.outcome,
        })
    }

    /// How far behind a group is: in each partition for which it has committed an offset, or that a member holds.
    pub async fn group_lag(&self, group: &str) -> Result<Vec<PartitionLag>, AdminError> {
        let mut lags: BTreeMap<(TopicName, PartitionId), PartitionLag> = BTreeMap::new();
        let unknown = |(topic, partition): (TopicName, PartitionId)| {
            let (committed, end, lag, member) = (None, None, None, None);
            PartitionLag { topic, partition, committed, end, lag, member }
        };
        for committed in self.group_offsets(group).await? {
            let place = (committed.topic.clone(), committed.partition);
            lags.entry(place.clone()).or_insert_with(|| unknown(place)).committed = Some(committed);
        }
        match self.describe_group(group).await {
            Ok(described) => {
                for member in described.members {
                    for place in member.assignment {
                        let lag = lags.entry(place.clone()).or_insert_with(|| unknown(place));
                        lag.member = Some(member.member_id.clone());
                    }
                }
            }
            // Offsets without a group: it never had members.
            Err(error) if error.code == ErrorCode::GroupIdNotFound && !lags.is_empty() => {}
            Err(error) => return Err(error),
        }
        let image = self.client.image();
        let one = |(topic, partition): &(TopicName, PartitionId)| {
            let topic = std::sync::Arc::clone(image.topic(topic.as_str())?);
            Some(Lookup { topic, partition: *partition, at: OffsetAt::Latest })
        };
        let asked = lags.keys().filter_map(one).collect();
        for (lookup, found) in look_up(&self.client, asked, IsolationLevel::ReadUncommitted).await {
            let Some(lag) = lags.get_mut(&(lookup.topic.name.clone(), lookup.partition)) else { continue };
            lag.end = found.ok().and_then(|found| found.offset);
            lag.lag = lag.end.zip(lag.committed.as_ref()).map(|(end, committed)| {
                u64::try_from(end.get().saturating_sub(committed.position.offset.get())).unwrap_or(0)
            });
        }
        Ok(lags.into_values().collect())
    }

    fn of_group(&self, group: &str) -> Coordinator {
        Coordinator::of_group(&self.client, group)
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.client.request_timeout
    }
}

fn listing(group: v1::ListedGroup) -> GroupListing {
    let protocol = match group.kind() {
        v1::GroupKind::Classic => GroupProtocol::Classic,
        _ => GroupProtocol::Consumer,
    };
    GroupListing { group_id: group.group_id, protocol, state: group.state, protocol_type: group.protocol_type }
}

fn describe_member(member: v1::DescribedMember, names: &BTreeMap<TopicId, TopicName>) -> MemberDescription {
    let named = |assignment: Option<v1::GroupAssignment>| named(&assignment.unwrap_or_default().partitions, names);
    let present = |text: String| Some(text).filter(|text| !text.is_empty());
    let subscription = member.subscription.unwrap_or_default();
    MemberDescription {
        member_id: member.member_id,
        instance_id: present(member.instance_id),
        client_id: member.client_id,
        client_host: member.client_host,
        rack: present(member.rack_id),
        epoch: member.member_epoch,
        topics: subscription.topics,
        topic_pattern: subscription.topic_pattern,
        assignment: named(member.assignment),
        target: named(member.target),
        is_classic: member.is_classic,
    }
}

/// These partitions by name; those of topics that are gone are left out.
pub(super) fn named(
    partitions: &[v1::TopicPartitions],
    names: &BTreeMap<TopicId, TopicName>,
) -> Vec<(TopicName, PartitionId)> {
    let one = |topic: &v1::TopicPartitions| {
        let name = TopicId::from_slice(&topic.topic_id).and_then(|id| names.get(&id)).cloned();
        let numbers = topic.partitions.clone();
        name.into_iter()
            .flat_map(move |name| numbers.clone().into_iter().map(move |n| (name.clone(), PartitionId::new(n))))
    };
    let all: BTreeSet<_> = partitions.iter().flat_map(one).collect();
    all.into_iter().collect()
}

/// A partition by id, of a message that may have a bad one.
pub(super) fn partition_ids(partitions: &[v1::TopicPartitions]) -> BTreeSet<TopicPartition> {
    let one = |topic: &v1::TopicPartitions| {
        let id = TopicId::from_slice(&topic.topic_id);
        let numbers = topic.partitions.clone();
        id.into_iter()
            .flat_map(move |id| numbers.clone().into_iter().map(move |n| TopicPartition::new(id, PartitionId::new(n))))
    };
    partitions.iter().flat_map(one).collect()
}
