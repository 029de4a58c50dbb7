//! One broker without controllers: images are injected, followers are played by the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_metadata::{BrokerState, ClusterImage, Endpoint, PartitionState, Record, TopicState};
use highwater_protocol::v1::data_client::DataClient;
use highwater_protocol::{MESSAGE_SIZE_MAX, code_of, topic_id_bytes, v1};
use highwater_record::{BatchBuilder, Compression};
use highwater_replication::FollowerFetch;
use highwater_seams::{Seams, channel};
use highwater_storage::sim::SimDisk;
use highwater_types::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::config::BrokerConfig;
use crate::core::Core;
use crate::partition::{FollowChange, IsrProposal, Partition};
use crate::partitions::LastRun;
use crate::server;
use crate::services::data::DataService;
use crate::tasks;

/// For everything that should happen at once.
const DEADLINE: Duration = Duration::from_secs(20);
pub(super) const ME: u32 = 1;

pub(super) fn broker(id: u32) -> BrokerId {
    BrokerId::new(id)
}

/// Fails the test if `what` does not come about.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("within the deadline")
}

/// Looks until `condition` holds.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub(crate) struct TestBroker {
    pub core: Arc<Core>,
    pub disk: SimDisk,
    pub image: ClusterImage,
    pub last_run: LastRun,
    pub proposals: mpsc::UnboundedReceiver<IsrProposal>,
    pub following: mpsc::UnboundedReceiver<FollowChange>,
    pub port: u16,
    tasks: TaskTracker,
    stop: CancellationToken,
    next_topic: u128,
}

impl TestBroker {
    pub async fn start() -> Self {
        Self::start_with(SimDisk::new(7), |_| {}).await
    }

    pub async fn start_with(disk: SimDisk, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut image = ClusterImage::default();
        image.replay(&Record::ClusterCreated { cluster_id: "test".to_owned() }).unwrap();
        for id in 1..=3 {
            image.replay(&Record::BrokerRegistered { broker: state_of(id, 10 + i64::from(id)) }).unwrap();
        }
        Self::start_with_image(disk, image, change).await
    }

    /// `image` is the first that it hears of.
    pub async fn start_with_image(disk: SimDisk, image: ClusterImage, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut config = BrokerConfig {
            id: broker(ME),
            data_dirs: vec![PathBuf::from("/data")],
            disk_reserve_bytes: 1 << 20,
            ..BrokerConfig::default()
        };
        change(&mut config);
        let seams = Seams::real();
        let (core, last_run, proposals, following) = server::open(config, &seams, &disk.mount()).await.unwrap();
        let listener = seams.net.bind("127.0.0.1", 0).await.unwrap();
        let (port, stop, tasks) = (listener.port(), CancellationToken::new(), TaskTracker::new());
        let routes = tonic::service::Routes::new(DataService::new(core.clone()));
        drop(server::serve(listener, routes, &core, stop.clone()));
        tasks::start_without_cluster(&tasks, &core);
        let this = Self { core, disk, image, last_run, proposals, following, port, tasks, stop, next_topic: 0x100 };
        this.apply().await;
        this
    }

    /// Stops as a process is killed: the disk keeps what the page cache had.
    pub async fn kill(self) -> SimDisk {
        self.core.stopping.cancel();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.disk.crash(highwater_storage::sim::Crash::Process);
        self.disk
    }

    pub async fn stop_in_order(self, broker_epoch: i64) -> SimDisk {
        self.core.stopping.cancel();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.core.partitions.close(BrokerEpoch::new(broker_epoch)).await;
        self.disk.crash(highwater_storage::sim::Crash::Process);
        self.disk
    }

    pub fn replay(&mut self, record: Record) {
        self.image.replay(&record).unwrap();
    }

    /// Hands the image to the partitions.
    pub async fn apply(&self) {
        self.core.partitions.apply(&Arc::new(self.image.clone())).await;
    }

    /// A topic with the same replicas for each partition, led by the first of `isr`.
    pub async fn topic(&mut self, partitions: u32, replicas: &[u32], configs: &[(&str, &str)]) -> TopicId {
        self.next_topic += 1;
        let id = TopicId::from_u128(self.next_topic);
        let replicas: Vec<BrokerId> = replicas.iter().map(|id| broker(*id)).collect();
        let state = PartitionState::new(replicas.clone(), replicas);
        let configs: BTreeMap<String, String> =
            configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let name = format!("topic-{}", self.next_topic).parse().unwrap();
        let partitions = vec![state; partitions as usize];
        self.replay(Record::TopicCreated { topic: TopicState { id, name, partitions, configs } });
        self.apply().await;
        id
    }

    /// The controller changes a partition.
    pub async fn change(&mut self, tp: TopicPartition, change: impl FnOnce(&mut PartitionState)) {
        let mut state = self.image.partition(tp).unwrap().clone();
        let leader = state.leader;
        change(&mut state);
        state.partition_epoch = state.partition_epoch.next();
        if state.leader != leader {
            state.leader_epoch = state.leader_epoch.next();
        }
        self.replay(Record::PartitionChanged { partition: tp, state });
        self.apply().await;
    }

    pub fn partition(&self, tp: TopicPartition) -> Arc<Partition> {
        self.core.partitions.find(tp).unwrap()
    }

    pub fn high_watermark(&self, tp: TopicPartition) -> i64 {
        self.partition(tp).positions().unwrap().1.get()
    }

    pub fn log_end(&self, tp: TopicPartition) -> i64 {
        self.partition(tp).positions().unwrap().0.end.get()
    }

    /// A follower acknowledges everything below `offset`, in the partition's present leader epoch.
    pub fn acknowledge(&self, tp: TopicPartition, follower: u32, offset: i64) {
        let state = self.image.partition(tp).unwrap();
        let (ends, _) = self.partition(tp).positions().unwrap();
        let last = if offset > ends.start.get() { state.leader_epoch } else { LeaderEpoch::NONE };
        let fetch = FollowerFetch {
            disk_full: false,
            follower: broker(follower),
            broker_epoch: BrokerEpoch::new(10 + i64::from(follower)),
            leader_epoch: state.leader_epoch,
            fetch_offset: Offset::new(offset),
            durable_offset: Offset::new(offset),
            last_fetched_epoch: last,
            log_start_offset: ends.start,
        };
        let read = self.partition(tp).replica_fetch(&fetch, 0, false).unwrap();
        assert_eq!(read.diverging, None);
    }

    pub fn client(&self) -> DataClient<Channel> {
        let net = Seams::real().net;
        DataClient::new(channel(&net, "127.0.0.1", self.port)).max_decoding_message_size(MESSAGE_SIZE_MAX)
    }

    pub async fn producer(&self) -> Producer {
        let (requests, outbound) = mpsc::channel(64);
        let answers = soon(self.client().produce(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        Producer { requests: Some(requests), answers }
    }

    /// One request on a stream of its own.
    pub async fn produce(&self, request: v1::ProduceRequest) -> v1::ProduceResponse {
        let mut producer = self.producer().await;
        producer.send(request).await;
        producer.answer().await
    }

    /// Appends `batch` to one partition with `acks`, and the one result.
    pub async fn produce_to(&self, tp: TopicPartition, acks: v1::Acks, batch: Bytes) -> v1::ProducePartitionResult {
        let response = self.produce(request(1, acks, &[(tp, batch)])).await;
        assert_eq!(response.error, None);
        let [result] = <[_; 1]>::try_from(response.partitions).unwrap();
        result
    }

    pub async fn consumer(&self) -> Consumer {
        let (requests, outbound) = mpsc::channel(64);
        let answers = soon(self.client().fetch(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        Consumer { requests: Some(requests), answers }
    }

    /// One fetch of one partition, without waiting.
    pub async fn fetch(&self, tp: TopicPartition, offset: i64) -> v1::FetchResponse {
        let mut consumer = self.consumer().await;
        consumer.send(fetch_request(1, Duration::ZERO, &[(tp, offset)])).await;
        consumer.answer().await
    }

    /// The records of one partition from `offset` on, as (offset, value).
    pub async fn read(&self, tp: TopicPartition, offset: i64) -> Vec<(i64, String)> {
        let response = self.fetch(tp, offset).await;
        response.partitions.iter().flat_map(|result| records(result, offset)).collect()
    }
}

/// The records of a result from `offset` on.
pub(super) fn records(result: &v1::FetchPartitionResult, offset: i64) -> Vec<(i64, String)> {
    assert_eq!(result.error, None);
    let batches = highwater_record::split(result.records.clone()).unwrap();
    let records = batches.iter().flat_map(|batch| batch.records(1 << 20).unwrap());
    let records = records.map(Result::unwrap).filter(|record| record.offset.get() >= offset);
    let text = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    records.map(|record| (record.offset.get(), text(record.value))).collect()
}

fn state_of(id: u32, epoch: i64) -> BrokerState {
    let endpoint = Endpoint::new(format!("host-{id}"), 9000 + id as u16);
    BrokerState {
        id: broker(id),
        incarnation: IncarnationId::from_u128(id.into()),
        broker_epoch: BrokerEpoch::new(epoch),
        client_endpoint: endpoint.clone(),
        internal_endpoint: endpoint,
        listeners: Vec::new(),
        rack: None,
        fenced: false,
        shutting_down: false,
    }
}

/// A stream of produce requests.
pub(crate) struct Producer {
    requests: Option<mpsc::Sender<v1::ProduceRequest>>,
    answers: Streaming<v1::ProduceResponse>,
}

impl Producer {
    pub async fn send(&self, request: v1::ProduceRequest) {
        soon(self.requests.as_ref().unwrap().send(request)).await.unwrap();
    }
    pub async fn answer(&mut self) -> v1::ProduceResponse {
        soon(self.answers.message()).await.unwrap().expect("an answer")
    }
    /// Nothing comes for a while.
    pub async fn no_answer(&mut self) {
        let answer = tokio::time::timeout(Duration::from_millis(100), self.answers.message()).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    /// The status with which the stream ended, if it did.
    pub async fn next_status(&mut self) -> Option<tonic::Status> {
        soon(self.answers.message()).await.err()
    }
    pub fn end_requests(&mut self) {
        self.requests = None;
    }
    pub async fn ended(&mut self) -> bool {
        soon(self.answers.message()).await.unwrap().is_none()
    }
}

/// A stream of fetch requests.
pub(crate) struct Consumer {
    requests: Option<mpsc::Sender<v1::FetchRequest>>,
    pub answers: Streaming<v1::FetchResponse>,
}

impl Consumer {
    pub async fn send(&self, request: v1::FetchRequest) {
        soon(self.requests.as_ref().unwrap().send(request)).await.unwrap();
    }
    pub async fn answer(&mut self) -> v1::FetchResponse {
        soon(self.answers.message()).await.unwrap().expect("an answer")
    }
    pub async fn no_answer(&mut self) {
        let answer = tokio::time::timeout(Duration::from_millis(100), self.answers.message()).await;
        assert!(answer.is_err(), "{answer:?}");
    }
}

pub(super) fn partition_of(topic: TopicId, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, PartitionId::new(partition))
}

/// One batch of these values.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    batch_at(values, 1_000)
}

pub(super) fn batch_at(values: &[&str], timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, None);
    for value in values {
        builder.append(TimestampMs::new(timestamp), None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap()
}

pub(super) fn request(request_id: u64, acks: v1::Acks, partitions: &[(TopicPartition, Bytes)]) -> v1::ProduceRequest {
    let partition = |(tp, records): &(TopicPartition, Bytes)| v1::ProducePartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: -1,
        records: records.clone(),
    };
    let partitions = partitions.iter().map(partition).collect();
    v1::ProduceRequest { request_id, acks: acks.into(), timeout_ms: 5_000, partitions, transactional_id: String::new() }
}

pub(super) fn fetch_request(
    request_id: u64,
    max_wait: Duration,
    partitions: &[(TopicPartition, i64)],
) -> v1::FetchRequest {
    let partition = |(tp, offset): &(TopicPartition, i64)| v1::FetchPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        fetch_offset: *offset,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 0,
        not_elsewhere: false,
    };
    v1::FetchRequest {
        request_id,
        max_wait_ms: max_wait.as_millis() as u32,
        min_bytes: 1,
        max_bytes: 0,
        partitions: partitions.iter().map(partition).collect(),
        rack: String::new(),
        isolation_level: 0,
    }
}

/// The code of a result that failed.
#[track_caller]
pub(super) fn failed(error: &Option<v1::Error>) -> ErrorCode {
    code_of(error.as_ref().expect("an error"))
}
