//! Metadata records: the only way an image changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::{BrokerEpoch, BrokerId, ControllerId, MetadataVersion, ProducerId, TopicId, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::image::{
    BrokerEpochCounter, BrokerState, ClusterImage, ControllerState, JsonError, PartitionState, ProducerIdCounter,
    TopicState,
};

/// One change of the image. Each states the new value whole, so that replay needs no rules. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Record {
    ClusterCreated {
        cluster_id: String,
    },
    /// A new incarnation, under a new broker epoch.
    BrokerRegistered {
        broker: BrokerState,
    },
    /// Of the same incarnation.
    BrokerChanged {
        broker: BrokerId,
        broker_epoch: BrokerEpoch,
        fenced: bool,
        shutting_down: bool,
    },
    TopicCreated {
        topic: TopicState,
    },
    TopicDeleted {
        topic: TopicId,
    },
    /// The overrides, whole.
    TopicConfigured {
        topic: TopicId,
        configs: BTreeMap<String, String>,
    },
    /// New partitions, after the last one.
    PartitionsAdded {
        topic: TopicId,
        partitions: Vec<PartitionState>,
    },
    PartitionChanged {
        partition: TopicPartition,
        state: PartitionState,
    },
    /// Every producer id below `next` is given out.
    ProducerIdsAllocated {
        next: ProducerId,
    },
    ControllerChanged {
        controller: ControllerState,
    },
    ControllerRemoved {
        controller: ControllerId,
    },
}

/// A record that does not fit the image: the two do not belong together. The image is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("a record at version {version} changes the unknown topic {topic}")]
    UnknownTopic { version: MetadataVersion, topic: TopicId },
    #[error("a record at version {version} changes the unknown partition {partition}")]
    UnknownPartition { version: MetadataVersion, partition: TopicPartition },
    #[error("a record at version {version} changes the unknown broker {broker} of epoch {broker_epoch}")]
    UnknownBroker { version: MetadataVersion, broker: BrokerId, broker_epoch: BrokerEpoch },
    #[error("a record at version {version} creates the topic {topic} a second time")]
    TopicExists { version: MetadataVersion, topic: TopicId },
}

impl Record {
    pub fn to_json(&self) -> Vec<u8> {
        // Plain structs with string keys: serialization into memory can't fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn from_json(bytes: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice(bytes).map_err(|source| JsonError { what: "a metadata record", source })
    }
}

impl ClusterImage {
    /// Applies one record and moves the version on by one.
    pub fn replay(&mut self, record: &Record) -> Result<(), ReplayError> {
        let version = self.version;
        match record {
            Record::ClusterCreated { cluster_id } => self.cluster_id.clone_from(cluster_id),
            Record::BrokerRegistered { broker } => {
                self.next_broker_epoch = BrokerEpochCounter(self.next_broker_epoch.0.max(broker.broker_epoch.next()));
                self.brokers.insert(broker.id, broker.clone());
            }
            Record::BrokerChanged { broker, broker_epoch, fenced, shutting_down } => {
                let state = self.brokers.get_mut(broker).filter(|b| b.broker_epoch == *broker_epoch);
                let unknown = || ReplayError::UnknownBroker { version, broker: *broker, broker_epoch: *broker_epoch };
                let state = state.ok_or_else(unknown)?;
                (state.fenced, state.shutting_down) = (*fenced, *shutting_down);
            }
            Record::TopicCreated { topic } => {
                if self.topics.contains_key(&topic.id) || self.names.contains_key(&topic.name) {
                    return Err(ReplayError::TopicExists { version, topic: topic.id });
                }
                self.names.insert(topic.name.clone(), topic.id);
                self.topics.insert(topic.id, Arc::new(topic.clone()));
            }
            Record::TopicDeleted { topic } => {
                let removed = self.topics.remove(topic);
                let removed = removed.ok_or(ReplayError::UnknownTopic { version, topic: *topic })?;
                self.names.remove(&removed.name);
            }
            Record::TopicConfigured { topic, configs } => self.topic_mut(*topic)?.configs.clone_from(configs),
            Record::PartitionsAdded { topic, partitions } => {
                self.topic_mut(*topic)?.partitions.extend_from_slice(partitions);
            }
            Record::PartitionChanged { partition, state } => {
                let topic = self.topic_mut(partition.topic)?;
                let slot = topic.partitions.get_mut(partition.partition.get() as usize);
                *slot.ok_or(ReplayError::UnknownPartition { version, partition: *partition })? = state.clone();
            }
            Record::ProducerIdsAllocated { next } => {
                self.next_producer_id = ProducerIdCounter(self.next_producer_id.0.max(*next));
            }
            Record::ControllerChanged { controller } => {
                self.controllers.insert(controller.id, controller.clone());
            }
            Record::ControllerRemoved { controller } => {
                self.controllers.remove(controller);
            }
        }
        self.version = version.plus(1);
        Ok(())
    }

    /// Applies records in order; stops at the first that does not fit.
    pub fn replay_all<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) -> Result<(), ReplayError> {
        records.into_iter().try_for_each(|record| self.replay(record))
    }

    fn topic_mut(&mut self, topic: TopicId) -> Result<&mut TopicState, ReplayError> {
        let version = self.version;
        self.topics.get_mut(&topic).map(Arc::make_mut).ok_or(ReplayError::UnknownTopic { version, topic })
    }
}
