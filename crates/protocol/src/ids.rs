//! Ids to and from the wire.

use bytes::Bytes;
use highwater_types::{PartitionId, TopicId, TopicPartition};

use crate::error::ProtocolError;
use crate::{internal, v1};

/// A topic id as the wire has it.
pub fn topic_id_bytes(topic: TopicId) -> Bytes {
    Bytes::copy_from_slice(topic.as_bytes())
}

/// Messages that name a partition by topic id.
pub trait PartitionKey {
    fn topic_id_field(&self) -> &Bytes;
    fn partition_field(&self) -> u32;

    /// The partition named, if the id is well-formed.
    fn topic_partition(&self) -> Result<TopicPartition, ProtocolError> {
        let bytes = self.topic_id_field();
        let topic = TopicId::from_slice(bytes).ok_or(ProtocolError::TopicId { length: bytes.len() })?;
        Ok(TopicPartition::new(topic, PartitionId::new(self.partition_field())))
    }
}

macro_rules! partition_key {
    ($($message:ty),* $(,)?) => {$(
        impl PartitionKey for $message {
            fn topic_id_field(&self) -> &Bytes {
                &self.topic_id
            }
            fn partition_field(&self) -> u32 {
                self.partition
            }
        }
    )*};
}

partition_key!(
    v1::ProducePartition,
    v1::ProducePartitionResult,
    v1::FetchPartition,
    v1::FetchPartitionResult,
    v1::ListOffsetsPartition,
    v1::ListOffsetsPartitionResult,
    v1::EpochOfPartition,
    v1::EpochOfPartitionResult,
    v1::DeleteRecordsRequest,
    v1::PartitionToElect,
    v1::OffsetToCommit,
    v1::CommittedPartition,
    v1::CommittedOffset,
    internal::ReplicaFetchPartition,
    internal::ReplicaFetchPartitionResult,
    internal::ForgottenPartition,
    internal::TopicIdPartition,
);

impl From<TopicPartition> for internal::TopicIdPartition {
    fn from(tp: TopicPartition) -> Self {
        Self { topic_id: topic_id_bytes(tp.topic), partition: tp.partition.get() }
    }
}
