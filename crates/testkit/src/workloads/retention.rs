//! A topic that lets go of its oldest records by itself. (Who looks for them all the same: [`FrontReader`](super::front::FrontReader).)

use std::time::Duration;

use highwater_client::{Acks, NewTopic, ProducerConfig};

use super::appends::WritersConfig;
use crate::history::Event;

const SEGMENT_BYTES: u64 = 4_096;
/// What a partition has of records at least once it has let go of some.
const KEPT_BYTES: u64 = 16_384;
const KEPT: Duration = Duration::from_secs(3);
/// No record of these writers, and no end of a transaction, takes as much, in a batch of its own.
const OFFSET_BYTES_MAX: u64 = 200;

/// What lets records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Size,
    Age,
}

/// The topic, in small segments.
pub fn topic(name: &str, partitions: u32, replicas: u32, bound: Bound) -> NewTopic {
    let topic = NewTopic::new(name, partitions, replicas)
        .config("min.insync.replicas", "2")
        .config("segment.bytes", SEGMENT_BYTES.to_string());
    match bound {
        Bound::Size => topic.config("retention.bytes", KEPT_BYTES.to_string()),
        Bound::Age => topic.config("retention.ms", KEPT.as_millis().to_string()),
    }
}

/// What such a topic keeps. Of its size a half: the end of a log, too, is measured, which the next leader may not have.
pub fn described(name: &str, bound: Bound) -> Event {
    let (records, age) = match bound {
        Bound::Size => (Some(KEPT_BYTES / 2 / OFFSET_BYTES_MAX), None),
        Bound::Age => (None, Some(KEPT)),
    };
    Event::Keeps { topic: name.into(), records, age }
}

/// Writers, numbered from `first` on, whose batches are small beside a segment, and many: a batch that is sent again may find that all
/// before it is gone.
pub fn writers(topic: &str, partitions: u32, first: u32, delivery: Duration) -> WritersConfig {
    let producer = ProducerConfig {
        acks: Acks::All,
        idempotence: Some(true),
        batch_bytes: 512,
        in_flight_max: 5,
        delivery_timeout: delivery,
        ..ProducerConfig::default()
    };
    WritersConfig {
        writers: 2,
        first_writer: first,
        value_bytes: 64,
        burst: 6,
        every: Duration::from_millis(50),
        producer,
        ..WritersConfig::new(topic, partitions)
    }
}
