//! The producer: records in, batches out, in order, and an answer for each record.
//!
//! The way of a record: [`Producer::send`] reserves room in the buffer and, under one lock, appends it to the open batch
//! of its partition (`accumulator`, `topic`, `queue`). One task for each broker (`tasks/send`) takes what is due there,
//! builds the batches, and keeps several requests in flight; the answer settles whole batches (`delivery`).

mod accumulator;
mod batch;
mod config;
mod delivery;
mod failure;
mod numbering;
mod outbox;
mod partitioner;
mod queue;
mod record;
mod sessions;
mod shared;
mod tasks;
mod topic;
mod transaction;

pub use config::{Acks, Partitioning, ProducerConfig};
pub use delivery::Delivery;
pub use partitioner::{Partitioner, Placement};
pub use record::{PartitionNumber, ProducerRecord, RecordMetadata, TopicRef};
pub(crate) use transaction::is_fencing;
pub use transaction::{Transaction, TransactionalConfig, TransactionalProducer};

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::MESSAGE_SIZE_MAX;
use highwater_types::{ErrorCode, TopicName};
use tokio::sync::TryAcquireError;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::client::ClientInner;
use crate::producer::accumulator::Appended;
use crate::producer::shared::Shared;
use crate::{FlushError, InvalidSetting, ProduceError};

/// Sends records. Cloning is cheap: clones share buffer, batches and connections.
///
/// - Records of one partition are appended in the order in which [`send`](Self::send) accepted them, over retries too.
/// - By default each is stored once, over retries too; [`ProducerConfig`] has the strategies and what each guarantees.
/// - When the last clone is dropped, what was accepted still goes out while the runtime lives; [`close`](Self::close)
///   waits for that.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// How long the tasks may take to end after the last record is settled.
const END_WAIT: Duration = Duration::from_secs(10);

impl Producer {
    pub(crate) fn new(client: Arc<ClientInner>, config: ProducerConfig) -> Result<Self, InvalidSetting> {
        config.check()?;
        let is_idempotent = config.is_idempotent();
        let producer = Self::start(Shared::new(client, config, String::new()));
        if is_idempotent {
            tokio::spawn(tasks::session::keep_session(Arc::clone(&producer.handle.shared)));
        }
        Ok(producer)
    }

    fn start(shared: Shared) -> Self {
        let shared = Arc::new(shared);
        tokio::spawn(tasks::supervise::supervise(Arc::clone(&shared)));
        Self { handle: Arc::new(Handle { shared }) }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Accepts a record: waits while the buffer is full, and the first time for the topic's metadata, but not for the
    /// record to be sent. The [`Delivery`] says what became of it. Dropping this future before it is ready accepts
    /// nothing.
    ///
    /// Fails, with nothing accepted, if the topic or partition does not exist, the record is too large, the buffer stays
    /// full for the delivery timeout, or the producer is closed.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ProduceError> {
        let shared = &*self.handle.shared;
        if shared.takes_turn() {
            yield_now().await;
        }
        let bytes = record.bytes_max();
        if let Err(error) = self.reserve(&record, bytes) {
            let Some(wait) = error else { return Err(self.refusal(&record, bytes)) };
            self.reserve_slowly(&record, wait).await?;
        }
        match shared.append(record, bytes) {
            Appended::Accepted(delivery) => Ok(delivery),
            Appended::Refused(error) => {
                shared.buffer.add_permits(bytes);
                Err(error)
            }
            Appended::TopicUnknown(record) => Box::pin(self.send_to_new_topic(record, bytes)).await,
        }
    }

    /// Waits until every record accepted before this call is settled; none of them lingers. Fails if some records,
    /// accepted since the last flush, were not acknowledged.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let shared = &*self.handle.shared;
        let target = shared.lock().hurry();
        loop {
            let settled = shared.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if shared.lock().is_settled_below(target) {
                break;
            }
            settled.await;
        }
        shared.lock().take_failure().map_or(Ok(()), Err)
    }

    /// Refuses further records, flushes, and ends the connections. With acks=none it also waits, a few seconds at most,
    /// until the brokers have read everything. Further calls do no harm.
    pub async fn close(&self) -> Result<(), FlushError> {
        self.handle.shared.close();
        let flushed = self.flush().await;
        let mut ended = self.handle.shared.ended.subscribe();
        // They end by themselves; how fast is up to the brokers.
        let _ = timeout(END_WAIT, ended.wait_for(|ended| *ended)).await;
        flushed
    }

    /// `Err(Some)`: that much has to be waited for. `Err(None)`: it can't be.
    fn reserve(&self, record: &ProducerRecord, bytes: usize) -> Result<(), Option<u32>> {
        let shared = &*self.handle.shared;
        let fits = bytes <= shared.config.buffer_bytes && record.batch_bytes_min() <= MESSAGE_SIZE_MAX - (1 << 20);
        // Fits into 32 bits: the buffer does.
        let permits = bytes as u32;
        if !fits {
            return Err(None);
        }
        match shared.buffer.try_acquire_many(permits) {
            Ok(permit) => {
                permit.forget();
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(Some(permits)),
            Err(TryAcquireError::Closed) => Err(None),
        }
    }

    async fn reserve_slowly(&self, record: &ProducerRecord, permits: u32) -> Result<(), ProduceError> {
        let shared = &*self.handle.shared;
        // Nothing lingers while somebody waits for its room.
        shared.lock().hurry();
        let topic = record.topic.as_str();
        match timeout(shared.config.delivery_timeout, shared.buffer.acquire_many(permits)).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(closed(topic)),
            Err(_) => {
                let (buffer, wait) = (shared.config.buffer_bytes, shared.config.delivery_timeout);
                let why =
                    format!("the buffer of {buffer} bytes stayed full for {wait:?}: the cluster is too slow or gone");
                Err(ProduceError::unsent(topic, ErrorCode::RequestTimedOut, why))
            }
        }
    }

    fn refusal(&self, record: &ProducerRecord, bytes: usize) -> ProduceError {
        let topic = record.topic.as_str();
        if self.handle.shared.buffer.is_closed() {
            return closed(topic);
        }
        let max = self.handle.shared.config.buffer_bytes.min(MESSAGE_SIZE_MAX - (1 << 20));
        let why = format!("the record takes {bytes} bytes; this producer's buffer and message size allow {max}");
        ProduceError::unsent(topic, ErrorCode::RecordTooLarge, why)
    }

    /// Waits for the topic's metadata. `bytes` are reserved already.
    async fn send_to_new_topic(&self, mut record: ProducerRecord, bytes: usize) -> Result<Delivery, ProduceError> {
        let shared = &*self.handle.shared;
        let reserved = Reserved { shared, bytes };
        let name = record.topic.clone();
        let name = name.as_str();
        if let Err(error) = TopicName::new(name) {
            return Err(ProduceError::unsent(name, ErrorCode::InvalidTopicName, error.to_string()));
        }
        loop {
            let Some(topic) = shared.client.topic(name).await else {
                let wait = shared.client.topic_wait;
                let why = format!("no such topic appeared within {wait:?}; create it, or check the name");
                return Err(ProduceError::unsent(name, ErrorCode::UnknownTopic, why));
            };
            shared.add_topic(&topic);
            match shared.append(record, bytes) {
                Appended::Accepted(delivery) => {
                    std::mem::forget(reserved);
                    return Ok(delivery);
                }
                Appended::Refused(error) => return Err(error),
                // Deleted in between.
                Appended::TopicUnknown(back) => record = back,
            }
        }
    }
}

/// Gives its room in the buffer back when dropped.
struct Reserved<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.shared.buffer.add_permits(self.bytes);
    }
}

fn closed(topic: &str) -> ProduceError {
    ProduceError::unsent(topic, ErrorCode::InvalidRequest, "the producer is closed")
}
