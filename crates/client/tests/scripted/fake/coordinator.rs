//! The Coordinator service of a made-up broker.

use std::collections::{BTreeMap, VecDeque};

use highwater_protocol::{status_from_error, v1};
use highwater_types::ErrorCode;
use tonic::{Request, Response, Status};
use v1::coordinator_server::Coordinator;

use super::group::FakeGroup;
use super::services::Broker;

/// What becomes of the next call of a method.
#[derive(Debug, Clone)]
pub enum OnCall {
    Serve,
    Refuse(v1::Error),
    /// Does it, and loses the answer.
    ServeThenFail(v1::Error),
}

#[derive(Default)]
pub struct Coordination {
    /// By method name, first to last; then all succeeds.
    pub script: BTreeMap<&'static str, VecDeque<OnCall>>,
    /// Each call: method, and the broker that got it.
    pub calls: Vec<(&'static str, u32)>,
    pub producer_ids: i64,
    pub groups: BTreeMap<String, FakeGroup>,
    pub transactions: BTreeMap<String, FakeTransactions>,
    /// What coordinators list, and leaders know of producers.
    pub listed: Vec<v1::TransactionInfo>,
    pub producers: BTreeMap<u32, Vec<v1::ProducerInfo>>,
    pub repaired: Vec<v1::AbortHangingTransactionRequest>,
    /// Who coordinates everything; 0: broker 1.
    pub coordinator: u32,
    /// The coordinator can't be asked anything.
    pub is_out: bool,
}

/// What a transactional id is up to.
#[derive(Default)]
pub struct FakeTransactions {
    pub producer_id: i64,
    pub epoch: i32,
    /// Epoch and whether it was committed, of each transaction that ended.
    pub ended: Vec<(i32, bool)>,
    /// Of the open one: group, offset.
    pub offsets: Vec<(String, v1::OffsetToCommit)>,
}

impl FakeTransactions {
    fn check(&self, producer_id: i64, epoch: i32) -> Result<(), v1::Error> {
        let current = (self.producer_id, self.epoch) == (producer_id, epoch);
        if current { Ok(()) } else { Err(super::error(ErrorCode::ProducerFenced)) }
    }
}

impl Coordination {
    fn init(&mut self, request: &v1::InitProducerIdRequest) -> v1::InitProducerIdResponse {
        if request.transactional_id.is_empty() {
            self.producer_ids += 1;
            return v1::InitProducerIdResponse { producer_id: self.producer_ids, producer_epoch: 0 };
        }
        let known = self.transactions.get_mut(&request.transactional_id);
        let (producer_id, epoch) = match known {
            Some(known) => {
                known.epoch += 1;
                known.offsets.clear();
                (known.producer_id, known.epoch)
            }
            None => {
                self.producer_ids += 1;
                let new = FakeTransactions { producer_id: self.producer_ids, ..Default::default() };
                self.transactions.insert(request.transactional_id.clone(), new);
                (self.producer_ids, 0)
            }
        };
        v1::InitProducerIdResponse { producer_id, producer_epoch: epoch }
    }

    fn end(&mut self, request: &v1::EndTransactionRequest) -> Result<v1::EndTransactionResponse, v1::Error> {
        let transactions = self.transactions.get_mut(&request.transactional_id);
        let transactions = transactions.ok_or_else(|| super::error(ErrorCode::InvalidProducerIdMapping))?;
        // Asked again.
        if transactions.ended.last() != Some(&(request.producer_epoch, request.commit)) {
            transactions.check(request.producer_id, request.producer_epoch)?;
            transactions.ended.push((request.producer_epoch, request.commit));
            transactions.epoch += 1;
            for (group, offset) in transactions.offsets.drain(..).filter(|_| request.commit) {
                let key = (offset.topic_id.to_vec(), offset.partition);
                self.groups.entry(group).or_default().committed.insert(key, offset);
            }
        }
        Ok(v1::EndTransactionResponse { producer_id: transactions.producer_id, producer_epoch: transactions.epoch })
    }

    fn add_offsets(&mut self, request: v1::CommitOffsetsInTransactionRequest) -> Result<(), v1::Error> {
        let transactions = self.transactions.get_mut(&request.transactional_id);
        let transactions = transactions.ok_or_else(|| super::error(ErrorCode::InvalidProducerIdMapping))?;
        transactions.check(request.producer_id, request.producer_epoch)?;
        let group = self.groups.entry(request.group_id.clone()).or_default();
        if !request.member_id.is_empty() && !group.members.contains_key(&request.member_id) {
            return Err(super::error(ErrorCode::UnknownMemberId));
        }
        transactions.offsets.extend(request.offsets.into_iter().map(|offset| (request.group_id.clone(), offset)));
        Ok(())
    }

    pub fn count(&self, method: &str) -> usize {
        self.calls.iter().filter(|(called, _)| *called == method).count()
    }

    pub fn on(&mut self, method: &'static str, script: impl IntoIterator<Item = OnCall>) {
        self.script.entry(method).or_default().extend(script);
    }
}

impl Broker {
    /// Runs `serve` as the script says.
    fn called<T>(
        &self,
        method: &'static str,
        serve: impl FnOnce(&mut super::State) -> Result<T, v1::Error>,
    ) -> Result<Response<T>, Status> {
        let mut state = self.fake.lock();
        state.coordination.calls.push((method, self.id));
        let action = state.coordination.script.get_mut(method).and_then(VecDeque::pop_front).unwrap_or(OnCall::Serve);
        let lost = match action {
            OnCall::Refuse(error) => return Err(status_from_error(error)),
            OnCall::Serve => None,
            OnCall::ServeThenFail(error) => Some(error),
        };
        let answer = serve(&mut state).map_err(status_from_error)?;
        match lost {
            Some(error) => Err(status_from_error(error)),
            None => Ok(Response::new(answer)),
        }
    }
}

impl Broker {
    /// The same, at the coordinator only.
    fn coordinated<T>(
        &self,
        method: &'static str,
        serve: impl FnOnce(&mut super::State) -> Result<T, v1::Error>,
    ) -> Result<Response<T>, Status> {
        self.called(method, |state| {
            if state.coordination.is_out {
                Err(super::error(ErrorCode::Unavailable))
            } else if state.coordination.coordinator.max(1) == self.id {
                serve(state)
            } else {
                Err(super::error(ErrorCode::NotCoordinator))
            }
        })
    }
}

macro_rules! coordinator {
    ($($unserved:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl Coordinator for Broker {
            async fn init_producer_id(
                &self,
                request: Request<v1::InitProducerIdRequest>,
            ) -> Result<Response<v1::InitProducerIdResponse>, Status> {
                let request = request.into_inner();
                self.called("init_producer_id", |state| Ok(state.coordination.init(&request)))
            }
            async fn end_transaction(
                &self,
                request: Request<v1::EndTransactionRequest>,
            ) -> Result<Response<v1::EndTransactionResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("end_transaction", |state| {
                    let before = state.coordination.transactions.get(&request.transactional_id).map(|t| t.epoch);
                    let answer = state.coordination.end(&request)?;
                    if before != Some(answer.producer_epoch) {
                        let (producer, epoch) = (request.producer_id, request.producer_epoch);
                        state.logs.values_mut().for_each(|log| log.end_transaction(producer, epoch, request.commit));
                    }
                    Ok(answer)
                })
            }
            async fn commit_offsets_in_transaction(
                &self,
                request: Request<v1::CommitOffsetsInTransactionRequest>,
            ) -> Result<Response<v1::CommitOffsetsInTransactionResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("commit_offsets_in_transaction", |state| {
                    state.coordination.add_offsets(request)?;
                    Ok(v1::CommitOffsetsInTransactionResponse::default())
                })
            }
            async fn find_coordinator(
                &self,
                _: Request<v1::FindCoordinatorRequest>,
            ) -> Result<Response<v1::FindCoordinatorResponse>, Status> {
                self.called("find_coordinator", |state| {
                    Ok(v1::FindCoordinatorResponse { broker_id: state.coordination.coordinator.max(1), endpoint: None })
                })
            }
            async fn group_heartbeat(
                &self,
                request: Request<v1::GroupHeartbeatRequest>,
            ) -> Result<Response<v1::GroupHeartbeatResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("group_heartbeat", |state| {
                    let group = state.coordination.groups.entry(request.group_id.clone()).or_default();
                    group.heartbeat(&request, &state.topics)
                })
            }
            async fn commit_offsets(
                &self,
                request: Request<v1::CommitOffsetsRequest>,
            ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("commit_offsets", |state| {
                    state.coordination.groups.entry(request.group_id.clone()).or_default().commit(&request)?;
                    Ok(v1::CommitOffsetsResponse::default())
                })
            }
            async fn fetch_offsets(
                &self,
                request: Request<v1::FetchOffsetsRequest>,
            ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("fetch_offsets", |state| {
                    Ok(state.coordination.groups.entry(request.group_id.clone()).or_default().fetch(&request))
                })
            }
            async fn list_groups(
                &self,
                _: Request<v1::ListGroupsRequest>,
            ) -> Result<Response<v1::ListGroupsResponse>, Status> {
                self.called("list_groups", |state| {
                    let own = state.coordination.coordinator.max(1) == self.id;
                    let groups = state.coordination.groups.iter().filter(|_| own).map(|(id, group)| group.listed(id));
                    Ok(v1::ListGroupsResponse { groups: groups.collect() })
                })
            }
            async fn describe_group(
                &self,
                request: Request<v1::DescribeGroupRequest>,
            ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
                let id = request.into_inner().group_id;
                self.coordinated("describe_group", |state| {
                    let group = state.coordination.groups.get(&id);
                    let group = group.ok_or_else(|| super::error(ErrorCode::GroupIdNotFound))?;
                    Ok(group.described(&id, self.id))
                })
            }
            async fn delete_group(
                &self,
                request: Request<v1::DeleteGroupRequest>,
            ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
                let id = request.into_inner().group_id;
                self.coordinated("delete_group", |state| {
                    match state.coordination.groups.get(&id) {
                        None => return Err(super::error(ErrorCode::GroupIdNotFound)),
                        Some(group) if !group.members.is_empty() => return Err(super::error(ErrorCode::NonEmptyGroup)),
                        Some(_) => drop(state.coordination.groups.remove(&id)),
                    }
                    Ok(v1::DeleteGroupResponse {})
                })
            }
            async fn delete_offsets(
                &self,
                request: Request<v1::DeleteOffsetsRequest>,
            ) -> Result<Response<v1::DeleteOffsetsResponse>, Status> {
                let request = request.into_inner();
                self.coordinated("delete_offsets", |state| {
                    let group = state.coordination.groups.entry(request.group_id.clone()).or_default();
                    for topic in &request.partitions {
                        let gone = |key: &super::group::Key| key.0 == topic.topic_id && topic.partitions.contains(&key.1);
                        group.committed.retain(|key, _| !gone(key));
                    }
                    Ok(v1::DeleteOffsetsResponse::default())
                })
            }
            async fn list_transactions(
                &self,
                _: Request<v1::ListTransactionsRequest>,
            ) -> Result<Response<v1::ListTransactionsResponse>, Status> {
                self.called("list_transactions", |state| {
                    let own = state.coordination.coordinator.max(1) == self.id;
                    let transactions = state.coordination.listed.iter().filter(|_| own).cloned().collect();
                    Ok(v1::ListTransactionsResponse { transactions })
                })
            }
            async fn describe_transaction(
                &self,
                request: Request<v1::DescribeTransactionRequest>,
            ) -> Result<Response<v1::DescribeTransactionResponse>, Status> {
                let id = request.into_inner().transactional_id;
                self.coordinated("describe_transaction", |state| {
                    let found = state.coordination.listed.iter().find(|info| info.transactional_id == id);
                    let found = found.ok_or_else(|| super::error(ErrorCode::TransactionalIdNotFound))?;
                    Ok(v1::DescribeTransactionResponse { transaction: Some(found.clone()), coordinator: self.id })
                })
            }
            async fn describe_producers(
                &self,
                request: Request<v1::DescribeProducersRequest>,
            ) -> Result<Response<v1::DescribeProducersResponse>, Status> {
                let request = request.into_inner();
                if let Some(refusal) = self.refusal(&request.topic_id, request.partition, -1) {
                    return Err(status_from_error(refusal));
                }
                self.called("describe_producers", |state| {
                    let producers = state.coordination.producers.get(&request.partition).cloned().unwrap_or_default();
                    Ok(v1::DescribeProducersResponse { producers })
                })
            }
            async fn abort_hanging_transaction(
                &self,
                request: Request<v1::AbortHangingTransactionRequest>,
            ) -> Result<Response<v1::AbortHangingTransactionResponse>, Status> {
                let request = request.into_inner();
                self.called("abort_hanging_transaction", |state| {
                    state.coordination.repaired.push(request);
                    Ok(v1::AbortHangingTransactionResponse {})
                })
            }
            $(async fn $unserved(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("not in the fake"))
            })*
        }
    };
}

coordinator! {
    join_group(v1::JoinGroupRequest) -> v1::JoinGroupResponse;
    sync_group(v1::SyncGroupRequest) -> v1::SyncGroupResponse;
    heartbeat(v1::HeartbeatRequest) -> v1::HeartbeatResponse;
    leave_group(v1::LeaveGroupRequest) -> v1::LeaveGroupResponse;
    add_partitions_to_transaction(v1::AddPartitionsToTransactionRequest) -> v1::AddPartitionsToTransactionResponse;
}
