//! Why a command was refused. Nothing was changed then.

use highwater_types::{
    BrokerEpoch, BrokerId, ControllerId, ErrorCode, LeaderEpoch, PartitionEpoch, TopicId, TopicPartition,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
pub enum CommandError {
    #[error("this cluster is {found} already and can't become {asked}")]
    ClusterExists { asked: String, found: String },
    #[error("the cluster has not been created yet; try again")]
    NoCluster,
    #[error(
        "broker {broker} has data of cluster {found}, and this is cluster {cluster}: it was pointed at the wrong \
         controllers or the wrong data dir"
    )]
    WrongCluster { broker: BrokerId, found: String, cluster: String },
    #[error(
        "another process is registered as broker {broker} (epoch {broker_epoch}) and not yet known to be gone; if it \
         is gone this passes by itself, otherwise give each broker its own id"
    )]
    DuplicateRegistration { broker: BrokerId, broker_epoch: BrokerEpoch },
    #[error("broker {broker} is not registered")]
    UnknownBroker { broker: BrokerId },
    #[error("broker {broker} has epoch {current} now, and the request came from its epoch {asked}")]
    StaleBrokerEpoch { broker: BrokerId, asked: BrokerEpoch, current: BrokerEpoch },
    #[error("all producer ids are given out")]
    NoProducerIds,
    #[error("broker {broker} is shutting down")]
    ShuttingDown { broker: BrokerId },

    #[error("there is no topic {name:?}")]
    UnknownTopic { name: String },
    #[error("there is no topic with id {topic}; it may have been deleted")]
    UnknownTopicId { topic: TopicId },
    #[error("there is no partition {partition}: the topic has {partitions}")]
    UnknownPartition { partition: TopicPartition, partitions: usize },

    #[error("broker {broker} does not lead {partition}; {} does", leader_text(*.leader))]
    NotLeader { partition: TopicPartition, broker: BrokerId, leader: Option<BrokerId> },
    #[error("{partition} is in leader epoch {current}, and the request is of {asked}")]
    FencedLeaderEpoch { partition: TopicPartition, asked: LeaderEpoch, current: LeaderEpoch },
    #[error("{partition} is in leader epoch {current}, and the request is of the newer {asked}; try again")]
    UnknownLeaderEpoch { partition: TopicPartition, asked: LeaderEpoch, current: LeaderEpoch },
    #[error("{partition} is at partition epoch {current}, and the proposal was made on {asked}")]
    StalePartitionEpoch { partition: TopicPartition, asked: PartitionEpoch, current: PartitionEpoch },
    #[error("broker {broker} can't be in the ISR of {partition}: {why}")]
    IneligibleReplica { partition: TopicPartition, broker: BrokerId, why: Ineligible },
    #[error("the proposed ISR of {partition} is wrong: {why}")]
    InvalidIsr { partition: TopicPartition, why: String },

    #[error("there is a topic {name:?} already")]
    TopicExists { name: String },
    #[error("{message}")]
    InvalidTopicName { message: String },
    #[error("{message}")]
    InvalidConfig { message: String },
    #[error("{message}")]
    InvalidPartitionCount { message: String },
    #[error("{message}")]
    InvalidReplicationFactor { message: String },
    #[error("{message}")]
    InvalidAssignment { message: String },
    #[error("{message}")]
    InvalidRequest { message: String },

    #[error("there is no controller {controller}")]
    UnknownController { controller: ControllerId },
}

/// Why a replica can't be in an ISR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ineligible {
    #[error("it is fenced")]
    Fenced,
    #[error("it is shutting down")]
    ShuttingDown,
    #[error("it has restarted since it was seen to be in sync")]
    Restarted,
    #[error("the proposal does not state its broker epoch")]
    NoBrokerEpoch,
    #[error("its data there is damaged or offline")]
    Unusable,
}

fn leader_text(leader: Option<BrokerId>) -> String {
    leader.map_or_else(|| "nobody".to_owned(), |leader| format!("broker {leader}"))
}

impl CommandError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ClusterExists { .. } => ErrorCode::Conflict,
            Self::NoCluster => ErrorCode::ControllerNotAvailable,
            Self::WrongCluster { .. } | Self::InvalidIsr { .. } | Self::InvalidRequest { .. } => {
                ErrorCode::InvalidRequest
            }
            Self::DuplicateRegistration { .. } => ErrorCode::DuplicateBrokerRegistration,
            Self::UnknownBroker { .. } => ErrorCode::UnknownBroker,
            Self::StaleBrokerEpoch { .. } => ErrorCode::StaleBrokerEpoch,
            Self::NoProducerIds => ErrorCode::Unsupported,
            Self::ShuttingDown { .. } => ErrorCode::BrokerShuttingDown,
            Self::UnknownTopic { .. } => ErrorCode::UnknownTopic,
            Self::UnknownTopicId { .. } => ErrorCode::UnknownTopicId,
            Self::UnknownPartition { .. } => ErrorCode::UnknownPartition,
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
            Self::StalePartitionEpoch { .. } => ErrorCode::InvalidUpdateVersion,
            Self::IneligibleReplica { .. } => ErrorCode::IneligibleReplica,
            Self::TopicExists { .. } => ErrorCode::TopicAlreadyExists,
            Self::InvalidTopicName { .. } => ErrorCode::InvalidTopicName,
            Self::InvalidConfig { .. } => ErrorCode::InvalidConfig,
            Self::InvalidPartitionCount { .. } => ErrorCode::InvalidPartitionCount,
            Self::InvalidReplicationFactor { .. } => ErrorCode::InvalidReplicationFactor,
            Self::InvalidAssignment { .. } => ErrorCode::InvalidReplicaAssignment,
            Self::UnknownController { .. } => ErrorCode::UnknownController,
        }
    }
}
