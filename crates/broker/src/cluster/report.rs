//! What the broker has to say in its heartbeats.

use std::collections::{BTreeMap, BTreeSet};

use highwater_metadata::{ClusterImage, PartitionLogEnd};
use highwater_protocol::internal::{BrokerHeartbeat, LogEnd};
use highwater_types::{BrokerId, MetadataVersion, TopicPartition};

#[derive(Debug, Default)]
pub(super) struct Report {
    pub applied: MetadataVersion,
    pub wants_shutdown: bool,
    pub unusable: BTreeSet<TopicPartition>,
    pub lost: BTreeSet<TopicPartition>,
    pub doubtful: BTreeSet<TopicPartition>,
    pub log_ends: BTreeMap<TopicPartition, PartitionLogEnd>,
}

impl Report {
    /// The heartbeat to send now. Log ends that `image` does not await any more are forgotten.
    pub(super) fn heartbeat(&mut self, image: &ClusterImage, me: BrokerId) -> BrokerHeartbeat {
        self.log_ends.retain(|tp, _| image.awaits_log_end(*tp, me));
        let log_ends = self.log_ends.values().map(|end| LogEnd {
            partition: Some(end.partition.into()),
            last_epoch: end.last_epoch.get(),
            log_end_offset: end.log_end_offset.get(),
        });
        BrokerHeartbeat {
            metadata_version: self.applied.get(),
            wants_shutdown: self.wants_shutdown,
            log_ends: log_ends.collect(),
            unusable: self.unusable.iter().map(|tp| (*tp).into()).collect(),
            lost: self.lost.iter().map(|tp| (*tp).into()).collect(),
            doubtful: self.doubtful.iter().map(|tp| (*tp).into()).collect(),
        }
    }
}
