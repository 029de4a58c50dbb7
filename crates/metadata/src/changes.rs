//! What differs between two images, so that those who follow them look only there.

use std::collections::BTreeSet;
use std::sync::Arc;

use highwater_types::{BrokerId, TopicId};

use crate::image::ClusterImage;
use crate::record::Record;

/// The parts that changed. Names what to look at in the newer image; what is not in it any more was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Topics created, deleted, reconfigured, or with changed partitions.
    pub topics: BTreeSet<TopicId>,
    pub brokers: BTreeSet<BrokerId>,
    pub controllers: bool,
    pub cluster_id: bool,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what `record` changes.
    pub fn add(&mut self, record: &Record) {
        match record {
            Record::ClusterCreated { .. } => self.cluster_id = true,
            Record::BrokerRegistered { broker } => _ = self.brokers.insert(broker.id),
            Record::BrokerChanged { broker, .. } => _ = self.brokers.insert(*broker),
            Record::TopicCreated { topic } => _ = self.topics.insert(topic.id),
            Record::TopicDeleted { topic }
            | Record::TopicConfigured { topic, .. }
            | Record::PartitionsAdded { topic, .. } => _ = self.topics.insert(*topic),
            Record::PartitionChanged { partition, .. } => _ = self.topics.insert(partition.topic),
            // Nobody but the controller looks at the counter.
            Record::ProducerIdsAllocated { .. } => {}
            Record::ControllerChanged { .. } | Record::ControllerRemoved { .. } => self.controllers = true,
        }
    }

    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut changes = Self::default();
        records.into_iter().for_each(|record| changes.add(record));
        changes
    }

    /// Adds everything that `other` names.
    pub fn merge(&mut self, other: Self) {
        self.topics.extend(other.topics);
        self.brokers.extend(other.brokers);
        self.controllers |= other.controllers;
        self.cluster_id |= other.cluster_id;
    }

    /// The difference between two images, for those who were handed a snapshot or missed some steps.
    pub fn between(old: &ClusterImage, new: &ClusterImage) -> Self {
        let mut changes = Self {
            controllers: old.controllers != new.controllers,
            cluster_id: old.cluster_id != new.cluster_id,
            ..Self::default()
        };
        for (id, topic) in &new.topics {
            if !old.topics.get(id).is_some_and(|before| Arc::ptr_eq(before, topic) || before == topic) {
                changes.topics.insert(*id);
            }
        }
        changes.topics.extend(old.topics.keys().filter(|id| !new.topics.contains_key(id)));
        for (id, broker) in &new.brokers {
            if old.brokers.get(id) != Some(broker) {
                changes.brokers.insert(*id);
            }
        }
        changes.brokers.extend(old.brokers.keys().filter(|id| !new.brokers.contains_key(id)));
        changes
    }
}
