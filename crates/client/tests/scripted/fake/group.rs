//! A group as its coordinator keeps it, made simple: a partition is given out once nobody else holds it.

use std::collections::{BTreeMap, BTreeSet};

use highwater_protocol::v1;
use highwater_types::ErrorCode;

use super::error;

/// Topic id and partition.
pub type Key = (Vec<u8>, u32);

/// A slow test machine is no reason to lose a session.
const SESSION_TIMEOUT_MS: u32 = 60_000;

#[derive(Default)]
pub struct FakeGroup {
    /// 0: the usual.
    pub session_timeout_ms: u32,
    pub epoch: i32,
    pub members: BTreeMap<String, FakeMember>,
    pub committed: BTreeMap<Key, v1::OffsetToCommit>,
    /// Epochs with which members left.
    pub left: Vec<i32>,
    /// Every heartbeat that stated something or changed the epoch.
    pub heartbeats: Vec<v1::GroupHeartbeatRequest>,
}

#[derive(Default)]
pub struct FakeMember {
    pub epoch: i32,
    topics: Vec<String>,
    pattern: String,
    target: BTreeSet<Key>,
    assigned: BTreeSet<Key>,
    pub owned: BTreeSet<Key>,
}

fn keys(assignment: &v1::GroupAssignment) -> BTreeSet<Key> {
    let one = |topic: &v1::TopicPartitions| {
        let id = topic.topic_id.to_vec();
        topic.partitions.clone().into_iter().map(move |partition| (id.clone(), partition))
    };
    assignment.partitions.iter().flat_map(one).collect()
}

fn assignment(keys: &BTreeSet<Key>) -> v1::GroupAssignment {
    let one =
        |(topic, partition): &Key| v1::TopicPartitions { topic_id: topic.clone().into(), partitions: vec![*partition] };
    v1::GroupAssignment { partitions: keys.iter().map(one).collect() }
}

impl FakeGroup {
    /// Round robin over the members that subscribed.
    pub fn rebalance(&mut self, topics: &BTreeMap<String, v1::TopicInfo>) {
        self.epoch += 1;
        self.members.values_mut().for_each(|member| member.target.clear());
        let mut turn = 0;
        for topic in topics.values() {
            let wants = |member: &FakeMember| {
                let prefix = member.pattern.trim_end_matches(".*");
                member.topics.contains(&topic.name) || (!prefix.is_empty() && topic.name.starts_with(prefix))
            };
            let mut wanting: Vec<_> = self.members.values_mut().filter(|member| wants(member)).collect();
            for partition in &topic.partitions {
                if wanting.is_empty() {
                    continue;
                }
                let index = turn % wanting.len();
                wanting[index].target.insert((topic.topic_id.to_vec(), partition.partition));
                turn += 1;
            }
        }
    }

    pub fn heartbeat(
        &mut self,
        request: &v1::GroupHeartbeatRequest,
        topics: &BTreeMap<String, v1::TopicInfo>,
    ) -> Result<v1::GroupHeartbeatResponse, v1::Error> {
        self.heartbeats.push(request.clone());
        let id = &request.member_id;
        if request.member_epoch < 0 {
            self.members.remove(id).ok_or_else(|| error(ErrorCode::UnknownMemberId))?;
            self.left.push(request.member_epoch);
            self.rebalance(topics);
            return Ok(v1::GroupHeartbeatResponse { member_epoch: request.member_epoch, ..Default::default() });
        }
        if request.member_epoch == 0 {
            let subscription = request.subscription.clone().unwrap_or_default();
            let member =
                FakeMember { topics: subscription.topics, pattern: subscription.topic_pattern, ..Default::default() };
            self.members.insert(id.clone(), member);
            self.rebalance(topics);
        }
        let epoch = self.epoch;
        let member = self.members.get_mut(id).ok_or_else(|| error(ErrorCode::UnknownMemberId))?;
        if let Some(owned) = &request.owned {
            member.owned = keys(owned);
        }
        member.epoch = epoch;
        let others = self.members.iter().filter(|(other, _)| *other != id);
        let held: BTreeSet<Key> = others.flat_map(|(_, m)| m.owned.union(&m.assigned).cloned()).collect();
        let member = self.members.get_mut(id).ok_or_else(|| error(ErrorCode::UnknownMemberId))?;
        member.assigned = member.target.difference(&held).cloned().collect();
        Ok(v1::GroupHeartbeatResponse {
            member_id: id.clone(),
            member_epoch: epoch,
            heartbeat_interval_ms: 10,
            assignment: Some(assignment(&member.assigned)),
            session_timeout_ms: if self.session_timeout_ms == 0 { SESSION_TIMEOUT_MS } else { self.session_timeout_ms },
        })
    }

    pub fn listed(&self, id: &str) -> v1::ListedGroup {
        let state = if self.members.is_empty() { "Empty" } else { "Stable" };
        v1::ListedGroup {
            group_id: id.to_owned(),
            kind: v1::GroupKind::Consumer.into(),
            state: state.to_owned(),
            protocol_type: "consumer".to_owned(),
        }
    }

    pub fn described(&self, id: &str, coordinator: u32) -> v1::DescribeGroupResponse {
        let member = |(id, member): (&String, &FakeMember)| v1::DescribedMember {
            member_id: id.clone(),
            member_epoch: member.epoch,
            assignment: Some(assignment(&member.owned)),
            target: Some(assignment(&member.target)),
            ..Default::default()
        };
        v1::DescribeGroupResponse {
            group: Some(self.listed(id)),
            epoch: self.epoch,
            assignment_epoch: self.epoch,
            assignor: "uniform".to_owned(),
            members: self.members.iter().map(member).collect(),
            coordinator,
        }
    }

    pub fn commit(&mut self, request: &v1::CommitOffsetsRequest) -> Result<(), v1::Error> {
        match self.members.get(&request.member_id) {
            None if request.member_id.is_empty() && self.members.is_empty() => {}
            None => return Err(error(ErrorCode::UnknownMemberId)),
            Some(member) if request.member_epoch < member.epoch => return Err(error(ErrorCode::StaleMemberEpoch)),
            Some(_) => {}
        }
        for offset in &request.offsets {
            self.committed.insert((offset.topic_id.to_vec(), offset.partition), offset.clone());
        }
        Ok(())
    }

    pub fn fetch(&self, request: &v1::FetchOffsetsRequest) -> v1::FetchOffsetsResponse {
        let asked = keys(&v1::GroupAssignment { partitions: request.partitions.clone() });
        let wanted = |key: &Key| asked.is_empty() || asked.contains(key);
        let one = |offset: &v1::OffsetToCommit| v1::CommittedOffset {
            topic_id: offset.topic_id.clone(),
            partition: offset.partition,
            error: None,
            offset: offset.offset,
            leader_epoch: offset.leader_epoch,
            metadata: offset.metadata.clone(),
            committed_at_ms: 1000,
        };
        let offsets = self.committed.iter().filter(|(key, _)| wanted(key)).map(|(_, offset)| one(offset));
        v1::FetchOffsetsResponse { offsets: offsets.collect() }
    }
}
