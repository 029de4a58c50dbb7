//! What administration asks of the partitions here.

use highwater_protocol::v1;
use highwater_types::{Offset, TopicPartition};

use super::admin::LocalPartitions;
use super::error::to_wire;
use crate::core::Core;

#[tonic::async_trait]
impl LocalPartitions for Core {
    fn describe(&self, tp: TopicPartition) -> Result<v1::PartitionDescription, v1::Error> {
        let described = self.partitions.find(tp).and_then(|partition| partition.describe());
        let described = described.map_err(|error| to_wire(&error, &self.partitions.image()))?;
        let replica = |progress: &highwater_replication::ReplicaProgress| v1::ReplicaProgress {
            broker_id: progress.broker.get(),
            acknowledged_offset: progress.log_end.map_or(-1, Offset::get),
            in_sync: progress.in_isr,
            behind_ms: progress.behind_for.map_or(u64::MAX, |behind| behind.as_millis() as u64),
        };
        Ok(v1::PartitionDescription {
            partition: tp.partition.get(),
            error: None,
            leader: self.partitions.me().get(),
            leader_epoch: described.leader_epoch.get(),
            log_start_offset: described.log_start.get(),
            high_watermark: described.high_watermark.get(),
            log_end_offset: described.log_end.get(),
            size_bytes: described.size_bytes,
            replicas: described.replicas.iter().map(replica).collect(),
        })
    }

    async fn delete_records(&self, tp: TopicPartition, before: Option<Offset>) -> Result<Offset, v1::Error> {
        let deleted = match self.partitions.find(tp) {
            Ok(partition) => partition.delete_records(before).await,
            Err(error) => Err(error),
        };
        deleted.map_err(|error| to_wire(&error, &self.partitions.image()))
    }
}
