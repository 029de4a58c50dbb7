//! What the coordinators see of the cluster's topics.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::{TopicId, TopicName};

/// The topics that groups can subscribe to, at one metadata version. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics {
    by_id: Arc<BTreeMap<TopicId, TopicInfo>>,
    by_name: Arc<BTreeMap<TopicName, TopicId>>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: TopicName,
    /// For each partition, the racks of its replicas; empty where none is known.
    pub racks: Vec<Vec<Arc<str>>>,
}

impl TopicInfo {
    pub fn partitions(&self) -> u32 {
        self.racks.len() as u32
    }
}

impl Topics {
    pub fn new(topics: impl IntoIterator<Item = (TopicId, TopicInfo)>) -> Self {
        let by_id: BTreeMap<_, _> = topics.into_iter().collect();
        let by_name = by_id.iter().map(|(id, topic)| (topic.name.clone(), *id)).collect();
        Self { by_id: Arc::new(by_id), by_name: Arc::new(by_name) }
    }

    pub fn get(&self, id: TopicId) -> Option<&TopicInfo> {
        self.by_id.get(&id)
    }

    pub fn id_of(&self, name: &str) -> Option<TopicId> {
        self.by_name.get(name).copied()
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, &TopicInfo)> {
        self.by_id.iter().map(|(id, topic)| (*id, topic))
    }
}
