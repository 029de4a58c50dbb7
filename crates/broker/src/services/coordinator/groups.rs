//! The group calls: decode, one call of a coordinator, encode.

use std::time::Duration;

use highwater_coordination::group::{Error, Heartbeat, OffsetsInTransaction, Request, Response, SubscriptionChange};
use highwater_protocol::v1::*;
use highwater_protocol::{status_from_error, topic_id_bytes};
use highwater_types::{ErrorCode, GroupId, MemberEpoch, MemberId, TopicPartition};
use tonic::Status;

use super::{Answered, CoordinatorService, convert, refuse};
use crate::coordinator::CallError;
use crate::transaction::verify::Verification;

pub(super) fn unexpected(response: &Response) -> Status {
    refuse(ErrorCode::Internal, format!("a coordinator's answer is of another kind: {response:?}"))
}

pub(super) fn given<T>(value: T) -> Answered<T> {
    Ok(tonic::Response::new(value))
}

/// Who commits; `None` for nobody in particular.
fn member(id: &str, epoch: i32) -> Result<Option<(MemberId, MemberEpoch)>, Status> {
    match id {
        "" => Ok(None),
        id => Ok(Some((convert::member_id(id)?, MemberEpoch::new(epoch)))),
    }
}

impl CoordinatorService {
    fn group_status(&self, error: CallError<Error>) -> Status {
        let image = self.core.partitions.image();
        status_from_error(convert::call_error(error, &image, Error::code))
    }

    pub(super) async fn ask_group(&self, id: &GroupId, request: Request) -> Result<Response, Status> {
        self.coordinators.groups.call_for(id.as_str(), request).await.map_err(|error| self.group_status(error))
    }

    fn partitions(&self, wire: &[TopicPartitions]) -> Result<Vec<TopicPartition>, Status> {
        convert::partitions(wire, self.core.config.limits.partitions_per_request_max)
    }

    pub(super) async fn heartbeat_of_group(&self, asked: GroupHeartbeatRequest) -> Answered<GroupHeartbeatResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let owned = asked.owned.map(|owned| self.partitions(&owned.partitions)).transpose()?;
        let subscription = |it: GroupSubscription| SubscriptionChange {
            topics: (!asked.keeps_topics).then(|| it.topics.into_iter().collect()),
            pattern: (!asked.keeps_pattern).then_some(it.topic_pattern),
        };
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let timeout = Some(asked.rebalance_timeout_ms).filter(|ms| *ms > 0);
        let heartbeat = Heartbeat {
            group: group.clone(),
            member: convert::member_id(&asked.member_id)?,
            epoch: MemberEpoch::new(asked.member_epoch),
            number: asked.number,
            instance: convert::instance_id(&asked.instance_id)?,
            rack: text(asked.rack_id),
            rebalance_timeout: timeout.map(|ms| Duration::from_millis(ms.into())),
            subscription: asked.subscription.map(subscription).unwrap_or_default(),
            assignor: text(asked.assignor),
            owned: owned.map(|owned| owned.into_iter().collect()),
            client_id: asked.client_id,
            client_host: asked.client_host,
        };
        match self.ask_group(&group, Request::Heartbeat(heartbeat)).await? {
            Response::Heartbeat(answer) => given(GroupHeartbeatResponse {
                member_id: answer.member.to_string(),
                member_epoch: answer.epoch.get(),
                heartbeat_interval_ms: u32::try_from(answer.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
                session_timeout_ms: u32::try_from(answer.session_timeout.as_millis()).unwrap_or(u32::MAX),
                assignment: answer.assignment.as_ref().map(convert::assignment),
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn commit(&self, asked: CommitOffsetsRequest) -> Answered<CommitOffsetsResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let offsets = asked.offsets.into_iter().map(convert::offset).collect::<Result<Vec<_>, _>>()?;
        let request = Request::CommitOffsets {
            group: group.clone(),
            member: member(&asked.member_id, asked.member_epoch)?,
            instance: convert::instance_id(&asked.instance_id)?,
            offsets,
            transaction: None,
        };
        match self.ask_group(&group, request).await? {
            Response::Committed(results) => given(CommitOffsetsResponse { partitions: convert::committed(results) }),
            other => Err(unexpected(&other)),
        }
    }

    /// The partition that keeps a group.
    pub(super) fn keeps_group(&self, group: &GroupId) -> Result<TopicPartition, Status> {
        let groups = &self.coordinators.groups;
        let keeps = groups.partition_of(group.as_str()).and_then(|partition| groups.topic_partition(partition));
        let none = "there is no group coordinator yet: FindCoordinator makes it";
        keeps.ok_or_else(|| refuse(ErrorCode::CoordinatorNotAvailable, none))
    }

    /// First the partition that keeps the group becomes part of the transaction, so that its end reaches the offsets. Should one end
    /// before they are appended, that may have been this one: it is asked again.
    pub(super) async fn commit_in_transaction(
        &self,
        asked: CommitOffsetsInTransactionRequest,
    ) -> Answered<CommitOffsetsInTransactionResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let transactional_id = convert::transactional_id(&asked.transactional_id)?;
        let producer = convert::producer(asked.producer_id, asked.producer_epoch)?;
        let offsets = asked.offsets.into_iter().map(convert::offset).collect::<Result<Vec<_>, _>>()?;
        let request = Request::CommitOffsets {
            group: group.clone(),
            member: member(&asked.member_id, asked.member_epoch)?,
            instance: convert::instance_id(&asked.instance_id)?,
            offsets,
            transaction: Some(OffsetsInTransaction { producer }),
        };
        let partition = self.keeps_group(&group)?;
        let question = Verification { transactional_id, producer, partition, joins: !asked.verify_only };
        let groups = &self.coordinators.groups;
        loop {
            let guard = groups.guard(partition.partition, producer).map_err(|error| self.group_status(error))?;
            self.verifier.verify(question.clone()).await.map_err(status_from_error)?;
            return match groups.call_guarded(partition.partition, request.clone(), guard).await {
                Err(CallError::Outdated) => continue,
                Err(error) => Err(self.group_status(error)),
                Ok(Response::Committed(results)) => {
                    given(CommitOffsetsInTransactionResponse { partitions: convert::committed(results) })
                }
                Ok(other) => Err(unexpected(&other)),
            };
        }
    }

    pub(super) async fn fetch(&self, asked: FetchOffsetsRequest) -> Answered<FetchOffsetsResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let partitions = self.partitions(&asked.partitions)?;
        let request = Request::FetchOffsets {
            group: group.clone(),
            partitions,
            require_stable: asked.require_stable,
            member: member(&asked.member_id, asked.member_epoch)?,
        };
        let found = match self.ask_group(&group, request).await? {
            Response::Offsets(found) => found,
            other => return Err(unexpected(&other)),
        };
        let one = |(tp, found): (TopicPartition, Result<_, _>)| {
            let none = CommittedOffset {
                topic_id: topic_id_bytes(tp.topic),
                partition: tp.partition.get(),
                error: None,
                offset: -1,
                leader_epoch: -1,
                metadata: String::new(),
                committed_at_ms: -1,
            };
            match found {
                Ok(None) => none,
                Ok(Some(it)) => {
                    let it: highwater_coordination::group::CommittedOffset = it;
                    CommittedOffset {
                        offset: it.offset.get(),
                        leader_epoch: it.leader_epoch.get(),
                        metadata: it.metadata,
                        committed_at_ms: it.at.get(),
                        ..none
                    }
                }
                Err(_) => {
                    let why = "an open transaction is about to change this offset; ask again";
                    CommittedOffset { error: Some(super::WireError::new(ErrorCode::UnstableOffsetCommit, why)), ..none }
                }
            }
        };
        given(FetchOffsetsResponse { offsets: found.into_iter().map(one).collect() })
    }

    pub(super) async fn delete(&self, asked: DeleteOffsetsRequest) -> Answered<DeleteOffsetsResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let partitions = self.partitions(&asked.partitions)?;
        let deleted = convert::committed(partitions.iter().map(|tp| (*tp, Ok(()))).collect());
        let answer = DeleteOffsetsResponse { partitions: deleted };
        match self.ask_group(&group, Request::DeleteOffsets { group: group.clone(), partitions }).await? {
            Response::Deleted => given(answer),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn list(&self) -> Answered<ListGroupsResponse> {
        let mut groups = Vec::new();
        for partition in self.coordinators.groups.loaded() {
            match self.coordinators.groups.call(partition, Request::ListGroups).await {
                Ok(Response::Groups(found)) => groups.extend(found.iter().map(convert::listed)),
                Ok(other) => return Err(unexpected(&other)),
                // Not coordinated here any more: whoever does lists them.
                Err(CallError::NotCoordinator { .. } | CallError::Lost { .. }) => {}
                Err(error) => return Err(self.group_status(error)),
            }
        }
        given(ListGroupsResponse { groups })
    }

    pub(super) async fn describe(&self, id: &str) -> Answered<DescribeGroupResponse> {
        let group = convert::group_id(id)?;
        match self.ask_group(&group, Request::DescribeGroup(group.clone())).await? {
            Response::Group(found) => given(DescribeGroupResponse {
                group: Some(convert::listed(&found.listed)),
                epoch: found.epoch,
                assignment_epoch: found.epoch,
                assignor: found.assignor,
                members: found.members.into_iter().map(convert::member).collect(),
                coordinator: self.core.partitions.me().get(),
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn forget(&self, id: &str) -> Answered<DeleteGroupResponse> {
        let group = convert::group_id(id)?;
        match self.ask_group(&group, Request::DeleteGroup(group.clone())).await? {
            Response::Deleted => given(DeleteGroupResponse {}),
            other => Err(unexpected(&other)),
        }
    }
}
