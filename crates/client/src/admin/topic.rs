//! A topic to be created.

use std::collections::BTreeMap;

use highwater_protocol::v1;
use highwater_types::BrokerId;

use crate::metadata::{PartitionMetadata, TopicMetadata};

/// A topic to be created.
#[derive(Debug, Clone)]
pub struct NewTopic {
    pub(crate) name: String,
    partitions: u32,
    replication_factor: u32,
    configs: Vec<(String, String)>,
    assignments: Vec<Vec<BrokerId>>,
    pub(crate) validate_only: bool,
}

impl NewTopic {
    /// With so many partitions of so many replicas each; 0 takes the cluster's default.
    pub fn new(name: impl Into<String>, partitions: u32, replication_factor: u32) -> Self {
        Self {
            name: name.into(),
            partitions,
            replication_factor,
            configs: Vec::new(),
            assignments: Vec::new(),
            validate_only: false,
        }
    }

    /// On these brokers, one list for each partition, its preferred leader first.
    pub fn with_assignments(name: impl Into<String>, assignments: Vec<Vec<BrokerId>>) -> Self {
        Self { assignments, ..Self::new(name, 0, 0) }
    }

    /// Sets a config other than to its default.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((key.into(), value.into()));
        self
    }

    /// Only checks whether it could be created.
    #[must_use]
    pub fn validate_only(mut self) -> Self {
        self.validate_only = true;
        self
    }

    pub(crate) fn into_wire(self) -> v1::CreateTopicRequest {
        let replicas = |list: Vec<BrokerId>| list.into_iter().map(BrokerId::get).collect();
        let assignments = self.assignments.into_iter().map(|list| v1::ReplicaAssignment { replicas: replicas(list) });
        v1::CreateTopicRequest {
            name: self.name,
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.configs.into_iter().collect(),
            assignments: assignments.collect(),
            validate_only: self.validate_only,
        }
    }
}

/// Whether a topic that is there could be what this request made.
pub(super) fn is_as_asked(topic: &TopicMetadata, request: &v1::CreateTopicRequest) -> bool {
    let replicas = |partition: &PartitionMetadata| partition.replicas.iter().map(|id| id.get()).collect::<Vec<_>>();
    let placed = if request.assignments.is_empty() {
        let factor = request.replication_factor as usize;
        (request.partitions == 0 || topic.partitions.len() == request.partitions as usize)
            && (factor == 0 || topic.partitions.iter().all(|partition| partition.replicas.len() == factor))
    } else {
        let asked = request.assignments.iter().map(|assignment| assignment.replicas.clone());
        topic.partitions.iter().map(replicas).eq(asked)
    };
    let asked: BTreeMap<_, _> = request.configs.clone().into_iter().collect();
    placed && topic.configs == asked
}
