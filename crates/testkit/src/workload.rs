//! Writers and readers that record what they do and see.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    Acks, AdminError, Client, ConsumeError, Consumer, ConsumerConfig, ConsumerRecord, Offset, OffsetAt, Outcome,
    PartitionId, ProducerConfig, ProducerRecord, StartAt,
};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::history::{Event, History, Place, RecordId, checksum, payload, record_id};

/// What the writers write.
#[derive(Debug, Clone)]
pub struct WritersConfig {
    pub topic: String,
    /// How many partitions the topic has; each writer goes round all of them.
    pub partitions: u32,
    pub writers: u32,
    /// The number of the first writer: those of one history must differ.
    pub first_writer: u32,
    pub value_bytes: usize,
    /// Each writer sends so many records ...
    pub burst: u32,
    /// ... each time that so much has passed.
    pub every: Duration,
    pub producer: ProducerConfig,
}

impl WritersConfig {
    /// Three writers of some 600 small records a second each, `acks=all`.
    pub fn new(topic: &str, partitions: u32) -> Self {
        Self {
            topic: topic.to_owned(),
            partitions,
            writers: 3,
            first_writer: 1,
            value_bytes: 100,
            burst: 3,
            every: Duration::from_millis(5),
            producer: ProducerConfig { acks: Acks::All, ..ProducerConfig::default() },
        }
    }
}

/// Running writers.
pub struct Writers {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them. Each record's fate goes into `history`.
    ///
    /// # Panics
    /// If the producer's settings are refused.
    pub fn start(client: &Client, history: &History, config: &WritersConfig) -> Self {
        let (stop, stopping) = watch::channel(false);
        let tasks = (0..config.writers).map(|index| {
            let (client, history, config) = (client.clone(), history.clone(), config.clone());
            tokio::spawn(write(client, history, config.first_writer + index, config, stopping.clone()))
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    /// Sends no more, and waits until every record sent is settled.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

async fn write(
    client: Client,
    history: History,
    writer: u32,
    config: WritersConfig,
    mut stopping: watch::Receiver<bool>,
) {
    let producer = client.producer(config.producer.clone()).expect("the settings of a test's producer are allowed");
    let topic: Arc<str> = config.topic.as_str().into();
    let mut ticks = interval(config.every);
    // After a stall, no burst to catch up: the load stays what it was.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut settling = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            _ = ticks.tick() => {}
        }
        for _ in 0..config.burst {
            number += 1;
            let id = RecordId { writer, number };
            let value = payload(id, config.value_bytes);
            let partition = u32::try_from(number % u64::from(config.partitions)).unwrap_or(0);
            history.record(Event::Sent { id, topic: Arc::clone(&topic), checksum: checksum(None, Some(&value)) });
            let record = ProducerRecord::new(Arc::clone(&topic)).partition(partition).value(value);
            match producer.send(record).await {
                Ok(delivery) => {
                    let history = history.clone();
                    let topic = Arc::clone(&topic);
                    settling.spawn(async move { settled(&history, id, topic, delivery.await) });
                }
                Err(error) => settled(&history, id, Arc::clone(&topic), Err(error)),
            }
        }
        while settling.try_join_next().is_some() {}
    }
    settling.join_all().await;
}

fn settled(
    history: &History,
    id: RecordId,
    topic: Arc<str>,
    result: Result<highwater_client::RecordMetadata, highwater_client::ProduceError>,
) {
    history.record(match result {
        Ok(at) => {
            let place = Place { topic, partition: at.partition };
            // acks=none tells no offset; such a history says of it what it can, which is nothing.
            match at.offset {
                Some(offset) => Event::Acknowledged { id, place, offset },
                None => Event::Unknown { id, why: "acks=none".to_owned() },
            }
        }
        Err(error) if error.outcome == Outcome::NotApplied => Event::Refused { id, why: error.to_string() },
        Err(error) => Event::Unknown { id, why: error.to_string() },
    });
}

/// Why a topic could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Offsets(#[from] AdminError),
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    #[error("within {deadline:?} the topic was not read to its end: {left}")]
    TimedOut { deadline: Duration, left: String },
}

/// Reads all that is committed in `topic` now, and records it. Returns how many records that were.
pub async fn read_whole(
    client: &Client,
    history: &History,
    reader: u32,
    topic: &str,
    deadline: Duration,
) -> Result<u64, ReadError> {
    let until = Instant::now() + deadline;
    let admin = client.admin();
    let starts: BTreeMap<PartitionId, Offset> = offsets(admin.list_offsets(topic, OffsetAt::Earliest).await?);
    let ends: BTreeMap<PartitionId, Offset> = offsets(admin.list_offsets(topic, OffsetAt::Latest).await?);
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign_topic(topic, StartAt::Beginning).await?;
    let name: Arc<str> = topic.into();
    let mut read = 0;
    loop {
        let left = |consumer: &Consumer| -> Vec<String> {
            let position = |id| consumer.position(topic, id).map(|position| position.offset);
            let behind = ends.iter().filter(|(id, end)| **end > starts[id] && position(**id) < Some(**end));
            behind.map(|(id, end)| format!("{topic}/{id} at {:?} of {end}", position(*id))).collect()
        };
        if left(&consumer).is_empty() {
            break;
        }
        let Ok(polled) = timeout_at(until, consumer.poll(Duration::from_millis(100))).await else {
            return Err(ReadError::TimedOut { deadline, left: left(&consumer).join(", ") });
        };
        for record in polled? {
            read += u64::from(record.offset < ends[&record.partition]);
            history.record(seen(reader, &name, &record));
        }
        if Instant::now() >= until {
            return Err(ReadError::TimedOut { deadline, left: left(&consumer).join(", ") });
        }
    }
    for (partition, to) in ends {
        let (place, from) = (Place { topic: Arc::clone(&name), partition }, starts[&partition]);
        history.record(Event::ReadWhole { reader, place, from, to });
    }
    Ok(read)
}

fn offsets(found: Vec<(PartitionId, highwater_client::TimestampedOffset)>) -> BTreeMap<PartitionId, Offset> {
    found.into_iter().map(|(id, at)| (id, at.offset.unwrap_or(Offset::ZERO))).collect()
}

fn seen(reader: u32, topic: &Arc<str>, record: &ConsumerRecord) -> Event {
    Event::Read {
        reader,
        place: Place { topic: Arc::clone(topic), partition: record.partition },
        offset: record.offset,
        id: record.value.as_deref().and_then(record_id),
        checksum: checksum(record.key.as_deref(), record.value.as_deref()),
    }
}

/// A reader that follows a topic while it is written.
pub struct Tail {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<u64, ConsumeError>>,
}

impl Tail {
    /// Starts to read `topic` from its beginning.
    pub fn start(client: &Client, history: &History, reader: u32, topic: &str) -> Self {
        let (stop, mut stopping) = watch::channel(false);
        let mut consumer = client.consumer(ConsumerConfig::default());
        let (history, name): (History, Arc<str>) = (history.clone(), topic.into());
        let task = tokio::spawn(async move {
            let mut read = 0;
            consumer.assign_topic(&name, StartAt::Beginning).await?;
            loop {
                let polled = tokio::select! {
                    biased;
                    _ = stopping.wait_for(|stop| *stop) => return Ok(read),
                    polled = consumer.poll(Duration::from_millis(200)) => polled,
                };
                match polled {
                    Ok(records) => {
                        read += records.len() as u64;
                        records.iter().for_each(|record| history.record(seen(reader, &name, record)));
                    }
                    // A leader that is gone for a while is what these tests are about.
                    Err(error) if error.is_retriable() => {}
                    Err(error) => return Err(error),
                }
            }
        });
        Self { stop, task }
    }

    /// Ends it; returns how many records it read, or why it had to give up before.
    ///
    /// # Panics
    /// If its task did.
    pub async fn stop(self) -> Result<u64, ConsumeError> {
        self.stop.send_replace(true);
        self.task.await.expect("the reader's task does not panic")
    }
}
