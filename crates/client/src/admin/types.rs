//! What the cluster says of itself.

use std::time::Duration;

use highwater_protocol::{code_of, v1};
use highwater_types::{BrokerId, ControllerId, ErrorCode, LeaderEpoch, MetadataVersion, Offset, PartitionId};

use crate::NodeAddress;
use crate::metadata::{BrokerMetadata, broker_from_wire};

/// A change of a topic. Empty: nothing.
#[derive(Debug, Clone, Default)]
pub struct TopicAlteration {
    set: Vec<(String, String)>,
    unset: Vec<String>,
    partitions: u32,
}

impl TopicAlteration {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a config.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set.push((key.into(), value.into()));
        self
    }

    /// Puts a config back to its default.
    #[must_use]
    pub fn unset(mut self, key: impl Into<String>) -> Self {
        self.unset.push(key.into());
        self
    }

    /// Grows the topic to so many partitions. Keys may then go to other partitions than before.
    #[must_use]
    pub fn partitions(mut self, count: u32) -> Self {
        self.partitions = count;
        self
    }

    pub(crate) fn into_wire(self, name: &str) -> v1::AlterTopicRequest {
        v1::AlterTopicRequest {
            name: name.to_owned(),
            set_configs: self.set.into_iter().collect(),
            unset_configs: self.unset,
            partitions: self.partitions,
            ..v1::AlterTopicRequest::default()
        }
    }
}

/// One config of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfigEntry {
    /// Its name.
    pub key: String,
    /// What holds.
    pub value: String,
    /// Set on this topic, rather than the default.
    pub overridden: bool,
    /// What it does.
    pub help: String,
}

impl From<v1::TopicConfigEntry> for TopicConfigEntry {
    fn from(entry: v1::TopicConfigEntry) -> Self {
        Self { key: entry.key, value: entry.value, overridden: entry.overridden, help: entry.help }
    }
}

/// A partition as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its index.
    pub partition: PartitionId,
    /// Why the rest is not known, if it is not: for example, nobody leads it.
    pub error: Option<(ErrorCode, String)>,
    /// Who leads.
    pub leader: Option<BrokerId>,
    /// The reign of that leader.
    pub leader_epoch: LeaderEpoch,
    /// The first offset there is.
    pub log_start_offset: Offset,
    /// What is committed, and so can be read, lies below this.
    pub high_watermark: Offset,
    /// What the leader has lies below this.
    pub log_end_offset: Offset,
    /// Of the leader's log.
    pub size_bytes: u64,
    /// Of each replica.
    pub replicas: Vec<ReplicaProgress>,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The replica.
    pub broker: BrokerId,
    /// What it has acknowledged; `None`: nothing yet in this leader epoch.
    pub acknowledged_offset: Option<Offset>,
    /// Whether it is in the ISR.
    pub in_sync: bool,
    /// Since when it has not been caught up.
    pub behind: Duration,
}

impl From<v1::PartitionDescription> for PartitionDescription {
    fn from(wire: v1::PartitionDescription) -> Self {
        let error = wire.error.map(|error| (code_of(&error), error.message));
        let replicas = wire.replicas.into_iter().map(|replica| ReplicaProgress {
            broker: BrokerId::new(replica.broker_id),
            acknowledged_offset: Some(replica.acknowledged_offset).filter(|at| *at >= 0).map(Offset::new),
            in_sync: replica.in_sync,
            behind: Duration::from_millis(replica.behind_ms),
        });
        Self {
            partition: PartitionId::new(wire.partition),
            leader: if error.is_none() { Some(BrokerId::new(wire.leader)) } else { None },
            error,
            leader_epoch: LeaderEpoch::new(wire.leader_epoch),
            log_start_offset: Offset::new(wire.log_start_offset),
            high_watermark: Offset::new(wire.high_watermark),
            log_end_offset: Offset::new(wire.log_end_offset),
            size_bytes: wire.size_bytes,
            replicas: replicas.collect(),
        }
    }
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id.
    pub cluster_id: String,
    /// The version of its metadata.
    pub metadata_version: MetadataVersion,
    /// Every broker that is registered.
    pub brokers: Vec<BrokerMetadata>,
    /// Every controller.
    pub controllers: Vec<ControllerDescription>,
    /// The controller that decides, if there is one now.
    pub active_controller: Option<ControllerId>,
    /// How many topics there are.
    pub topics: u32,
    /// How many partitions there are.
    pub partitions: u32,
    /// Partitions with fewer in-sync replicas than replicas.
    pub under_replicated_partitions: u32,
    /// Partitions without a leader.
    pub offline_partitions: u32,
}

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerDescription {
    /// Its id.
    pub id: ControllerId,
    /// Where it is reached, if known.
    pub address: Option<NodeAddress>,
    /// Whether it votes.
    pub voter: bool,
    /// The last log index known to be on it, as the active controller sees it; 0 if unknown.
    pub matched_index: u64,
}

impl From<v1::DescribeClusterResponse> for ClusterDescription {
    fn from(wire: v1::DescribeClusterResponse) -> Self {
        let controllers = wire.controllers.into_iter().map(|controller| ControllerDescription {
            id: ControllerId::new(controller.controller_id),
            address: controller.endpoint.and_then(|endpoint| {
                Some(NodeAddress { host: endpoint.host, port: u16::try_from(endpoint.port).ok()? })
            }),
            voter: controller.voter,
            matched_index: controller.matched_index,
        });
        Self {
            cluster_id: wire.cluster_id,
            metadata_version: MetadataVersion::new(wire.metadata_version),
            brokers: wire.brokers.iter().filter_map(broker_from_wire).collect(),
            controllers: controllers.collect(),
            active_controller: wire.active_controller.map(ControllerId::new),
            topics: wire.topics,
            partitions: wire.partitions,
            under_replicated_partitions: wire.under_replicated_partitions,
            offline_partitions: wire.offline_partitions,
        }
    }
}
