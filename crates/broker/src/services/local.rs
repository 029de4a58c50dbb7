//! What administration asks of the partitions here.

use std::sync::Arc;

use highwater_protocol::{topic_id_bytes, v1};
use highwater_types::{ErrorCode, Offset, TopicPartition};

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

    fn log_dirs(&self) -> Vec<v1::LogDir> {
        let all = self.partitions.all();
        let describe = |dir: &Arc<highwater_storage::DataDir>| {
            let status = dir.status();
            let offline = status.offline_reason().map(|why| v1::Error::new(ErrorCode::StorageOffline, &*why));
            let here = all.iter().filter(|(_, partition)| Arc::ptr_eq(partition.dir(), dir));
            let replica = |(tp, partition): (&TopicPartition, &Arc<crate::partition::Partition>)| {
                let size = partition.replica_size().ok()?;
                let (topic_id, partition) = (topic_id_bytes(tp.topic), tp.partition.get());
                Some(v1::LogDirReplica { topic_id, partition, size_bytes: size.bytes, offset_lag: size.lacks })
            };
            v1::LogDir {
                path: dir.path().display().to_string(),
                total_bytes: status.total_bytes(),
                usable_bytes: status.free_bytes(),
                replicas: if offline.is_some() { Vec::new() } else { here.filter_map(replica).collect() },
                error: offline,
            }
        };
        self.partitions.data_dirs().map(describe).collect()
    }

    async fn delete_records(&self, tp: TopicPartition, before: Option<Offset>) -> Result<Offset, v1::Error> {
        let deleted = match self.partitions.find(tp) {
            Ok(partition) => partition.delete_records(before).await,
            Err(error) => Err(error),
        };
        deleted.map_err(|error| to_wire(&error, &self.partitions.image()))
    }
}
