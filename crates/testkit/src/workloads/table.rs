//! A compacted topic as a table: values that are put under keys, and keys that are deleted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_client::{Client, NewTopic, ProducerConfig, ProducerRecord};
use tokio::sync::watch;

use super::appends::settled;
use super::go_on;
use super::readers::ID_HEADER;
use crate::history::{Event, History, RecordId, Removal, checksum, payload};

const KEYS: u64 = 20;
/// Every so-manieth write deletes its key. No divisor of `KEYS`, so that all keys have their turn.
const DELETION: u64 = 7;

/// The topic, compacted often.
pub fn topic(name: &str, partitions: u32, replicas: u32) -> NewTopic {
    NewTopic::new(name, partitions, replicas)
        .config("min.insync.replicas", "2")
        .config("cleanup.policy", "compact")
        .config("segment.bytes", "8192")
        .config("min.cleanable.dirty.ratio", "0.2")
        // Deletions go while it runs, too.
        .config("delete.retention.ms", "3000")
}

/// That it is such a topic.
pub fn described(name: &str) -> Event {
    Event::Topic { topic: name.into(), synced: true, removal: Removal::Compaction, dense: false }
}

/// Writes, as `writer`, to keys of its own, a few at a time but one to a key, until told to stop.
///
/// # Panics
/// If the producer's settings are refused.
pub async fn write(
    client: Client,
    history: History,
    writer: u32,
    topic: Arc<str>,
    config: ProducerConfig,
    mut stopping: watch::Receiver<bool>,
) {
    let producer = client.producer(config).expect("the settings of a test's producer are allowed");
    let mut number = 0;
    while go_on(&mut stopping, Duration::from_millis(20)).await {
        let mut deliveries = Vec::new();
        for _ in 0..5 {
            number += 1;
            let id = RecordId { writer, number };
            let key = format!("{writer}-{}", number % KEYS);
            let tombstone = number.is_multiple_of(DELETION);
            let value = (!tombstone).then(|| payload(id, 24));
            history.record(Event::Sent {
                id,
                topic: Arc::clone(&topic),
                checksum: checksum(Some(key.as_bytes()), value.as_deref()),
                key: Some(key.as_str().into()),
                tombstone,
                transaction: None,
            });
            let record = ProducerRecord::new(Arc::clone(&topic)).key(Bytes::from(key));
            let record = match value {
                Some(value) => record.value(value),
                None => record.header(ID_HEADER, payload(id, 0)),
            };
            deliveries.push((id, producer.send(record).await));
        }
        for (id, sent) in deliveries {
            let result = match sent {
                Ok(delivery) => delivery.await,
                Err(error) => Err(error),
            };
            settled(&history, id, Arc::clone(&topic), result);
        }
    }
}
