//! All partitions of this broker: found by id, opened, assigned and deleted as the metadata says.
//!
//! **Invariants**: partitions are known by topic id alone (T21). Images are applied one after the other; roles change before
//! new logs are opened, so that a failover does not wait for a disk. A folder is deleted only when the metadata has been seen
//! to drop its topic while this process ran: what is unknown at the start is closed and left alone (T43).

mod copies;
mod reopen;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use highwater_metadata::{Changes, ClusterImage, PartitionLogEnd, PartitionState};
use highwater_metrics::Histogram;
use highwater_replication::{AliveBrokers, PartitionView};
use highwater_storage::{
    CacheBudget, DataDir, DataDirError, Disk, Flusher, LogConfig, OpenError, OpenedDataDir, RecoveryReport,
    is_disk_full, run_on,
};
use highwater_types::{BrokerEpoch, BrokerId, MetadataVersion, TopicConfig, TopicPartition, is_internal_topic};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::config::BrokerConfig;
use crate::error::StartError;
use crate::metrics::BrokerMetrics;
use crate::partition::{Assignment, Partition, PartitionEnv, PartitionError};

/// How often a broker that stops looks whether producers still wait.
const OUTCOMES_PERIOD: Duration = Duration::from_millis(5);

type Map = BTreeMap<TopicPartition, Arc<Partition>>;

/// See the module.
pub struct Partitions {
    env: Arc<PartitionEnv>,
    dirs: Vec<Dir>,
    log_config: LogConfig,
    open_parallel_max: usize,
    map: RwLock<Arc<Map>>,
    /// The newest image that was applied.
    image: watch::Sender<Arc<ClusterImage>>,
    /// Partitions whose log was here once and is gone; until the metadata shows that the controller knows.
    lost: Mutex<BTreeSet<TopicPartition>>,
    /// Partitions whose log may lack what it has acknowledged; until the controller does not count on it.
    doubtful: Mutex<BTreeSet<TopicPartition>>,
    /// Whose logs could not be opened for want of space on the disk.
    want_space: Mutex<BTreeSet<TopicPartition>>,
    /// For checking a batch that unpacks to much (T47): one at a time, however many strangers send such.
    large_batches: Semaphore,
    deletions: TaskTracker,
}

struct Dir {
    data_dir: Arc<DataDir>,
    /// `None` once it was shut down.
    flusher: Mutex<Option<Flusher>>,
}

/// What the data dirs say of the run before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRun {
    /// `None`: the data dirs are new.
    pub cluster_id: Option<String>,
    /// The broker epoch in which all data dirs were closed in order.
    pub clean_shutdown: Option<BrokerEpoch>,
}

fn ignore_poison<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

impl Partitions {
    /// Opens the data dirs and recovers every log in them.
    pub(crate) async fn open(
        config: &BrokerConfig,
        disk: &Arc<dyn Disk>,
        env: Arc<PartitionEnv>,
    ) -> Result<(Self, LastRun), StartError> {
        let (disk, id, reserve) = (Arc::clone(disk), config.id, config.disk_reserve_bytes);
        let paths: Vec<PathBuf> = config.data_dirs.clone();
        let opener = Arc::clone(&disk);
        let open_all = move || -> Result<Vec<(Arc<DataDir>, OpenedDataDir)>, DataDirError> {
            paths.iter().map(|path| DataDir::open(Arc::clone(&opener), path, id, reserve)).collect()
        };
        let opened = run_on(&*disk, open_all).await;
        let first = || config.data_dirs.first().cloned().unwrap_or_default();
        let opened = opened.map_err(|source| DataDirError::Io { path: first(), source })??;
        let last_run = last_run(&opened)?;

        let log_config = LogConfig {
            cache_bytes: config.cache_bytes,
            cache_budget: Arc::new(CacheBudget::new(config.cache_bytes)),
            ..LogConfig::default()
        };
        let mut found = BTreeMap::new();
        let mut dirs = Vec::new();
        for (index, (data_dir, contents)) in opened.into_iter().enumerate() {
            for tp in contents.partitions {
                if let Some(other) = found.insert(tp, index) {
                    let path = data_dir.partition_path(tp);
                    tracing::error!(partition = %tp, path = %path.display(), "in two data dirs; left alone here");
                    found.insert(tp, other);
                }
            }
            dirs.push(Dir { data_dir, flusher: Mutex::new(Some(Flusher::spawn(config.sync_parallel_max))) });
        }
        let this = Self {
            env,
            dirs,
            log_config,
            open_parallel_max: config.recovery_parallel_max.max(1),
            map: RwLock::default(),
            image: watch::Sender::default(),
            lost: Mutex::default(),
            doubtful: Mutex::default(),
            want_space: Mutex::default(),
            large_batches: Semaphore::new(1),
            deletions: TaskTracker::new(),
        };
        this.open_found(found).await;
        Ok((this, last_run))
    }

    async fn open_found(&self, found: BTreeMap<TopicPartition, usize>) {
        let count = found.len();
        // What the topics ask for comes with the first image.
        let config = TopicConfig::default();
        let opens = found.into_iter().map(|(tp, dir)| self.open_log(tp, &self.dirs[dir], &config));
        let opened: Vec<_> = stream::iter(opens).buffer_unordered(self.open_parallel_max).collect().await;
        self.change_map(|map| map.extend(opened.into_iter().map(|partition| (partition.tp(), partition))));
        if count > 0 {
            tracing::info!(partitions = count, "logs are open");
        }
    }

    async fn open_log(&self, tp: TopicPartition, dir: &Dir, config: &TopicConfig) -> Arc<Partition> {
        let log_config = self.log_config.clone().with_topic(config);
        let opened = dir.data_dir.open_log(tp, log_config, self.env.clock.timestamp()).await;
        let flusher = ignore_poison(dir.flusher.lock());
        let unusable = |why: &str| Partition::unusable(tp, Arc::clone(&self.env), Arc::clone(&dir.data_dir), why);
        match (opened, &*flusher) {
            (Ok((log, report)), Some(flusher)) => {
                tell_recovery(tp, &report);
                if log.doubt().is_some() {
                    ignore_poison(self.doubtful.lock()).insert(tp);
                }
                Partition::new(tp, Arc::clone(&self.env), log, Arc::clone(&dir.data_dir), flusher)
            }
            (Ok(_), None) => unusable("the broker is shutting down"),
            (Err(error), _) => {
                tracing::error!(partition = %tp, %error, "the partition can't be used");
                if matches!(&error, OpenError::Io { source, .. } if is_disk_full(source)) {
                    self.note_wants_space(tp);
                }
                unusable(&error.to_string())
            }
        }
    }

    fn change_map(&self, change: impl FnOnce(&mut Map)) {
        let mut map = ignore_poison(self.map.write());
        let mut changed = Map::clone(&map);
        change(&mut changed);
        *map = Arc::new(changed);
    }

    /// All of them, as they are now.
    pub fn all(&self) -> Arc<Map> {
        Arc::clone(&*ignore_poison(self.map.read()))
    }

    /// From here on partitions can ask transaction coordinators. The first one stays.
    pub(crate) fn set_verifier(&self, verifier: Arc<dyn crate::transaction::verify::Verifier>) {
        let _ = self.env.verifier.set(verifier);
    }

    /// The newest image that the partitions have taken.
    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.image.borrow())
    }

    /// Tells of every image that the partitions have taken.
    pub fn images(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.image.subscribe()
    }

    pub fn metrics(&self) -> &Arc<BrokerMetrics> {
        &self.env.metrics
    }

    pub(crate) fn large_batches(&self) -> &Semaphore {
        &self.large_batches
    }

    /// How long syncs took, by data dir; without those that were shut down.
    pub(crate) fn sync_took(&self) -> Vec<(Arc<DataDir>, Arc<Histogram>)> {
        let of = |dir: &Dir| {
            let flusher = ignore_poison(dir.flusher.lock());
            flusher.as_ref().map(|flusher| (Arc::clone(&dir.data_dir), Arc::clone(flusher.sync_took())))
        };
        self.dirs.iter().filter_map(of).collect()
    }

    pub fn me(&self) -> BrokerId {
        self.env.me
    }

    /// Counts records of a partition that go out to a consumer.
    pub fn count_sent(&self, tp: TopicPartition, records: &[bytes::Bytes]) {
        if let Ok(partition) = self.find(tp) {
            partition.counters().sent(records);
        }
    }

    /// The replica here, or why there is none.
    pub fn find(&self, tp: TopicPartition) -> Result<Arc<Partition>, PartitionError> {
        if let Some(partition) = ignore_poison(self.map.read()).get(&tp) {
            return Ok(Arc::clone(partition));
        }
        let image = self.image();
        let Some(topic) = image.topic(tp.topic) else { return Err(PartitionError::UnknownTopicId(tp.topic)) };
        match topic.partition(tp.partition) {
            None => Err(PartitionError::UnknownPartition { asked: tp, partitions: topic.partitions.len() }),
            Some(PartitionState { leader: None, leader_epoch, .. }) => {
                Err(PartitionError::NoLeader { leader_epoch: *leader_epoch })
            }
            Some(state) => Err(PartitionError::NotLeader { leader: state.leader, leader_epoch: state.leader_epoch }),
        }
    }

    /// Brings the partitions to `image`, from the one applied before.
    pub async fn apply(&self, image: &Arc<ClusterImage>) {
        let before = self.image();
        let changes = Changes::between(&before, image);
        let is_first = before.version == MetadataVersion::ZERO;
        let alive: AliveBrokers = Arc::new(image.active_brokers());
        let map = self.all();
        let brokers_changed = !changes.brokers.is_empty();
        let mut topics = changes.topics;
        if is_first || brokers_changed {
            // Who may join an ISR has changed for every partition.
            topics.extend(map.keys().map(|tp| tp.topic));
        }
        let (mut to_open, mut to_drop) = (Vec::new(), Vec::new());
        for id in topics {
            let topic = image.topic(id);
            if let Some(topic) = topic {
                let config = Arc::new(topic.config());
                let internal = is_internal_topic(topic.name.as_str());
                let mine = topic.iter().filter(|(_, state)| state.replicas.contains(&self.env.me));
                for (tp, state) in mine {
                    let view = view_of(state);
                    let (config, alive) = (Arc::clone(&config), Arc::clone(&alive));
                    let assignment = Assignment { view, config, internal, alive };
                    match map.get(&tp) {
                        Some(partition) => partition.assign(&assignment),
                        None => to_open.push((tp, state, assignment)),
                    }
                }
            }
            let gone = |tp: &TopicPartition| {
                let state = topic.and_then(|topic| topic.partition(tp.partition));
                !state.is_some_and(|state| state.replicas.contains(&self.env.me))
            };
            let all = TopicPartition::new(id, highwater_types::PartitionId::new(0))
                ..=TopicPartition::new(id, highwater_types::PartitionId::new(u32::MAX));
            to_drop.extend(map.range(all).map(|(tp, _)| *tp).filter(gone));
        }
        if is_first {
            self.note_lost(&to_open);
        }
        self.open_assigned(to_open).await;
        self.drop_partitions(to_drop, &before, image);
        self.image.send_replace(Arc::clone(image));
        self.forget_what_is_known(image);
    }

    async fn open_assigned(&self, to_open: Vec<(TopicPartition, &PartitionState, Assignment)>) {
        if to_open.is_empty() {
            return;
        }
        let mut load: Vec<usize> = self.dirs.iter().map(|dir| self.count_in(dir)).collect();
        let mut placed = Vec::with_capacity(to_open.len());
        for (tp, _, assignment) in to_open {
            let has = self.dirs.iter().position(|dir| dir.data_dir.has_partition(tp));
            let online = |index: &usize| self.dirs[*index].data_dir.status().offline_reason().is_none();
            // The least loaded; the first of equals.
            let least = (0..self.dirs.len()).filter(online).min_by_key(|index| load[*index]);
            let index = has.or(least).unwrap_or(0);
            load[index] += 1;
            placed.push((tp, index, assignment));
        }
        let opens = placed.into_iter().map(|(tp, index, assignment)| async move {
            (self.open_log(tp, &self.dirs[index], &assignment.config).await, assignment)
        });
        let opened: Vec<_> = stream::iter(opens).buffer_unordered(self.open_parallel_max).collect().await;
        for (partition, assignment) in &opened {
            partition.assign(assignment);
        }
        self.change_map(|map| map.extend(opened.into_iter().map(|(partition, _)| (partition.tp(), partition))));
    }

    fn count_in(&self, dir: &Dir) -> usize {
        let is_in = |partition: &&Arc<Partition>| Arc::ptr_eq(partition.dir(), &dir.data_dir);
        self.all().values().filter(is_in).count()
    }

    fn drop_partitions(&self, gone: Vec<TopicPartition>, before: &ClusterImage, image: &ClusterImage) {
        if gone.is_empty() {
            return;
        }
        let map = self.all();
        self.change_map(|map| gone.iter().for_each(|tp| _ = map.remove(tp)));
        for partition in gone.iter().filter_map(|tp| map.get(tp)) {
            let partition = Arc::clone(partition);
            let tp = partition.tp();
            let was_deleted = before.partition(tp).is_some() && image.partition(tp).is_none();
            partition.retire(was_deleted);
            let dir = Arc::clone(partition.dir());
            if was_deleted {
                self.deletions.spawn(async move {
                    match dir.delete_partition(tp).await {
                        Ok(()) => tracing::info!(partition = %tp, "deleted"),
                        Err(error) => tracing::error!(partition = %tp, %error, "not deleted"),
                    }
                });
            } else {
                let path = dir.partition_path(tp);
                tracing::warn!(path = %path.display(), "no partition of this broker in this cluster; left alone");
                self.deletions.spawn(async move {
                    let disk = Arc::clone(dir.disk());
                    // What is left alone is left in order. After an unclean stop it may be in the middle of its first sync.
                    loop {
                        let closing = Arc::clone(&partition);
                        match run_on(&*disk, move || closing.close_unless_syncing()).await {
                            Ok(Err(sync_ended)) => _ = sync_ended.await,
                            Ok(Ok(())) | Err(_) => break,
                        }
                    }
                });
            }
        }
    }

    /// Every partition that can't be served here now.
    pub fn unusable(&self) -> BTreeSet<TopicPartition> {
        let map = self.all();
        map.iter().filter(|(_, partition)| partition.unusable_because().is_some()).map(|(tp, _)| *tp).collect()
    }

    /// The log ends that an unclean election waits for, as far as they are certain.
    pub fn awaited_log_ends(&self) -> Vec<PartitionLogEnd> {
        let (image, map) = (self.image(), self.all());
        let awaited = image.awaited_log_ends(self.env.me);
        awaited.iter().filter_map(|tp| map.get(tp)?.log_end_to_report()).collect()
    }

    /// Resolves when no producer waits any more to hear what became of its records.
    pub(crate) async fn outcomes_known(&self) {
        while self.all().values().any(|partition| partition.has_open_outcomes()) {
            tokio::time::sleep(OUTCOMES_PERIOD).await;
        }
    }

    /// Notes which cluster the data dirs belong to.
    pub(crate) fn bind_cluster(&self, cluster_id: &str) -> Result<(), DataDirError> {
        self.dirs.iter().try_for_each(|dir| dir.data_dir.bind_cluster(cluster_id))
    }

    pub(crate) fn data_dirs(&self) -> impl Iterator<Item = &Arc<DataDir>> {
        self.dirs.iter().map(|dir| &dir.data_dir)
    }

    /// Something about the storage has changed: see what can be served.
    pub(crate) fn unusable_changed(&self) -> &tokio::sync::Notify {
        &self.env.unusable
    }

    /// Ends all roles, syncs and closes every log, and leaves the clean-shutdown marker if all of that went well and the epoch
    /// that it is for is known.
    pub(crate) async fn close(&self, broker_epoch: BrokerEpoch) {
        let map = self.all();
        map.values().for_each(|partition| partition.retire(false));
        self.deletions.close();
        self.deletions.wait().await;
        for dir in &self.dirs {
            let flusher = ignore_poison(dir.flusher.lock()).take();
            if let Some(flusher) = flusher {
                flusher.shutdown().await;
            }
        }
        for dir in &self.dirs {
            self.close_dir(dir, &map, broker_epoch).await;
        }
    }

    async fn close_dir(&self, dir: &Dir, map: &Map, broker_epoch: BrokerEpoch) {
        let data_dir = &dir.data_dir;
        let is_in = |partition: &&Arc<Partition>| Arc::ptr_eq(partition.dir(), data_dir);
        let partitions: Vec<_> = map.values().filter(is_in).cloned().collect();
        let closes = partitions.into_iter().map(|partition| async move {
            let tp = partition.tp();
            let closed = run_on(&**data_dir.disk(), move || partition.close()).await;
            match closed {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::error!(partition = %tp, %error, "the log was not closed in order");
                    false
                }
                Err(error) => {
                    tracing::error!(partition = %tp, %error, "the log was not closed in order");
                    false
                }
            }
        });
        let closed: Vec<bool> = stream::iter(closes).buffer_unordered(self.open_parallel_max).collect().await;
        if closed.contains(&false) || broker_epoch == BrokerEpoch::NONE {
            return;
        }
        let (writer, dir_path) = (Arc::clone(data_dir), data_dir.path().to_owned());
        let written = run_on(&**data_dir.disk(), move || writer.write_clean_marker(broker_epoch)).await;
        match written {
            Ok(Ok(())) => tracing::info!(path = %dir_path.display(), epoch = %broker_epoch, "closed in order"),
            Ok(Err(error)) => tracing::error!(%error, "no clean-shutdown marker"),
            Err(error) => tracing::error!(%error, "no clean-shutdown marker"),
        }
    }
}

fn last_run(opened: &[(Arc<DataDir>, OpenedDataDir)]) -> Result<LastRun, StartError> {
    let ids: BTreeSet<String> = opened.iter().filter_map(|(dir, _)| dir.cluster_id()).collect();
    if ids.len() > 1 {
        return Err(StartError::MixedDataDirs(ids.into_iter().collect::<Vec<_>>().join(", ")));
    }
    // One dir that was not closed in order, or not in the same run, is enough for the whole not to be clean. A new one held
    // nothing, and what it should hold is reported as lost.
    let old = || opened.iter().filter(|(_, found)| !found.created);
    let epochs: BTreeSet<Option<BrokerEpoch>> = old().map(|(_, found)| found.was_clean).collect();
    let clean_shutdown = match epochs.into_iter().collect::<Vec<_>>()[..] {
        [one] => one,
        _ => None,
    };
    Ok(LastRun { cluster_id: ids.into_iter().next(), clean_shutdown })
}

fn tell_recovery(tp: TopicPartition, report: &RecoveryReport) {
    if !report.damage.is_empty() {
        tracing::error!(partition = %tp, damage = ?report.damage, "damaged below what was synced; to be healed from a peer");
    } else if report.good_after_cut {
        tracing::error!(
            partition = %tp, cut_bytes = report.cut_bytes, cut_because = ?report.cut_because,
            "cut off after an unclean stop, with sound batches in it: what was synced may be damaged, so this is no full copy \
             until it is in sync again"
        );
    } else if report.cut_bytes > 0 {
        tracing::warn!(
            partition = %tp, cut_bytes = report.cut_bytes, cut_because = ?report.cut_because,
            "a torn tail that was never synced is cut off"
        );
    } else if !report.clean && !report.created {
        tracing::debug!(partition = %tp, scanned_bytes = report.scanned_bytes, "recovered after an unclean stop");
    }
}

fn view_of(state: &PartitionState) -> PartitionView {
    PartitionView {
        replicas: state.replicas.clone(),
        isr: state.isr.clone(),
        elr: state.elr.clone(),
        unusable: state.unusable.clone(),
        leader: state.leader,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        recovering: state.recovering,
    }
}
