//! The brokers, and the controller in a few lines: it takes every ISR proposal, and hands images out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use highwater_metadata::{BrokerState, ClusterImage, Endpoint, PartitionState, Record, TopicState};
use highwater_record::{BatchBuilder, Compression};
use highwater_replication::ProposalOutcome;
use highwater_seams::{Entropy, Seams};
use highwater_storage::ReadPlan;
use highwater_storage::sim::SimDisk;
use highwater_types::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::cluster::Peers;
use crate::config::BrokerConfig;
use crate::core::Core;
use crate::partition::{FetchFrom, IsrProposal, Partition, ReadBounds, ReadRecords};
use crate::produce::{Acks, ProduceAnswer, ProduceRequest, ProduceTo};
use crate::replication::{self, Outside, ReplicationService};
use crate::services::data::DataService;
use crate::{server, tasks};

pub(super) use crate::tests::harness::{eventually, soon};

pub(super) struct Node {
    pub core: Arc<Core>,
    pub disk: SimDisk,
    pub port: u16,
    /// How often its fetchers drew the length of a pause: once for each entry that was refused, and for each lost stream.
    pub pauses: Arc<Pauses>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Default)]
pub(super) struct Pauses(AtomicU64);

impl Pauses {
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Entropy for Pauses {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// `image` is what the controller has decided; who has seen it is up to the test.
pub(super) struct Cluster {
    pub nodes: BTreeMap<u32, Node>,
    pub image: Arc<Mutex<ClusterImage>>,
    /// The nodes that see each change at once.
    seeing: Arc<Mutex<BTreeMap<u32, Arc<Core>>>>,
    next_topic: u128,
}

pub(super) fn epoch_of(id: u32) -> BrokerEpoch {
    BrokerEpoch::new(10 + i64::from(id))
}

impl Cluster {
    pub async fn start(brokers: u32) -> Self {
        let mut image = ClusterImage::default();
        image.replay(&Record::ClusterCreated { cluster_id: "test".to_owned() }).unwrap();
        let mut this =
            Self { nodes: BTreeMap::new(), image: Arc::new(Mutex::new(image)), seeing: Arc::default(), next_topic: 0 };
        for id in 1..=brokers {
            this.start_node(id, SimDisk::new(u64::from(id)), |_| {}).await;
        }
        this
    }

    pub async fn start_node(&mut self, id: u32, disk: SimDisk, change: impl FnOnce(&mut BrokerConfig)) {
        let mut config = BrokerConfig {
            id: BrokerId::new(id),
            data_dirs: vec![PathBuf::from("/data")],
            disk_reserve_bytes: 1 << 20,
            ..BrokerConfig::default()
        };
        change(&mut config);
        let seams = Seams::real();
        let (core, _, proposals, following) = server::open(config, &seams, &disk.mount()).await.unwrap();
        let listener = seams.net.bind("127.0.0.1", 0).await.unwrap();
        let (port, stop, tasks) = (listener.port(), CancellationToken::new(), TaskTracker::new());
        let routes = Routes::new(DataService::new(core.clone()))
            .add_service(ReplicationService::new(core.clone(), tasks.clone()));
        drop(server::serve(listener, routes, &core, stop.clone()));
        tasks::start_without_cluster(&tasks, &core);
        let pauses = Arc::new(Pauses::default());
        let outside = Outside {
            peers: Peers::new(Arc::clone(&seams.net)),
            entropy: pauses.clone(),
            broker_epoch: Box::new(move || epoch_of(id)),
        };
        replication::start(&tasks, &core, Arc::new(outside), following);
        let carried = control(Arc::clone(&self.image), Arc::clone(&self.seeing), Arc::clone(&core), proposals);
        let ended = core.stopping.clone();
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = carried => {}
            }
        });
        self.seeing.lock().unwrap().insert(id, Arc::clone(&core));
        self.nodes.insert(id, Node { core, disk, port, pauses, tasks, stop });
        let endpoint = Endpoint::new("127.0.0.1", port);
        let broker = BrokerState {
            id: BrokerId::new(id),
            incarnation: IncarnationId::from_u128(id.into()),
            broker_epoch: epoch_of(id),
            client_endpoint: endpoint.clone(),
            internal_endpoint: endpoint,
            listeners: Vec::new(),
            rack: None,
            fenced: false,
            shutting_down: false,
        };
        self.decide(Record::BrokerRegistered { broker }).await;
    }

    /// As a process is killed: what the page cache had stays.
    pub async fn kill(&mut self, id: u32) -> SimDisk {
        let node = self.nodes.remove(&id).unwrap();
        self.seeing.lock().unwrap().remove(&id);
        node.core.stopping.cancel();
        node.stop.cancel();
        node.tasks.close();
        soon(node.tasks.wait()).await;
        node.disk.crash(highwater_storage::sim::Crash::Process);
        node.disk
    }

    /// Its image stands still from here on.
    pub fn blind(&self, id: u32) {
        self.seeing.lock().unwrap().remove(&id);
    }

    pub async fn see(&self, id: u32) {
        let core = Arc::clone(&self.nodes[&id].core);
        self.seeing.lock().unwrap().insert(id, Arc::clone(&core));
        let image = Arc::new(self.image.lock().unwrap().clone());
        core.partitions.apply(&image).await;
    }

    pub async fn decide(&self, record: Record) {
        self.image.lock().unwrap().replay(&record).unwrap();
        publish(&self.image, &self.seeing).await;
    }

    pub async fn topic(&mut self, partitions: u32, replicas: &[u32], configs: &[(&str, &str)]) -> TopicId {
        self.topic_with_isr(partitions, replicas, replicas, configs).await
    }

    pub async fn topic_with_isr(
        &mut self,
        partitions: u32,
        replicas: &[u32],
        isr: &[u32],
        configs: &[(&str, &str)],
    ) -> TopicId {
        self.next_topic += 1;
        let id = TopicId::from_u128(self.next_topic);
        let ids = |list: &[u32]| list.iter().map(|id| BrokerId::new(*id)).collect::<Vec<_>>();
        let state = PartitionState::new(ids(replicas), ids(isr));
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let name = format!("topic-{}", self.next_topic).parse().unwrap();
        let topic = TopicState { id, name, partitions: vec![state; partitions as usize], configs };
        self.decide(Record::TopicCreated { topic }).await;
        id
    }

    /// The controller changes a partition.
    pub async fn change(&self, tp: TopicPartition, change: impl FnOnce(&mut PartitionState)) {
        let state = {
            let image = self.image.lock().unwrap();
            let mut state = image.partition(tp).unwrap().clone();
            let leader = state.leader;
            change(&mut state);
            state.partition_epoch = state.partition_epoch.next();
            if state.leader != leader {
                state.leader_epoch = state.leader_epoch.next();
            }
            state
        };
        self.decide(Record::PartitionChanged { partition: tp, state }).await;
    }

    pub fn isr(&self, tp: TopicPartition) -> Vec<u32> {
        self.image.lock().unwrap().partition(tp).unwrap().isr.iter().map(|b| b.get()).collect()
    }

    pub fn partition(&self, id: u32, tp: TopicPartition) -> Arc<Partition> {
        self.nodes[&id].core.partitions.find(tp).unwrap()
    }
    pub fn high_watermark(&self, id: u32, tp: TopicPartition) -> i64 {
        self.partition(id, tp).positions().unwrap().1.get()
    }
    pub fn log_end(&self, id: u32, tp: TopicPartition) -> i64 {
        self.partition(id, tp).positions().unwrap().0.end.get()
    }
    pub fn log_start(&self, id: u32, tp: TopicPartition) -> i64 {
        self.partition(id, tp).positions().unwrap().0.start.get()
    }
    pub fn durable(&self, id: u32, tp: TopicPartition) -> i64 {
        self.partition(id, tp).positions().unwrap().0.durable.get()
    }

    /// One batch, to whom the caller takes for the leader.
    pub fn append(
        &self,
        id: u32,
        tp: TopicPartition,
        acks: Acks,
        batch: Bytes,
    ) -> mpsc::UnboundedReceiver<ProduceAnswer> {
        let (answers, taken) = mpsc::unbounded_channel();
        let to = ProduceTo { partition: tp, leader_epoch: LeaderEpoch::NONE, records: batch, may_keep: true };
        let request = ProduceRequest { token: 0, acks, transaction: None, partitions: vec![to] };
        let produced = self.nodes[&id].core.partitions.produce(request, 64 << 20, None, &answers);
        produced.now_or_never().expect("what is small is taken at once");
        taken
    }

    /// With `acks=all`: committed when this returns.
    pub async fn commit(&self, id: u32, tp: TopicPartition, batch: Bytes) -> i64 {
        let answer = soon(self.append(id, tp, Acks::All, batch).recv()).await.unwrap();
        answer.results.into_iter().next().unwrap().1.unwrap().base_offset.get()
    }

    /// All bytes of a log, as a follower would read them.
    pub async fn bytes(&self, id: u32, tp: TopicPartition) -> Vec<u8> {
        let partition = self.partition(id, tp);
        let mut all = Vec::new();
        loop {
            let (ends, _) = partition.positions().unwrap();
            let batches = highwater_record::split(Bytes::from(all.clone())).unwrap();
            let from = batches.last().map_or(ends.start, |batch| batch.header().next_offset());
            match partition.read_log(from, 1 << 20).unwrap() {
                ReadPlan::Empty => return all,
                ReadPlan::Cached(pieces) => pieces.iter().for_each(|piece| all.extend_from_slice(piece)),
                ReadPlan::File(file) => all.extend_from_slice(&file.run().await.unwrap()),
            }
        }
    }

    /// Whether a consumer gets the records of `id`'s log at `offset`.
    pub fn reads(&self, id: u32, tp: TopicPartition, offset: i64) -> bool {
        let from = FetchFrom {
            partition: tp,
            offset: Offset::new(offset),
            leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
            isolation: highwater_types::IsolationLevel::ReadUncommitted,
            max_bytes: 1 << 20,
            not_elsewhere: false,
        };
        let bounds = ReadBounds { max_bytes: 1 << 20, at_least_one: true, near: None };
        let read = self.partition(id, tp).fetch(&from, bounds, None);
        read.is_ok_and(|read| !matches!(read.records, ReadRecords::None))
    }

    /// All replicas have the same log, all of it committed.
    pub async fn converged(&self, tp: TopicPartition) {
        let ids: Vec<u32> =
            self.image.lock().unwrap().partition(tp).unwrap().replicas.iter().map(|b| b.get()).collect();
        let ends = |id: &u32| (self.log_end(*id, tp), self.high_watermark(*id, tp));
        eventually(|| ids.iter().all(|id| ends(id) == ends(&ids[0]) && ends(id).0 == ends(id).1)).await;
        let first = self.bytes(ids[0], tp).await;
        for id in &ids[1..] {
            assert!(self.bytes(*id, tp).await == first, "broker {id} has another log");
        }
    }
}

/// Every proposal on the present partition epoch is taken.
async fn control(
    image: Arc<Mutex<ClusterImage>>,
    seeing: Arc<Mutex<BTreeMap<u32, Arc<Core>>>>,
    core: Arc<Core>,
    mut proposals: mpsc::UnboundedReceiver<IsrProposal>,
) {
    while let Some(IsrProposal { partition: tp, proposal }) = proposals.recv().await {
        let outcome = {
            let mut image = image.lock().unwrap();
            let mut state = image.partition(tp).unwrap().clone();
            if state.partition_epoch == proposal.partition_epoch && state.leader_epoch == proposal.leader_epoch {
                state.isr = proposal.new_isr.iter().map(|member| member.broker).collect();
                state.partition_epoch = state.partition_epoch.next();
                let partition_epoch = state.partition_epoch;
                image.replay(&Record::PartitionChanged { partition: tp, state }).unwrap();
                ProposalOutcome::Accepted { partition_epoch }
            } else {
                ProposalOutcome::Stale
            }
        };
        publish(&image, &seeing).await;
        if let Ok(partition) = core.partitions.find(tp) {
            partition.on_proposal_result(&proposal, outcome);
        }
    }
}

/// One image after the other, to each that sees them.
async fn publish(image: &Mutex<ClusterImage>, seeing: &Mutex<BTreeMap<u32, Arc<Core>>>) {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let cores: Vec<_> = seeing.lock().unwrap().values().cloned().collect();
    let image = Arc::new(image.lock().unwrap().clone());
    for core in cores {
        core.partitions.apply(&image).await;
    }
}

pub(super) fn tp(topic: TopicId, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, PartitionId::new(partition))
}

pub(super) fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, None);
    for value in values {
        builder.append(TimestampMs::new(1_000), None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap()
}

/// One record of so many bytes, different by `seed`.
pub(super) fn large(seed: u64, bytes: usize) -> Bytes {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as u8
    };
    let value: Vec<u8> = (0..bytes).map(|_| next()).collect();
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.append(TimestampMs::new(1_000), None, Some(&value), &[]).unwrap();
    builder.build().unwrap()
}
