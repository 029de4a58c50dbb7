//! What can be asked of the active controller, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{
    BrokerEpoch, BrokerId, ControllerId, IncarnationId, LeaderEpoch, Offset, PartitionEpoch, ProducerId, TopicId,
    TopicPartition,
};
use serde::{Deserialize, Serialize};

use crate::error::CommandError;
use crate::image::{Endpoint, JsonError, NamedEndpoint, TopicState};

/// What a broker says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    pub broker: BrokerId,
    /// Chosen at random when the process started.
    pub incarnation: IncarnationId,
    /// As its disks have it. `None`: they are new and hold nothing.
    pub cluster_id: Option<String>,
    pub client_endpoint: Endpoint,
    pub internal_endpoint: Endpoint,
    /// Of further front doors.
    #[serde(default)]
    pub listeners: Vec<NamedEndpoint>,
    pub rack: Option<String>,
    /// Whether the run before this one ended with its data on disk. Proved by `previous_broker_epoch`.
    pub clean_shutdown: bool,
    /// The broker epoch which the clean-shutdown marker states; [`BrokerEpoch::NONE`] without one.
    pub previous_broker_epoch: BrokerEpoch,
}

/// A member of a proposed ISR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsrMember {
    pub broker: BrokerId,
    /// As its fetches stated it; [`BrokerEpoch::NONE`] for one already in the ISR that has not fetched yet, and for the
    /// leader itself.
    pub broker_epoch: BrokerEpoch,
}

/// One ISR proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    /// Of the state that the proposal was made on.
    pub partition_epoch: PartitionEpoch,
    pub new_isr: Vec<IsrMember>,
    /// The leader has finished recovering after an unclean election. Needed before others can join its ISR.
    pub recovered: bool,
}

/// What became of an accepted ISR proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlteredPartition {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<BrokerId>,
}

/// The end of a replica's log, for an unclean election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionLogEnd {
    pub partition: TopicPartition,
    pub last_epoch: LeaderEpoch,
    pub log_end_offset: Offset,
}

/// Which leader is wished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Election {
    /// The first replica, where it is in sync.
    Preferred,
    /// Where nobody leads: the replica that is up and has the longest log, whatever is lost by it.
    Unclean,
}

/// What became of the election of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ElectionOutcome {
    Elected,
    /// Who was wished leads already; or, for an unclean election, somebody does.
    NotNeeded,
    /// The preferred replica is down, not in sync, or its storage can't be used.
    PreferredNotAvailable,
    /// No replica is up.
    NoReplicaAvailable,
    /// The replicas that are up are being asked where their logs end; then one leads.
    Awaited,
    UnknownPartition,
}

/// A request for a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Command {
    /// Names the cluster; `None`: make up an id from the seed. Done once.
    CreateCluster {
        cluster_id: Option<String>,
    },
    /// Gives a broker epoch, the same again to the same incarnation. A new incarnation starts fenced.
    RegisterBroker(Registration),
    /// The broker is gone: it leaves every ISR, and others are elected. Nothing to do if it is fenced already.
    FenceBroker {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    /// The broker has caught up with the metadata and reported what it can't serve: it may lead.
    UnfenceBroker {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    /// Moves leadership away from the broker and takes it out of every ISR that has another active member.
    BeginControlledShutdown {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    AlterPartitions {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        partitions: Vec<AlterPartition>,
    },
    CreateTopic {
        name: String,
        /// With `assignments`: 0. Otherwise at least 1; see [`Command::with_defaults`].
        partitions: u32,
        replication_factor: u32,
        configs: BTreeMap<String, String>,
        /// The replicas of each partition, the preferred leader first; empty: place them.
        assignments: Vec<Vec<BrokerId>>,
        /// Answers what would be, and changes nothing.
        validate_only: bool,
    },
    DeleteTopic {
        name: String,
    },
    /// This topic, and no later one of the same name (T21).
    DeleteTopicById {
        topic: TopicId,
    },
    AlterTopic {
        name: String,
        set_configs: BTreeMap<String, String>,
        unset_configs: BTreeSet<String>,
        /// Decided on the lists as they are then: two who change one at a time both have their way.
        #[serde(default)]
        list_changes: Vec<ListChange>,
        /// 0: as many as there are, and as `assignments` add.
        partitions: u32,
        /// Whether it is refused if there are as many already.
        #[serde(default)]
        must_grow: bool,
        /// The replicas of each new partition, the preferred leader first; empty: place them.
        #[serde(default)]
        assignments: Vec<Vec<BrokerId>>,
        /// Answers what would be, and changes nothing.
        #[serde(default)]
        validate_only: bool,
    },
    /// Elects leaders of these partitions (KIP-460). Empty: of all.
    ElectLeaders {
        election: Election,
        partitions: BTreeSet<TopicPartition>,
    },
    /// Moves leadership to the first replica wherever it is in sync. Empty: in all topics.
    ElectPreferred {
        topics: BTreeSet<String>,
    },
    /// Ends of logs that an unclean election waits for ([`crate::ClusterImage::awaits_log_end`]); others are passed over.
    ReportLogEnds {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        ends: Vec<PartitionLogEnd>,
    },
    /// Every partition that the broker can't serve now; one that is not named any more can be served again.
    ReportUnusable {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        /// Data damaged or offline: still a copy, for want of a better one.
        unusable: BTreeSet<TopicPartition>,
        /// Storage lost: not a copy any more.
        #[serde(default)]
        lost: BTreeSet<TopicPartition>,
        /// Recovery cut the log where synced records may have been: not to pass for a full copy.
        #[serde(default)]
        doubtful: BTreeSet<TopicPartition>,
    },
    /// A block of producer ids that nobody was or will be given besides. Each asking gets another.
    AllocateProducerIds {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    /// Adds a controller, or changes its endpoint.
    AddController {
        controller: ControllerId,
        endpoint: Endpoint,
    },
    RemoveController {
        controller: ControllerId,
    },
}

/// Items that are added to a list among a topic's configs, or taken from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChange {
    pub key: String,
    /// Separated by commas.
    pub items: String,
    /// Otherwise they are taken from it.
    pub add: bool,
}

/// The answer to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CommandResponse {
    Done,
    ClusterCreated {
        cluster_id: String,
    },
    Registered {
        broker_epoch: BrokerEpoch,
        cluster_id: String,
    },
    /// In the order of the request.
    PartitionsAltered {
        partitions: Vec<(TopicPartition, Result<AlteredPartition, CommandError>)>,
    },
    /// The topic as it is after the command.
    Topic {
        topic: TopicState,
    },
    TopicDeleted {
        topic: TopicId,
    },
    PreferredElected {
        moved: u32,
    },
    /// Those asked for; if that was all, those with something to do.
    LeadersElected {
        partitions: Vec<(TopicPartition, ElectionOutcome)>,
    },
    /// `count` ids from `first` on.
    ProducerIdsAllocated {
        first: ProducerId,
        count: u32,
    },
}

impl Command {
    /// Fills in what the caller of a `CreateTopic` left to the cluster (0).
    #[must_use]
    pub fn with_defaults(mut self, default_partitions: u32, default_replication_factor: u32) -> Self {
        if let Self::CreateTopic { partitions, replication_factor, assignments, .. } = &mut self
            && assignments.is_empty()
        {
            if *partitions == 0 {
                *partitions = default_partitions;
            }
            if *replication_factor == 0 {
                *replication_factor = default_replication_factor;
            }
        }
        self
    }

    pub fn to_json(&self) -> Vec<u8> {
        // Plain structs with string keys: serialization into memory can't fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(bytes).map_err(|source| JsonError { what: "a command", source })
    }
}

impl CommandResponse {
    pub fn to_json(&self) -> Vec<u8> {
        // Plain structs with string keys: serialization into memory can't fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(bytes).map_err(|source| JsonError { what: "a command's response", source })
    }
}
