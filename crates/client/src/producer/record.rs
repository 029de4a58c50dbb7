//! A record on its way in, and where it ended up.

use std::sync::Arc;

use bytes::Bytes;
use highwater_record::HEADER_LEN;
use highwater_types::{Offset, PartitionId, TimestampMs, TopicName};

/// The name of a topic to produce to. Make one and clone it where many records go to one topic: that copies nothing.
#[derive(Debug, Clone)]
pub struct TopicRef(Name);

#[derive(Debug, Clone)]
enum Name {
    Shared(Arc<str>),
    Checked(TopicName),
}

impl TopicRef {
    /// The name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Name::Shared(name) => name,
            Name::Checked(name) => name.as_str(),
        }
    }
}

impl PartialEq for TopicRef {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for TopicRef {}

impl From<&str> for TopicRef {
    fn from(name: &str) -> Self {
        Self(Name::Shared(name.into()))
    }
}
impl From<String> for TopicRef {
    fn from(name: String) -> Self {
        Self(Name::Shared(name.into()))
    }
}
impl From<&String> for TopicRef {
    fn from(name: &String) -> Self {
        Self::from(name.as_str())
    }
}
impl From<Arc<str>> for TopicRef {
    fn from(name: Arc<str>) -> Self {
        Self(Name::Shared(name))
    }
}
impl From<TopicName> for TopicRef {
    fn from(name: TopicName) -> Self {
        Self(Name::Checked(name))
    }
}
impl From<&TopicName> for TopicRef {
    fn from(name: &TopicName) -> Self {
        Self(Name::Checked(name.clone()))
    }
}
impl From<&TopicRef> for TopicRef {
    fn from(name: &TopicRef) -> Self {
        name.clone()
    }
}

/// One record to send.
#[derive(Debug, Clone)]
pub struct ProducerRecord {
    pub(crate) topic: TopicRef,
    pub(crate) partition: Option<PartitionId>,
    pub(crate) timestamp: Option<TimestampMs>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(Bytes, Option<Bytes>)>,
}

impl ProducerRecord {
    /// A record without key and value.
    pub fn new(topic: impl Into<TopicRef>) -> Self {
        Self { topic: topic.into(), partition: None, timestamp: None, key: None, value: None, headers: Vec::new() }
    }

    /// Records of one key go to one partition, in order, while the number of partitions stays.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The payload.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header. Order and repeated names are kept.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((Bytes::from(name.into()), Some(value.into())));
        self
    }

    /// Adds a header with a null value.
    #[must_use]
    pub fn null_header(mut self, name: impl Into<String>) -> Self {
        self.headers.push((Bytes::from(name.into()), None));
        self
    }

    /// Sends it to this partition, whatever the partitioner would say.
    #[must_use]
    pub fn partition(mut self, partition: impl Into<PartitionNumber>) -> Self {
        self.partition = Some(partition.into().0);
        self
    }

    /// Instead of the time of [`send`](crate::Producer::send).
    #[must_use]
    pub fn timestamp(mut self, timestamp: TimestampMs) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Bytes that it takes of the buffer, and the most that it can take in a batch.
    pub(crate) fn bytes_max(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| 10 + name.len() + value.as_ref().map_or(0, Bytes::len));
        let key_and_value = self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len);
        36 + key_and_value + headers.sum::<usize>()
    }

    /// The least bytes that a batch of it alone takes.
    pub(crate) fn batch_bytes_min(&self) -> usize {
        HEADER_LEN + self.bytes_max() - 36 - 10 * self.headers.len()
    }
}

/// A partition, from its id or its bare number.
#[derive(Debug, Clone, Copy)]
pub struct PartitionNumber(pub(crate) PartitionId);

impl From<PartitionId> for PartitionNumber {
    fn from(partition: PartitionId) -> Self {
        Self(partition)
    }
}
impl From<u32> for PartitionNumber {
    fn from(partition: u32) -> Self {
        Self(PartitionId::new(partition))
    }
}

/// Where an acknowledged record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: PartitionId,
    /// The record's offset; `None` with [`Acks::None`](crate::Acks::None), which tells nobody, and where a record sent
    /// again after a lost answer was found stored, too long ago for its leader to know where.
    pub offset: Option<Offset>,
    /// The record's timestamp in the log: its own, or the leader's where the topic says LogAppendTime.
    pub timestamp: TimestampMs,
}
