//! The coordinators of a broker, and the internal topics that they live in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_coordination::group::{GroupConfig, GroupShard};
use highwater_coordination::transaction::{Action, TransactionConfig, TransactionShard};
use highwater_metadata::Command;
use highwater_protocol::{code_of, v1};
use highwater_types::{ErrorCode, GROUPS_TOPIC, TRANSACTIONS_TOPIC, TopicPartition};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::runtime::TakesMarkers;
use super::{CoordinatorAction, CoordinatorRuntime, ProducerIds, RuntimeConfig};
use crate::cluster::ClusterLink;
use crate::core::Core;
use crate::partition::TransactionEnd;
use crate::partitions::Partitions;
use crate::services::coordinator::call_error;
use crate::services::error::to_wire;

/// Small: only what is sealed is compacted, and a coordinator reads all of it when it loads.
const INTERNAL_SEGMENT_BYTES: &str = "16777216";

/// Of the transaction coordinators here; each wants the markers of a transaction written.
pub type TransactionActions = mpsc::UnboundedReceiver<CoordinatorAction<Action>>;

/// What of a broker coordinates.
pub struct Coordinators {
    pub transactions: Arc<CoordinatorRuntime<TransactionShard>>,
    pub groups: Arc<CoordinatorRuntime<GroupShard>>,
    pub producer_ids: Arc<ProducerIds>,
    transaction_actions: Mutex<Option<TransactionActions>>,
    partitions: Arc<Partitions>,
    link: ClusterLink,
    replication_factor: u32,
    transaction_partitions: u32,
    groups_partitions: u32,
}

impl Coordinators {
    pub(crate) fn start(tasks: &TaskTracker, core: &Arc<Core>, link: &ClusterLink) -> Arc<Self> {
        let decompressed_bytes_max = core.config.limits.decompressed_bytes_max;
        let config = RuntimeConfig { topic: TRANSACTIONS_TOPIC, decompressed_bytes_max };
        let of_transactions = TransactionConfig {
            timeout_ms_max: core.config.transaction_timeout_max_ms,
            id_expiration: Duration::from_millis(core.config.transactional_id_expiration_ms),
        };
        let make = move || TransactionShard::new(of_transactions.clone());
        let (clock, partitions) = (core.clock.clone(), Arc::clone(&core.partitions));
        let (transactions, actions) = CoordinatorRuntime::start(config, tasks, &core.stopping, clock, partitions, make);
        let config = RuntimeConfig { topic: GROUPS_TOPIC, decompressed_bytes_max };
        let of_groups = GroupConfig {
            session_timeout: Duration::from_millis(core.config.group_session_timeout_ms),
            heartbeat_interval: Duration::from_millis(core.config.group_heartbeat_interval_ms),
            classic_initial_delay: Duration::from_millis(core.config.group_initial_rebalance_delay_ms),
            members_max: core.config.group_members_max,
            offsets_retention: Duration::from_millis(core.config.offsets_retention_ms),
            ..GroupConfig::default()
        };
        let make = move || GroupShard::new(of_groups.clone());
        let (clock, partitions) = (core.clock.clone(), Arc::clone(&core.partitions));
        // They ask for nothing.
        let (groups, _) = CoordinatorRuntime::start(config, tasks, &core.stopping, clock, partitions, make);
        Arc::new(Self {
            transactions,
            groups,
            producer_ids: ProducerIds::new(link.clone()),
            transaction_actions: Mutex::new(Some(actions)),
            partitions: Arc::clone(&core.partitions),
            link: link.clone(),
            replication_factor: core.config.internal_topics_replication_factor,
            transaction_partitions: core.config.transaction_topic_partitions,
            groups_partitions: core.config.offsets_topic_partitions,
        })
    }

    /// The runtimes whose shards replay the markers of their topics.
    fn marked(&self) -> [&dyn TakesMarkers; 2] {
        [&*self.transactions, &*self.groups]
    }

    /// Has the end of a transaction written to a partition that this broker leads, by its coordinator if it has one. Returns once
    /// it is committed.
    pub(crate) async fn write_marker(&self, tp: TopicPartition, end: TransactionEnd) -> Result<(), v1::Error> {
        let image = || self.partitions.image();
        if let Some(runtime) = self.marked().into_iter().find(|runtime| runtime.owns(tp)) {
            let taken = runtime.take_marker(tp.partition, end).await;
            return taken.map_err(|error| call_error(error, &image(), |_| ErrorCode::Internal));
        }
        let written = match self.partitions.find(tp) {
            Ok(partition) => partition.write_marker(&end).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| to_wire(&error, &image()))
    }

    /// To whoever carries them out: given once.
    pub fn take_transaction_actions(&self) -> Option<TransactionActions> {
        self.transaction_actions.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes the topic of the transaction coordinators if there is none yet. Returns once this broker's image shows it.
    pub async fn make_transactions_topic(&self) -> Result<(), v1::Error> {
        self.make_topic(TRANSACTIONS_TOPIC, self.transaction_partitions).await
    }

    /// As [`Self::make_transactions_topic`], of the groups.
    pub async fn make_groups_topic(&self) -> Result<(), v1::Error> {
        self.make_topic(GROUPS_TOPIC, self.groups_partitions).await
    }

    async fn make_topic(&self, name: &str, partitions: u32) -> Result<(), v1::Error> {
        let image = self.link.image();
        if image.topic_by_name(name).is_some() {
            return Ok(());
        }
        let create = Command::CreateTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: self.replication_factor,
            configs: internal_configs(),
            assignments: Vec::new(),
            validate_only: false,
        };
        match self.link.execute(&create).await {
            // Another broker was first. Its topic comes with the metadata.
            Err(error) if code_of(&error) == ErrorCode::TopicAlreadyExists => Ok(()),
            Err(error) if code_of(&error) == ErrorCode::InvalidReplicationFactor => {
                let (message, setting) = (&error.message, "broker.internal_topics_replication_factor");
                let why = format!(
                    "the topic {name} can't be made yet: {message}; start more, or set {setting} to what there is"
                );
                Err(v1::Error::new(ErrorCode::CoordinatorNotAvailable, why))
            }
            made => made.map(|_| ()),
        }
    }
}

/// Their records are the state of the coordinators: never deleted for their age, only where newer ones replace them.
fn internal_configs() -> BTreeMap<String, String> {
    let configs = BTreeMap::from([
        ("min.insync.replicas", "2"),
        ("retention.ms", "-1"),
        ("cleanup.policy", "compact"),
        ("segment.bytes", INTERNAL_SEGMENT_BYTES),
    ]);
    configs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
