//! The Coordinator service: decode, one call of a coordinator, encode.

mod classic;
mod convert;
mod groups;

use std::sync::Arc;

use highwater_coordination::transaction;
use highwater_coordination::{ProducerIdentity, partition_for_id};
use highwater_metadata::ClusterImage;
use highwater_protocol::v1::coordinator_server::Coordinator;
use highwater_protocol::v1::*;
use highwater_protocol::{status_from_error, v1::Error as WireError};
use highwater_record::{EndTransactionMarker, TransactionResult};
use highwater_seams::Entropy;
use highwater_types::{ErrorCode, GROUPS_TOPIC, ProducerEpoch, TRANSACTIONS_TOPIC, TopicPartition};
use tonic::{Request, Response, Status};

pub(crate) use self::convert::call_error;
use super::error::to_wire;
use super::metadata::endpoint;
use crate::coordinator::{CallError, Coordinators};
use crate::core::Core;
use crate::partition::{EndedBy, TransactionEnd};
use crate::transaction::verify::Verifier;

/// See the module.
pub struct CoordinatorService {
    core: Arc<Core>,
    coordinators: Arc<Coordinators>,
    /// Asks the coordinators of transactions.
    verifier: Arc<dyn Verifier>,
    /// For ids of members.
    entropy: Arc<dyn Entropy>,
}

type Answered<T> = Result<Response<T>, Status>;

fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    status_from_error(WireError::new(code, message))
}

fn unexpected(response: &transaction::Response) -> Status {
    refuse(ErrorCode::Internal, format!("a coordinator's answer is of another kind: {response:?}"))
}

impl CoordinatorService {
    pub(crate) fn new(
        core: Arc<Core>,
        coordinators: Arc<Coordinators>,
        verifier: Arc<dyn Verifier>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self { core, coordinators, verifier, entropy }
    }

    fn status(&self, error: CallError<transaction::Error>) -> Status {
        let image = self.core.partitions.image();
        status_from_error(convert::call_error(error, &image, transaction::Error::code))
    }

    /// Refused, the asker tries again: this broker may be behind with the metadata.
    fn check_known(&self, partitions: &[TopicPartition]) -> Result<(), Status> {
        let image = self.core.partitions.image();
        match partitions.iter().find(|tp| image.partition(**tp).is_none()) {
            None => Ok(()),
            Some(tp) => {
                let what = format!("the transaction's coordinator knows no partition {tp} (yet)");
                Err(refuse(ErrorCode::UnknownTopicId, what))
            }
        }
    }

    /// Asks the coordinator of a transactional id.
    async fn ask(&self, id: &str, request: transaction::Request) -> Result<transaction::Response, Status> {
        self.coordinators.transactions.call_for(id, request).await.map_err(|error| self.status(error))
    }
}

/// Who leads the partition that keeps `key`.
fn coordinator_of(image: &ClusterImage, topic: &str, key: &str) -> Result<FindCoordinatorResponse, WireError> {
    let not_available = |why: &str| WireError::new(ErrorCode::CoordinatorNotAvailable, why);
    let topic =
        image.topic_by_name(topic).ok_or_else(|| not_available("the internal topic is being made; ask again"))?;
    let partition = partition_for_id(key, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX));
    let leader = topic.partition(partition).and_then(|state| state.leader).and_then(|leader| image.broker(leader));
    let leader = leader.ok_or_else(|| {
        not_available(&format!("partition {partition} of {}, which keeps {key:?}, has no leader now", topic.name))
    })?;
    Ok(FindCoordinatorResponse { broker_id: leader.id.get(), endpoint: Some(endpoint(&leader.client_endpoint)) })
}

#[tonic::async_trait]
impl Coordinator for CoordinatorService {
    async fn find_coordinator(&self, request: Request<FindCoordinatorRequest>) -> Answered<FindCoordinatorResponse> {
        let request = request.into_inner();
        match request.kind() {
            CoordinatorKind::Transaction => {
                convert::transactional_id(&request.key)?;
                self.coordinators.make_transactions_topic().await.map_err(status_from_error)?;
                let found = coordinator_of(&self.core.partitions.image(), TRANSACTIONS_TOPIC, &request.key);
                found.map(Response::new).map_err(status_from_error)
            }
            CoordinatorKind::Group => {
                convert::group_id(&request.key)?;
                self.coordinators.make_groups_topic().await.map_err(status_from_error)?;
                let found = coordinator_of(&self.core.partitions.image(), GROUPS_TOPIC, &request.key);
                found.map(Response::new).map_err(status_from_error)
            }
            CoordinatorKind::Unspecified => {
                Err(refuse(ErrorCode::InvalidRequest, "the kind of coordinator is not stated: group or transaction"))
            }
        }
    }

    async fn init_producer_id(&self, request: Request<InitProducerIdRequest>) -> Answered<InitProducerIdResponse> {
        let request = request.into_inner();
        let ids = &self.coordinators.producer_ids;
        let given = |producer: ProducerIdentity| {
            let (producer_id, producer_epoch) = (producer.id.get(), producer.epoch.get().into());
            Ok(Response::new(InitProducerIdResponse { producer_id, producer_epoch }))
        };
        if request.transactional_id.is_empty() {
            let id = ids.next().await.map_err(status_from_error)?;
            return given(ProducerIdentity { id, epoch: ProducerEpoch::FIRST });
        }
        let transactional_id = convert::transactional_id(&request.transactional_id)?;
        let current = match request.producer_id {
            -1 => None,
            id => Some(convert::producer(id, request.producer_epoch)?),
        };
        let fresh = ids.next().await.map_err(status_from_error)?;
        let timeout_ms = request.transaction_timeout_ms;
        let asked = transaction::Request::InitProducerId { transactional_id, timeout_ms, current, fresh };
        match self.ask(&request.transactional_id, asked).await? {
            transaction::Response::Producer(producer) => given(producer),
            other => Err(unexpected(&other)),
        }
    }

    async fn add_partitions_to_transaction(
        &self,
        request: Request<AddPartitionsToTransactionRequest>,
    ) -> Answered<AddPartitionsToTransactionResponse> {
        let request = request.into_inner();
        let mut partitions =
            convert::partitions(&request.partitions, self.core.config.limits.partitions_per_request_max)?;
        if !request.group_id.is_empty() {
            partitions.push(self.keeps_group(&convert::group_id(&request.group_id)?)?);
        }
        // What is added is known here, so that later what is not known is deleted, and needs no marker.
        self.check_known(&partitions)?;
        let asked = transaction::Request::AddPartitions {
            transactional_id: convert::transactional_id(&request.transactional_id)?,
            producer: convert::producer(request.producer_id, request.producer_epoch)?,
            partitions,
            verify_only: request.verify_only,
        };
        match self.ask(&request.transactional_id, asked).await? {
            transaction::Response::PartitionsAdded => Ok(Response::new(AddPartitionsToTransactionResponse {})),
            other => Err(unexpected(&other)),
        }
    }

    async fn end_transaction(&self, request: Request<EndTransactionRequest>) -> Answered<EndTransactionResponse> {
        let request = request.into_inner();
        let asked = transaction::Request::EndTransaction {
            transactional_id: convert::transactional_id(&request.transactional_id)?,
            producer: convert::producer(request.producer_id, request.producer_epoch)?,
            result: if request.commit { TransactionResult::Commit } else { TransactionResult::Abort },
            fresh: self.coordinators.producer_ids.next().await.map_err(status_from_error)?,
            keeps_epoch: request.keeps_epoch,
        };
        match self.ask(&request.transactional_id, asked).await? {
            transaction::Response::Ended { next } => Ok(Response::new(EndTransactionResponse {
                producer_id: next.id.get(),
                producer_epoch: next.epoch.get().into(),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_transactions(&self, _: Request<ListTransactionsRequest>) -> Answered<ListTransactionsResponse> {
        let mut transactions = Vec::new();
        for partition in self.coordinators.transactions.loaded() {
            match self.coordinators.transactions.call(partition, transaction::Request::ListTransactions).await {
                Ok(transaction::Response::Transactions(found)) => {
                    transactions.extend(found.into_iter().map(convert::transaction));
                }
                Ok(other) => return Err(unexpected(&other)),
                // Not coordinated here any more: whoever does lists them.
                Err(CallError::NotCoordinator { .. } | CallError::Lost { .. }) => {}
                Err(error) => return Err(self.status(error)),
            }
        }
        Ok(Response::new(ListTransactionsResponse { transactions }))
    }

    async fn describe_transaction(
        &self,
        request: Request<DescribeTransactionRequest>,
    ) -> Answered<DescribeTransactionResponse> {
        let id = request.into_inner().transactional_id;
        let transactional_id = convert::transactional_id(&id)?;
        match self.ask(&id, transaction::Request::DescribeTransaction { transactional_id }).await? {
            transaction::Response::Transaction(found) => Ok(Response::new(DescribeTransactionResponse {
                transaction: Some(convert::transaction(found)),
                coordinator: self.core.partitions.me().get(),
            })),
            other => Err(unexpected(&other)),
        }
    }

    async fn group_heartbeat(&self, request: Request<GroupHeartbeatRequest>) -> Answered<GroupHeartbeatResponse> {
        self.heartbeat_of_group(request.into_inner()).await
    }
    async fn join_group(&self, request: Request<JoinGroupRequest>) -> Answered<JoinGroupResponse> {
        self.join(request.into_inner()).await
    }
    async fn sync_group(&self, request: Request<SyncGroupRequest>) -> Answered<SyncGroupResponse> {
        self.sync(request.into_inner()).await
    }
    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answered<HeartbeatResponse> {
        self.heartbeat_of_classic(request.into_inner()).await
    }
    async fn leave_group(&self, request: Request<LeaveGroupRequest>) -> Answered<LeaveGroupResponse> {
        self.leave(request.into_inner()).await
    }
    async fn commit_offsets(&self, request: Request<CommitOffsetsRequest>) -> Answered<CommitOffsetsResponse> {
        self.commit(request.into_inner()).await
    }
    async fn fetch_offsets(&self, request: Request<FetchOffsetsRequest>) -> Answered<FetchOffsetsResponse> {
        self.fetch(request.into_inner()).await
    }
    async fn delete_offsets(&self, request: Request<DeleteOffsetsRequest>) -> Answered<DeleteOffsetsResponse> {
        self.delete(request.into_inner()).await
    }
    async fn list_groups(&self, _: Request<ListGroupsRequest>) -> Answered<ListGroupsResponse> {
        self.list().await
    }
    async fn describe_group(&self, request: Request<DescribeGroupRequest>) -> Answered<DescribeGroupResponse> {
        self.describe(&request.into_inner().group_id).await
    }
    async fn delete_group(&self, request: Request<DeleteGroupRequest>) -> Answered<DeleteGroupResponse> {
        self.forget(&request.into_inner().group_id).await
    }
    async fn commit_offsets_in_transaction(
        &self,
        request: Request<CommitOffsetsInTransactionRequest>,
    ) -> Answered<CommitOffsetsInTransactionResponse> {
        self.commit_in_transaction(request.into_inner()).await
    }
    async fn describe_producers(
        &self,
        request: Request<DescribeProducersRequest>,
    ) -> Answered<DescribeProducersResponse> {
        let request = request.into_inner();
        let tp = convert::partition(&request.topic_id, request.partition)?;
        let producers = self.core.partitions.find(tp).and_then(|partition| partition.producers());
        let producers = producers.map_err(|error| status_from_error(to_wire(&error, &self.core.partitions.image())))?;
        let producers = producers.into_iter().map(convert::described_producer).collect();
        Ok(Response::new(DescribeProducersResponse { producers }))
    }

    async fn abort_hanging_transaction(
        &self,
        request: Request<AbortHangingTransactionRequest>,
    ) -> Answered<AbortHangingTransactionResponse> {
        let request = request.into_inner();
        let tp = convert::partition(&request.topic_id, request.partition)?;
        let coordinator_epoch = request.coordinator_epoch;
        let end = TransactionEnd {
            producer: convert::producer(request.producer_id, request.producer_epoch)?,
            marker: EndTransactionMarker { result: TransactionResult::Abort, coordinator_epoch },
            by: EndedBy::Administrator,
        };
        self.coordinators.write_marker(tp, end).await.map_err(status_from_error)?;
        Ok(Response::new(AbortHangingTransactionResponse {}))
    }
}
