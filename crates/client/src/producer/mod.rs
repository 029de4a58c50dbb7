//! The producer.

mod config;
mod partitioner;
mod record;

pub use config::{Acks, Partitioning, ProducerConfig};
pub use partitioner::{Partitioner, Placement};
pub use record::{PartitionNumber, ProducerRecord, RecordMetadata, TopicRef};

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::client::ClientInner;
use crate::{ErrorCode, FlushError, InvalidSetting, ProduceError};

/// A producer.
#[derive(Clone)]
pub struct Producer {
    _client: Arc<ClientInner>,
}

/// Resolves when the record is settled.
#[derive(Debug)]
pub struct Delivery(ProduceError);

impl Future for Delivery {
    type Output = Result<RecordMetadata, ProduceError>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Err(self.0.clone()))
    }
}

impl Producer {
    pub(crate) fn new(client: Arc<ClientInner>, config: ProducerConfig) -> Result<Self, InvalidSetting> {
        config.check()?;
        Ok(Self { _client: client })
    }
    /// Accepts a record; waits only for buffer space and, the first time, for the topic's metadata.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ProduceError> {
        Err(ProduceError::unsent(record.topic.as_str(), ErrorCode::Unsupported, "not built yet"))
    }
    /// Waits until every record accepted before is settled; fails if some were not acknowledged.
    pub async fn flush(&self) -> Result<(), FlushError> {
        Ok(())
    }
    /// Refuses further records, flushes, and ends the producer's connections.
    pub async fn close(&self) -> Result<(), FlushError> {
        Ok(())
    }
}
