//! The state of the cluster at one metadata version.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::{
    BrokerEpoch, BrokerId, ControllerId, IncarnationId, LeaderEpoch, MetadataVersion, Offset, PartitionEpoch,
    PartitionId, ProducerId, TopicConfig, TopicId, TopicName, TopicPartition,
};
use serde::{Deserialize, Serialize};

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where a broker is reached by those who came in on its listener of that name, and on no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedEndpoint {
    pub name: String,
    pub endpoint: Endpoint,
}

/// A broker as registered. Stays in the image while it is down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerState {
    pub id: BrokerId,
    pub incarnation: IncarnationId,
    pub broker_epoch: BrokerEpoch,
    pub client_endpoint: Endpoint,
    pub internal_endpoint: Endpoint,
    /// Of further front doors, by the name of the listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<NamedEndpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// A fenced broker leads nothing and is in no ISR: it is down, or has yet to catch up with the metadata.
    pub fenced: bool,
    /// It asked to have its leadership moved away. Lasts until its next incarnation.
    pub shutting_down: bool,
}

impl BrokerState {
    /// Where it is reached by those who come in on the listener `name`.
    pub fn listener(&self, name: &str) -> Option<&Endpoint> {
        self.listeners.iter().find(|listener| listener.name == name).map(|listener| &listener.endpoint)
    }

    /// Neither fenced nor shutting down: may lead, join an ISR and take new partitions.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }
}

/// A member of the Raft quorum, as brokers and clients should know it. Who votes is Raft's own business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerState {
    pub id: ControllerId,
    pub endpoint: Endpoint,
}

/// A topic. Its data is identified by `id` alone (TRAPS T21).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    pub id: TopicId,
    pub name: TopicName,
    /// By partition index, without gaps.
    pub partitions: Vec<PartitionState>,
    /// Overrides only, valid.
    #[serde(default)]
    pub configs: BTreeMap<String, String>,
}

impl TopicState {
    /// The effective configuration. An override that this version does not know is left out rather than fatal.
    pub fn config(&self) -> TopicConfig {
        TopicConfig::from_overrides(&self.configs).unwrap_or_else(|_| {
            let known = |(key, value): &(&String, &String)| {
                TopicConfig::from_overrides(&BTreeMap::from([((*key).clone(), (*value).clone())])).is_ok()
            };
            let valid = self.configs.iter().filter(known).map(|(k, v)| (k.clone(), v.clone())).collect();
            TopicConfig::from_overrides(&valid).unwrap_or_default()
        })
    }

    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionState> {
        self.partitions.get(partition.get() as usize)
    }

    /// The partitions with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        (0..).zip(&self.partitions).map(|(i, state)| (TopicPartition::new(self.id, PartitionId::new(i)), state))
    }

    /// Replicas of the first partition; all have the same number.
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, |p| p.replicas.len())
    }
}

/// What the controller has decided about one partition.
///
/// The lists are in the order of `replicas`, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// The preferred leader first.
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): outside the ISR, yet with every committed record, because the high watermark
    /// stands still while the ISR is below `min.insync.replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<BrokerId>,
    /// Members that fell out of ISR ∪ ELR (by an unclean restart, lost storage, doubt) since the ISR fell below
    /// `min.insync.replicas`: they may have committed records that nobody else has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_known_elr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// Led by the choice of an unclean election, and not yet reported as recovered.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recovering: bool,
    /// Replicas that reported their data as damaged or offline: they lead only where no other copy is left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unusable: Vec<BrokerId>,
    /// Replicas whose copy may not be wholly on their disk although `durability` is `sync`, because it was `replicated`
    /// before: an unclean restart costs them their eligibility. They leave this list by joining the ISR anew or by a
    /// clean shutdown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsynced: Vec<BrokerId>,
    /// Replicas whose storage was replaced or lost: they hold nothing of the past until they join the ISR anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub storage_lost: Vec<BrokerId>,
    /// Replicas that had to cut their log after an unclean stop where synced records may have been (T43): they are no full
    /// copies until they join the ISR anew. Where nobody else is left, the best of them leads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubtful: Vec<BrokerId>,
    /// An unclean election was asked for, whatever the topic's policy, until somebody leads.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unclean_asked: bool,
    /// What is known for an unclean election that is awaited; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_ends: Vec<ReplicaLogEnd>,
    /// The last unclean election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unclean: Option<UncleanReport>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl PartitionState {
    /// A new partition, led by the first of `isr`.
    pub fn new(replicas: Vec<BrokerId>, isr: Vec<BrokerId>) -> Self {
        Self {
            replicas,
            leader: isr.first().copied(),
            isr,
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            leader_epoch: LeaderEpoch::FIRST,
            partition_epoch: PartitionEpoch::FIRST,
            recovering: false,
            unusable: Vec::new(),
            unsynced: Vec::new(),
            storage_lost: Vec::new(),
            doubtful: Vec::new(),
            unclean_asked: false,
            log_ends: Vec::new(),
            unclean: None,
        }
    }

    /// Fewer replicas in sync than there are.
    pub fn is_under_replicated(&self) -> bool {
        self.isr.len() < self.replicas.len()
    }

    pub fn is_offline(&self) -> bool {
        self.leader.is_none()
    }
}

/// Where the log of one replica ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLogEnd {
    pub broker: BrokerId,
    /// Of the last record; [`LeaderEpoch::NONE`] for an empty log.
    pub last_epoch: LeaderEpoch,
    pub log_end_offset: Offset,
}

/// What an unclean election chose and gave up (TRAPS T19).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanReport {
    pub leader_epoch: LeaderEpoch,
    pub chosen: ReplicaLogEnd,
    /// The other replicas' ends; what they have beyond the chosen one is given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ReplicaLogEnd>,
    /// Replicas that may have had more and were not there to say: whatever they have from the chosen end on is given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_heard: Vec<BrokerId>,
}

impl UncleanReport {
    /// The offsets given up for certain: from the chosen log's end to the furthest end that was reported.
    pub fn given_up(&self) -> Option<(Offset, Offset)> {
        let furthest = self.others.iter().map(|end| end.log_end_offset).max()?;
        (furthest > self.chosen.log_end_offset).then_some((self.chosen.log_end_offset, furthest))
    }
}

/// The whole state of the cluster. Cheap to clone: topics are shared until changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "ImageContent")]
pub struct ClusterImage {
    pub version: MetadataVersion,
    /// Empty until the cluster is created.
    pub cluster_id: String,
    pub next_broker_epoch: BrokerEpochCounter,
    pub next_producer_id: ProducerIdCounter,
    pub brokers: BTreeMap<BrokerId, BrokerState>,
    pub topics: BTreeMap<TopicId, Arc<TopicState>>,
    pub controllers: BTreeMap<ControllerId, ControllerState>,
    #[serde(skip)]
    pub(crate) names: BTreeMap<TopicName, TopicId>,
}

/// The broker epoch that the next registration gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BrokerEpochCounter(pub BrokerEpoch);

impl Default for BrokerEpochCounter {
    fn default() -> Self {
        Self(BrokerEpoch::FIRST)
    }
}

/// The first producer id that nobody was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProducerIdCounter(pub ProducerId);

impl Default for ProducerIdCounter {
    fn default() -> Self {
        Self(ProducerId::new(0))
    }
}

/// As stored: without what follows from the rest.
#[derive(Deserialize)]
struct ImageContent {
    version: MetadataVersion,
    #[serde(default)]
    cluster_id: String,
    #[serde(default)]
    next_broker_epoch: BrokerEpochCounter,
    #[serde(default)]
    next_producer_id: ProducerIdCounter,
    #[serde(default)]
    brokers: BTreeMap<BrokerId, BrokerState>,
    #[serde(default)]
    topics: BTreeMap<TopicId, Arc<TopicState>>,
    #[serde(default)]
    controllers: BTreeMap<ControllerId, ControllerState>,
}

impl From<ImageContent> for ClusterImage {
    fn from(content: ImageContent) -> Self {
        let ImageContent { version, cluster_id, next_broker_epoch, next_producer_id, brokers, topics, controllers } =
            content;
        let names = topics.values().map(|topic| (topic.name.clone(), topic.id)).collect();
        Self { version, cluster_id, next_broker_epoch, next_producer_id, brokers, topics, controllers, names }
    }
}

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
#[error("{what} can't be read: {source}")]
pub struct JsonError {
    pub(crate) what: &'static str,
    pub(crate) source: serde_json::Error,
}

impl ClusterImage {
    /// A snapshot.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps keyed by integers or strings and plain structs: serialization into memory can't fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(bytes).map_err(|source| JsonError { what: "a metadata snapshot", source })
    }

    pub fn broker(&self, id: BrokerId) -> Option<&BrokerState> {
        self.brokers.get(&id)
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<TopicState>> {
        self.topics.get(&id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<TopicState>> {
        self.topics.get(self.names.get(name)?)
    }

    pub fn partition(&self, tp: TopicPartition) -> Option<&PartitionState> {
        self.topics.get(&tp.topic)?.partition(tp.partition)
    }

    /// Every partition of every topic.
    pub fn partitions(&self) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        self.topics.values().flat_map(|topic| topic.iter())
    }

    /// Every partition that lists the broker as a replica.
    pub fn partitions_of(&self, broker: BrokerId) -> impl Iterator<Item = (TopicPartition, &PartitionState)> {
        self.partitions().filter(move |(_, state)| state.replicas.contains(&broker))
    }

    pub fn is_unfenced(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|b| !b.fenced)
    }

    /// Neither fenced nor shutting down.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(BrokerState::is_active)
    }

    /// The brokers that may be in an ISR proposal, with the broker epochs it must state (KIP-841, KIP-903).
    pub fn active_brokers(&self) -> BTreeMap<BrokerId, BrokerEpoch> {
        self.brokers.values().filter(|b| b.is_active()).map(|b| (b.id, b.broker_epoch)).collect()
    }

    /// How many partitions the broker leads.
    pub fn led_by(&self, broker: BrokerId) -> usize {
        self.partitions().filter(|(_, state)| state.leader == Some(broker)).count()
    }

    /// Whether leadership has moved away from a broker that is shutting down, as far as it can: it leads no partition
    /// that an active replica could still take over once in sync.
    pub fn controlled_shutdown_is_complete(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_none_or(|b| b.shutting_down)
            && !self.partitions().any(|(_, state)| {
                state.leader == Some(broker) && state.replicas.iter().any(|r| *r != broker && self.is_active(*r))
            })
    }

    /// Whether an unclean election of the partition waits to hear where this broker's log ends.
    pub fn awaits_log_end(&self, tp: TopicPartition, broker: BrokerId) -> bool {
        let Some(topic) = self.topics.get(&tp.topic) else { return false };
        let Some(state) = topic.partition(tp.partition) else { return false };
        state.replicas.contains(&broker)
            && self.is_active(broker)
            && !state.log_ends.iter().any(|end| end.broker == broker)
            && crate::election::unclean_may_come(state, topic.config().unclean_election, &|b| self.is_active(b))
    }

    /// Every partition whose unclean election waits for this broker.
    pub fn awaited_log_ends(&self, broker: BrokerId) -> Vec<TopicPartition> {
        let offline = self.partitions().filter(|(_, state)| state.is_offline());
        offline.map(|(tp, _)| tp).filter(|tp| self.awaits_log_end(*tp, broker)).collect()
    }
}
