//! The consumer.

mod config;
mod record;

pub use config::{ConsumerConfig, OffsetReset};
pub use record::{ConsumerRecord, Position, StartAt};

use std::sync::Arc;
use std::time::Duration;

use highwater_types::PartitionId;

use crate::ConsumeError;
use crate::client::ClientInner;

/// Reads the partitions assigned to it.
pub struct Consumer {
    _client: Arc<ClientInner>,
}

impl Consumer {
    pub(crate) fn new(client: Arc<ClientInner>, _config: ConsumerConfig) -> Self {
        Self { _client: client }
    }
    /// Reads exactly these partitions from now on.
    pub async fn assign<T: AsRef<str>>(
        &mut self,
        _partitions: impl IntoIterator<Item = (T, PartitionId, StartAt)>,
    ) -> Result<(), ConsumeError> {
        Ok(())
    }
    /// Reads all partitions of this topic, and of no other, from now on.
    pub async fn assign_topic(&mut self, _topic: &str, _at: StartAt) -> Result<(), ConsumeError> {
        Ok(())
    }
    /// What is assigned.
    pub fn assignment(&self) -> Vec<(crate::TopicName, PartitionId)> {
        Vec::new()
    }
    /// Goes on reading an assigned partition elsewhere.
    pub async fn seek(
        &mut self,
        _topic: &str,
        _partition: PartitionId,
        _at: impl Into<StartAt>,
    ) -> Result<(), ConsumeError> {
        Ok(())
    }
    /// The next offset that `poll` will return of an assigned partition.
    pub fn position(&self, _topic: &str, _partition: PartitionId) -> Option<Position> {
        None
    }
    /// Returns records as soon as there are some; none after `wait`.
    pub async fn poll(&mut self, _wait: Duration) -> Result<Vec<ConsumerRecord>, ConsumeError> {
        Ok(Vec::new())
    }
}
