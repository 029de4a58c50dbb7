//! The gRPC services of a made-up broker.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use highwater_protocol::{status_from_error, v1};
use highwater_types::ErrorCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};
use v1::admin_server::{Admin, AdminServer};
use v1::coordinator_server::CoordinatorServer;
use v1::data_server::{Data, DataServer};
use v1::list_offsets_partition::At;
use v1::metadata_server::{Metadata, MetadataServer};

use super::{CLUSTER, Fake, OnFetch, OnProduce, error};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub(super) struct Broker {
    pub fake: Arc<Fake>,
    pub id: u32,
}

pub fn router(fake: Arc<Fake>, id: u32) -> Router {
    let broker = Broker { fake, id };
    Server::builder()
        .add_service(MetadataServer::new(broker.clone()))
        .add_service(DataServer::new(broker.clone()).max_decoding_message_size(128 << 20))
        .add_service(CoordinatorServer::new(broker.clone()))
        .add_service(AdminServer::new(broker))
}

impl Broker {
    fn is_alive(&self) -> bool {
        self.fake.lock().ports.contains_key(&self.id)
    }

    fn image(&self, names: &[String]) -> v1::MetadataUpdate {
        let state = self.fake.lock();
        let broker = |(id, port): (&u32, &u16)| v1::BrokerInfo {
            broker_id: *id,
            endpoint: Some(v1::Endpoint { host: "127.0.0.1".into(), port: (*port).into() }),
            ..Default::default()
        };
        let named = |topic: &&v1::TopicInfo| names.is_empty() || names.contains(&topic.name);
        v1::MetadataUpdate {
            version: state.version,
            snapshot: true,
            brokers: state.ports.iter().map(broker).collect(),
            topics: state.topics.values().filter(named).cloned().collect(),
            cluster_id: CLUSTER.into(),
            ..Default::default()
        }
    }

    /// Why this broker can't serve the partition, if so.
    pub(super) fn refusal(&self, topic_id: &[u8], partition: u32, epoch: i32) -> Option<v1::Error> {
        let state = self.fake.lock();
        let Some(topic) = state.topics.values().find(|topic| topic.topic_id == topic_id) else {
            return Some(error(ErrorCode::UnknownTopicId));
        };
        let known = &topic.partitions[partition as usize];
        if known.leader == Some(self.id) {
            return (epoch >= 0 && epoch < known.leader_epoch).then(|| error(ErrorCode::FencedLeaderEpoch));
        }
        let mut refusal = error(ErrorCode::NotLeader);
        if let Some(leader) = known.leader.filter(|_| state.hint) {
            refusal.leader = Some(v1::LeaderHint {
                node_id: leader.into(),
                host: "127.0.0.1".into(),
                port: state.ports[&leader].into(),
                leader_epoch: known.leader_epoch,
            });
        }
        Some(refusal)
    }

    fn append(&self, request: &v1::ProduceRequest) -> Vec<v1::ProducePartitionResult> {
        let one = |partition: &v1::ProducePartition| {
            let mut result = v1::ProducePartitionResult {
                topic_id: partition.topic_id.clone(),
                partition: partition.partition,
                log_append_time_ms: -1,
                ..Default::default()
            };
            result.error = self.refusal(&partition.topic_id, partition.partition, partition.leader_epoch);
            if result.error.is_none() {
                let mut state = self.fake.lock();
                let log = state.logs.entry((partition.topic_id.to_vec(), partition.partition)).or_default();
                log.epoch = partition.leader_epoch;
                match log.append_checked(&partition.records) {
                    Ok(base) => result.base_offset = base,
                    Err(code) => result.error = Some(error(code)),
                }
            }
            result
        };
        let results = request.partitions.iter().map(one).collect();
        self.fake.grown.notify_waiters();
        results
    }

    /// Handles one produce request; false ends the stream.
    async fn produce_one(
        &self,
        request: v1::ProduceRequest,
        answers: &mpsc::UnboundedSender<Result<v1::ProduceResponse, Status>>,
    ) -> bool {
        let action = {
            let mut state = self.fake.lock();
            state.produced.push((self.id, request.clone()));
            state.on_produce.pop_front().unwrap_or(OnProduce::Accept)
        };
        let refused = |error: v1::Error| {
            let one = |partition: &v1::ProducePartition| v1::ProducePartitionResult {
                topic_id: partition.topic_id.clone(),
                partition: partition.partition,
                error: Some(error.clone()),
                ..Default::default()
            };
            request.partitions.iter().map(one).collect()
        };
        let partitions = match action {
            OnProduce::Accept => self.append(&request),
            OnProduce::Refuse(error) => refused(error),
            OnProduce::AppendThenFail(error) => {
                self.append(&request);
                refused(error)
            }
            OnProduce::AppendThenDrop => {
                self.append(&request);
                return false;
            }
            OnProduce::Drop => return false,
            OnProduce::Ignore => return true,
            OnProduce::Hold => {
                let (broker, answers) = (self.clone(), answers.clone());
                tokio::spawn(async move {
                    let _ = broker.fake.held.subscribe().wait_for(|held| !held).await;
                    let partitions = broker.append(&request);
                    let _ = answers.send(Ok(v1::ProduceResponse {
                        request_id: request.request_id,
                        partitions,
                        error: None,
                    }));
                });
                return true;
            }
        };
        if request.acks != i32::from(v1::Acks::None) {
            let _ = answers.send(Ok(v1::ProduceResponse { request_id: request.request_id, partitions, error: None }));
        }
        true
    }

    fn fetch_now(&self, request: &v1::FetchRequest, damage: bool) -> Vec<v1::FetchPartitionResult> {
        let mut results = Vec::new();
        for partition in &request.partitions {
            let mut result = v1::FetchPartitionResult {
                topic_id: partition.topic_id.clone(),
                partition: partition.partition,
                ..Default::default()
            };
            result.error = self.refusal(&partition.topic_id, partition.partition, partition.leader_epoch);
            let state = self.fake.lock();
            if let Some(preferred) = state.preferred.filter(|_| !request.rack.is_empty()) {
                if preferred == self.id {
                    result.error = None;
                } else if result.error.is_none() && !partition.not_elsewhere {
                    result.preferred_replica = Some(preferred);
                    results.push(result);
                    continue;
                }
            }
            let log = state.logs.get(&(partition.topic_id.to_vec(), partition.partition));
            if let (None, Some(log)) = (&result.error, log) {
                if !(log.start..=log.end()).contains(&partition.fetch_offset) {
                    result.error = Some(error(ErrorCode::OffsetOutOfRange).with_valid_offsets(log.start, log.end()));
                } else {
                    let mut bytes = log.read(partition.fetch_offset, partition.max_bytes as usize);
                    if damage && let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                    result.records = bytes.into();
                    if request.isolation_level == i32::from(v1::IsolationLevel::ReadCommitted) {
                        let aborted = log.aborted_from(partition.fetch_offset).into_iter();
                        let one = |(producer_id, first_offset)| v1::AbortedTransaction { producer_id, first_offset };
                        result.aborted = aborted.map(one).collect();
                    }
                }
            }
            if result.error.is_some() || !result.records.is_empty() {
                results.push(result);
            }
        }
        results
    }

    async fn fetch_one(
        &self,
        request: v1::FetchRequest,
        answers: &mpsc::UnboundedSender<Result<v1::FetchResponse, Status>>,
    ) -> bool {
        let action = {
            let mut state = self.fake.lock();
            state.fetched.push((self.id, request.clone()));
            state.on_fetch.pop_front().unwrap_or(OnFetch::Serve)
        };
        let answer = |partitions, error| v1::FetchResponse { request_id: request.request_id, partitions, error };
        match action {
            OnFetch::Drop => return false,
            OnFetch::Refuse(error) => {
                let _ = answers.send(Ok(answer(Vec::new(), Some(error))));
            }
            OnFetch::Diverge { leader_epoch, end_offset } => {
                let one = |partition: &v1::FetchPartition| v1::FetchPartitionResult {
                    topic_id: partition.topic_id.clone(),
                    partition: partition.partition,
                    diverging: Some(v1::EpochEndOffset { leader_epoch, end_offset }),
                    ..Default::default()
                };
                let _ = answers.send(Ok(answer(request.partitions.iter().map(one).collect(), None)));
            }
            OnFetch::Serve | OnFetch::Damage => {
                let (broker, answers) = (self.clone(), answers.clone());
                let damage = matches!(action, OnFetch::Damage);
                tokio::spawn(async move {
                    let waiting = async {
                        let mut changed = broker.fake.changed.subscribe();
                        loop {
                            let grown = broker.fake.grown.notified();
                            tokio::pin!(grown);
                            grown.as_mut().enable();
                            let found = broker.fetch_now(&request, damage);
                            if !found.is_empty() {
                                return found;
                            }
                            tokio::select! { () = grown => {}, _ = changed.changed() => {} }
                        }
                    };
                    let wait = Duration::from_millis(request.max_wait_ms.into());
                    let partitions = tokio::time::timeout(wait, waiting).await.unwrap_or_default();
                    let id = request.request_id;
                    let _ = answers.send(Ok(v1::FetchResponse { request_id: id, partitions, error: None }));
                });
            }
        }
        true
    }

    /// Runs `one` for each request until it says false, the client ends, or the broker dies.
    fn serve<Q: Send + 'static, A: Send + 'static, F>(
        &self,
        mut requests: Streaming<Q>,
        one: impl Fn(Self, Q, mpsc::UnboundedSender<Result<A, Status>>) -> F + Send + 'static,
    ) -> Response<Answers<A>>
    where
        F: Future<Output = bool> + Send,
    {
        let (answers, receiver) = mpsc::unbounded_channel();
        let broker = self.clone();
        tokio::spawn(async move {
            let mut changed = broker.fake.changed.subscribe();
            loop {
                tokio::select! {
                    request = requests.next() => {
                        let Some(Ok(request)) = request else { return };
                        if !one(broker.clone(), request, answers.clone()).await {
                            let _ = answers.send(Err(Status::unavailable("scripted end of the stream")));
                            return;
                        }
                    }
                    _ = changed.changed() => if !broker.is_alive() {
                        let _ = answers.send(Err(Status::unavailable("killed")));
                        return;
                    },
                }
            }
        });
        let answers = UnboundedReceiverStream::new(receiver);
        // An error ends the answers.
        let answers = answers.scan(false, |ended, answer: Result<A, Status>| {
            let over = std::mem::replace(ended, answer.is_err());
            futures::future::ready(if over { None } else { Some(answer) })
        });
        Response::new(Box::pin(answers))
    }
}

#[tonic::async_trait]
impl Metadata for Broker {
    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::MetadataUpdate>, Status> {
        Ok(Response::new(self.image(&request.into_inner().topics)))
    }

    type WatchMetadataStream = Answers<v1::MetadataUpdate>;

    async fn watch_metadata(
        &self,
        _: Request<v1::WatchMetadataRequest>,
    ) -> Result<Response<Self::WatchMetadataStream>, Status> {
        let (updates, receiver) = mpsc::unbounded_channel();
        let broker = self.clone();
        tokio::spawn(async move {
            let mut changed = broker.fake.changed.subscribe();
            while broker.is_alive() && updates.send(Ok(broker.image(&[]))).is_ok() {
                tokio::select! { _ = changed.changed() => {}, () = updates.closed() => return }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Data for Broker {
    type ProduceStream = Answers<v1::ProduceResponse>;
    async fn produce(
        &self,
        requests: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        Ok(self.serve(requests.into_inner(), |broker, request, answers| async move {
            broker.produce_one(request, &answers).await
        }))
    }

    type FetchStream = Answers<v1::FetchResponse>;
    async fn fetch(
        &self,
        requests: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        Ok(self.serve(requests.into_inner(), |broker, request, answers| async move {
            broker.fetch_one(request, &answers).await
        }))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let one = |asked: &v1::ListOffsetsPartition| {
            let mut result = v1::ListOffsetsPartitionResult {
                topic_id: asked.topic_id.clone(),
                partition: asked.partition,
                offset: -1,
                timestamp_ms: -1,
                ..Default::default()
            };
            result.error = self.refusal(&asked.topic_id, asked.partition, asked.leader_epoch);
            if result.error.is_none() {
                let mut state = self.fake.lock();
                let log = state.logs.entry((asked.topic_id.to_vec(), asked.partition)).or_default();
                match asked.at {
                    Some(At::TimestampMs(time)) => {
                        if let Some((offset, time)) = log.offset_for(time) {
                            (result.offset, result.timestamp_ms) = (offset, time);
                        }
                    }
                    Some(At::Latest(_)) => result.offset = log.end(),
                    _ => result.offset = log.start,
                }
            }
            result
        };
        let partitions = request.into_inner().partitions.iter().map(one).collect();
        Ok(Response::new(v1::ListOffsetsResponse { partitions }))
    }

    async fn offsets_for_leader_epoch(
        &self,
        _: Request<v1::OffsetsForLeaderEpochRequest>,
    ) -> Result<Response<v1::OffsetsForLeaderEpochResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }
}

macro_rules! unscripted {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl Admin for Broker {
            async fn create_topic(
                &self,
                request: Request<v1::CreateTopicRequest>,
            ) -> Result<Response<v1::CreateTopicResponse>, Status> {
                self.scripted_admin()?;
                let request = request.into_inner();
                self.fake.create_topic(&request.name, &vec![self.id; request.partitions as usize]);
                let topic = self.fake.lock().topics.get(&request.name).cloned();
                Ok(Response::new(v1::CreateTopicResponse { topic }))
            }
            async fn describe_cluster(
                &self,
                _: Request<v1::DescribeClusterRequest>,
            ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
                self.scripted_admin()?;
                Ok(Response::new(v1::DescribeClusterResponse { cluster_id: CLUSTER.into(), ..Default::default() }))
            }
            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                self.scripted_admin()?;
                Ok(Response::new(Default::default()))
            })*
        }
    };
}

unscripted! {
    delete_topic(v1::DeleteTopicRequest) -> v1::DeleteTopicResponse;
    elect_leaders(v1::ElectLeadersRequest) -> v1::ElectLeadersResponse;
    describe_log_dirs(v1::DescribeLogDirsRequest) -> v1::DescribeLogDirsResponse;
    alter_topic(v1::AlterTopicRequest) -> v1::AlterTopicResponse;
    delete_records(v1::DeleteRecordsRequest) -> v1::DeleteRecordsResponse;
    describe_topic_configs(v1::DescribeTopicConfigsRequest) -> v1::DescribeTopicConfigsResponse;
    describe_partitions(v1::DescribePartitionsRequest) -> v1::DescribePartitionsResponse;
    elect_preferred_leaders(v1::ElectPreferredLeadersRequest) -> v1::ElectPreferredLeadersResponse;
    add_controller(v1::AddControllerRequest) -> v1::AddControllerResponse;
    remove_controller(v1::RemoveControllerRequest) -> v1::RemoveControllerResponse;
}

impl Broker {
    fn scripted_admin(&self) -> Result<(), Status> {
        let mut state = self.fake.lock();
        state.admin_calls += 1;
        state.on_admin.pop_front().map_or(Ok(()), |error| Err(status_from_error(error)))
    }
}
