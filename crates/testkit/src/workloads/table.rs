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
/// Of so many writes, two go to keys that are written once and stay, and one of these is deleted so many writes later, for ever: what
/// becomes of keys to which nothing comes any more would not be seen in others.
const ROUND: u64 = 20;
const ONCE: [u64; 2] = [3, 13];
const DELETED_AFTER: u64 = 505;

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

/// The key of a write, and whether it deletes it.
fn place_of(number: u64) -> (String, bool) {
    let once = |number| format!("once-{number}");
    match number.checked_sub(DELETED_AFTER).filter(|before| before % ROUND == ONCE[0]) {
        Some(before) => (once(before), true),
        None if ONCE.contains(&(number % ROUND)) => (once(number), false),
        None => ((number % KEYS).to_string(), number.is_multiple_of(DELETION)),
    }
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
            let (key, tombstone) = place_of(number);
            let key = format!("{writer}-{key}");
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn some_keys_are_written_once_and_some_of_them_deleted_and_no_more_said_of_them() {
        let mut writes: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        for (key, tombstone) in (1..=2_000).map(place_of) {
            writes.entry(key).or_default().push(tombstone);
        }
        let once: Vec<_> =
            writes.iter().filter(|(key, _)| key.starts_with("once-")).map(|(_, writes)| &writes[..]).collect();
        assert!(once.iter().all(|writes| [&[false][..], &[false, true]].contains(writes)), "{once:?}");
        assert!(once.iter().filter(|writes| writes.len() == 2).count() > 50);
        assert!(writes.iter().filter(|(key, _)| !key.starts_with("once-")).all(|(_, writes)| writes.contains(&true)));
    }
}
