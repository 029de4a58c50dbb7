//! All shards of one internal topic that are here, and the way to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use highwater_coordination::{ProducerIdentity, Shard, TopicInfo, Topics, partition_for_id};
use highwater_metadata::{ClusterImage, TopicState};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, LeaderEpoch, PartitionId, TopicPartition, is_internal_topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::CallError;
use super::shard_driver::{Ask, Driver, Phase};
use crate::clock::Clock;
use crate::partition::TransactionEnd;
use crate::partitions::Partitions;
use crate::transaction::verify::Guard;

/// Calls that wait for one shard's turn; beyond it callers wait for room.
const QUEUE_LENGTH: usize = 1024;

/// What a runtime is for.
pub struct RuntimeConfig {
    /// The internal topic.
    pub topic: &'static str,
    /// Bound of one compressed batch of it, taken apart.
    pub decompressed_bytes_max: usize,
}

/// What a shard wants done. Nothing of it may be done before it comes here, and it need not be done any more once `unloaded`.
#[derive(Debug)]
pub struct CoordinatorAction<A> {
    /// Of the internal topic: where the outcome is to be reported, by [`CoordinatorRuntime::call`].
    pub partition: PartitionId,
    /// The coordinator that wants it is over. Its successor, here or elsewhere, wants it anew if it is still to be done.
    pub unloaded: CancellationToken,
    pub action: A,
}

/// What all drivers of a runtime share.
pub(super) struct Context<S: Shard> {
    pub clock: Clock,
    pub partitions: Arc<Partitions>,
    pub make: Box<dyn Fn() -> S + Send + Sync>,
    pub actions: mpsc::UnboundedSender<CoordinatorAction<S::Action>>,
    pub topics: watch::Sender<Topics>,
    pub decompressed_bytes_max: usize,
}

/// One shard that is here, or is being loaded.
struct Running<S: Shard> {
    epoch: LeaderEpoch,
    asks: mpsc::Sender<Ask<S>>,
    phase: watch::Receiver<Phase>,
    unload: CancellationToken,
}

type Shards<S> = BTreeMap<TopicPartition, Running<S>>;

/// See the module. One for each kind of coordinator.
pub struct CoordinatorRuntime<S: Shard> {
    topic: &'static str,
    context: Arc<Context<S>>,
    shards: Mutex<Shards<S>>,
}

impl<S> CoordinatorRuntime<S>
where
    S: Shard + Send + 'static,
    S::Request: Send,
    S::Response: Send,
    S::Error: Send,
    S::Action: Send,
{
    /// Follows the metadata that `partitions` take, until `stopping`. `make` gives an empty shard. Actions come out of the
    /// receiver, in each shard's order.
    pub(crate) fn start(
        config: RuntimeConfig,
        tasks: &TaskTracker,
        stopping: &CancellationToken,
        clock: Clock,
        partitions: Arc<Partitions>,
        make: impl Fn() -> S + Send + Sync + 'static,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<CoordinatorAction<S::Action>>) {
        let (actions, wanted) = mpsc::unbounded_channel();
        let RuntimeConfig { topic, decompressed_bytes_max } = config;
        let make = Box::new(make);
        let topics = watch::Sender::default();
        let context = Context { clock, partitions, make, actions, topics, decompressed_bytes_max };
        let this = Arc::new(Self { topic, context: Arc::new(context), shards: Mutex::default() });
        tasks.spawn(Arc::clone(&this).follow(tasks.clone(), stopping.clone()));
        (this, wanted)
    }

    async fn follow(self: Arc<Self>, tasks: TaskTracker, stopping: CancellationToken) {
        let mut images = self.context.partitions.images();
        let mut seen: Arc<ClusterImage> = Arc::default();
        loop {
            let image = Arc::clone(&images.borrow_and_update());
            if image.version != seen.version {
                self.take(&image, &seen, &tasks);
                seen = image;
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                changed = images.changed() => if changed.is_err() { break },
            }
        }
        std::mem::take(&mut *self.lock()).values().for_each(|running| running.unload.cancel());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shards<S>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads what this broker has come to lead, and unloads what it leads no more.
    fn take(&self, image: &ClusterImage, seen: &ClusterImage, tasks: &TaskTracker) {
        if image.topics != seen.topics || image.brokers != seen.brokers {
            let topics = topics_of(image);
            self.context.topics.send_if_modified(|present| {
                let is_new = *present != topics;
                if is_new {
                    *present = topics;
                }
                is_new
            });
        }
        let me = self.context.partitions.me();
        let mine: BTreeMap<TopicPartition, LeaderEpoch> = image
            .topic_by_name(self.topic)
            .into_iter()
            .flat_map(|topic| topic.iter())
            .filter(|(_, state)| state.leader == Some(me))
            .map(|(tp, state)| (tp, state.leader_epoch))
            .collect();
        let mut shards = self.lock();
        shards.retain(|tp, running| {
            let stays = mine.get(tp) == Some(&running.epoch) || mutation::is_on(Mutation::CoordinatorNotFenced);
            if !stays {
                running.unload.cancel();
            }
            stays
        });
        for (tp, epoch) in mine {
            if shards.contains_key(&tp) {
                continue;
            }
            let Ok(partition) = self.context.partitions.find(tp) else { continue };
            let (asks, asked) = mpsc::channel(QUEUE_LENGTH);
            let (phase_of, phase) = watch::channel(Phase::Loading);
            let unload = CancellationToken::new();
            let driver = Driver::new(Arc::clone(&self.context), partition, epoch, asked, phase_of, unload.clone());
            tasks.spawn(driver.run());
            shards.insert(tp, Running { epoch, asks, phase, unload });
        }
    }

    /// Which partition of the internal topic keeps `id` (a group id, a transactional id). `None`: there is no topic yet.
    pub fn partition_of(&self, id: &str) -> Option<PartitionId> {
        let image = self.context.partitions.image();
        let topic = image.topic_by_name(self.topic)?;
        Some(partition_for_id(id, u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)))
    }

    /// The partition of the internal topic, by its id.
    pub fn topic_partition(&self, partition: PartitionId) -> Option<TopicPartition> {
        let image = self.context.partitions.image();
        Some(TopicPartition::new(image.topic_by_name(self.topic)?.id, partition))
    }

    /// Whether this is the internal topic of this runtime, so that markers for it go by [`Self::append_marker`].
    pub fn owns(&self, tp: TopicPartition) -> bool {
        self.context.partitions.image().topic(tp.topic).is_some_and(|topic| topic.name.as_str() == self.topic)
    }

    /// The partitions whose coordinator is here and loaded.
    pub fn loaded(&self) -> Vec<PartitionId> {
        let shards = self.lock();
        let loaded = shards.iter().filter(|(_, running)| *running.phase.borrow() == Phase::Serving);
        loaded.map(|(tp, _)| tp.partition).collect()
    }

    /// Asks the coordinator of `id`; see [`Self::call`].
    pub async fn call_for(&self, id: &str, request: S::Request) -> Result<S::Response, CallError<S::Error>> {
        let partition = self.partition_of(id).ok_or_else(|| self.no_topic())?;
        self.call(partition, request).await
    }

    /// Asks the shard in `partition` of the internal topic. Answered once what the answer rests on is committed; some
    /// requests the shard answers much later. Whoever does not want to wait drops the future: the request is
    /// carried out all the same if the shard had it.
    pub async fn call(&self, partition: PartitionId, request: S::Request) -> Result<S::Response, CallError<S::Error>> {
        self.call_unless(partition, request, None).await
    }

    /// As [`Self::call`], for a request that rests on what was asked while `guard` was held: refused if that is outdated when the
    /// request's turn comes.
    pub async fn call_guarded(
        &self,
        partition: PartitionId,
        request: S::Request,
        guard: Guard,
    ) -> Result<S::Response, CallError<S::Error>> {
        self.call_unless(partition, request, Some(guard)).await
    }

    async fn call_unless(
        &self,
        partition: PartitionId,
        request: S::Request,
        guard: Option<Guard>,
    ) -> Result<S::Response, CallError<S::Error>> {
        let asks = self.find(partition)?;
        let (answer, answered) = oneshot::channel();
        // The driver may end at any moment; what it takes it answers.
        asks.send(Ask::Call { request, guard, answer }).await.map_err(|_| self.not_coordinator(partition))?;
        answered.await.unwrap_or_else(|_| Err(self.lost(partition)))
    }

    /// To be taken before it is asked whether a transaction of `producer` may reach `partition`.
    pub fn guard(&self, partition: PartitionId, producer: ProducerIdentity) -> Result<Guard, CallError<S::Error>> {
        let tp = self.topic_partition(partition).ok_or_else(|| self.no_topic())?;
        let guard = self.context.partitions.find(tp).and_then(|partition| partition.guard(producer));
        guard.map_err(|_| self.not_coordinator(partition))
    }

    /// Appends the end of a transaction to a partition of this runtime's topic, unless it is there already, and has its shard
    /// replay it in the log's order. Returns once it is committed.
    pub async fn append_marker(&self, partition: PartitionId, end: TransactionEnd) -> Result<(), CallError<S::Error>> {
        let asks = self.find(partition)?;
        let (answer, answered) = oneshot::channel();
        asks.send(Ask::Marker { end, answer }).await.map_err(|_| self.not_coordinator(partition))?;
        answered.await.unwrap_or_else(|_| Err(self.lost(partition)))
    }

    fn find(&self, partition: PartitionId) -> Result<mpsc::Sender<Ask<S>>, CallError<S::Error>> {
        let tp = self.topic_partition(partition).ok_or_else(|| self.no_topic())?;
        let shards = self.lock();
        let running = shards.get(&tp).ok_or_else(|| self.not_coordinator(partition))?;
        match &*running.phase.borrow() {
            Phase::Serving => Ok(running.asks.clone()),
            Phase::Loading => Err(CallError::Loading { partition }),
            Phase::Refusing(why) => Err(CallError::Unavailable { why: why.to_string() }),
        }
    }

    fn not_coordinator(&self, partition: PartitionId) -> CallError<S::Error> {
        let image = self.context.partitions.image();
        let state = image.topic_by_name(self.topic).and_then(|topic| topic.partition(partition));
        let me = self.context.partitions.me();
        let leader = state.and_then(|state| Some((state.leader?, state.leader_epoch)));
        CallError::NotCoordinator { partition, leader: leader.filter(|(leader, _)| *leader != me) }
    }

    /// The driver ended without a word.
    fn lost(&self, partition: PartitionId) -> CallError<S::Error> {
        CallError::Lost { partition, leader: self.not_coordinator(partition).leader() }
    }

    fn no_topic(&self) -> CallError<S::Error> {
        CallError::Unavailable { why: format!("there is no topic {} yet: FindCoordinator makes it", self.topic) }
    }
}

/// Where markers of transactions go by a coordinator: it has to replay them.
pub(crate) trait TakesMarkers: Send + Sync {
    fn owns(&self, tp: TopicPartition) -> bool;
    /// See [`CoordinatorRuntime::append_marker`].
    fn take_marker(&self, partition: PartitionId, end: TransactionEnd) -> BoxFuture<'_, Result<(), CallError<String>>>;
}

impl<S> TakesMarkers for CoordinatorRuntime<S>
where
    S: Shard + Send + 'static,
    S::Request: Send,
    S::Response: Send,
    S::Error: Send + std::fmt::Display,
    S::Action: Send,
{
    fn owns(&self, tp: TopicPartition) -> bool {
        Self::owns(self, tp)
    }

    fn take_marker(&self, partition: PartitionId, end: TransactionEnd) -> BoxFuture<'_, Result<(), CallError<String>>> {
        Box::pin(async move {
            let appended = self.append_marker(partition, end).await;
            appended.map_err(|error| error.map_shard(|error| error.to_string()))
        })
    }
}

/// What groups can subscribe to: internal topics are not among it.
fn topics_of(image: &ClusterImage) -> Topics {
    let racks = image.brokers.values().filter_map(|broker| Some((broker.id, Arc::from(broker.rack.as_deref()?))));
    let racks: BTreeMap<BrokerId, Arc<str>> = racks.collect();
    let info = |topic: &Arc<TopicState>| {
        let of = |replicas: &[BrokerId]| replicas.iter().filter_map(|id| racks.get(id).cloned()).collect();
        let racks = topic.partitions.iter().map(|state| of(&state.replicas)).collect();
        (topic.id, TopicInfo { name: topic.name.clone(), racks })
    };
    Topics::new(image.topics.values().filter(|topic| !is_internal_topic(topic.name.as_str())).map(info))
}
