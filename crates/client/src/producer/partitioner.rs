//! Which partition a record goes to.

use highwater_record::partition_for_key;
use highwater_types::{PartitionId, TopicName};

/// What a partitioner may look at.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Placement<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// How many partitions it has, numbered from 0. Never 0.
    pub partitions: u32,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's value.
    pub value: Option<&'a [u8]>,
}

impl Placement<'_> {
    /// The partition that the default partitioner, and Kafka's, gives to `key`.
    pub fn by_key(&self, key: &[u8]) -> PartitionId {
        partition_for_key(key, self.partitions)
    }
}

/// Places records. Called for each record without an explicit partition, under a lock: quick, and never blocking.
pub trait Partitioner: Send + Sync + 'static {
    /// A partition from `0..placement.partitions`; any other makes `send` fail with
    /// [`ErrorCode::UnknownPartition`](highwater_types::ErrorCode).
    fn partition(&self, placement: &Placement<'_>) -> PartitionId;
}

impl<F> Partitioner for F
where
    F: Fn(&Placement<'_>) -> PartitionId + Send + Sync + 'static,
{
    fn partition(&self, placement: &Placement<'_>) -> PartitionId {
        self(placement)
    }
}
