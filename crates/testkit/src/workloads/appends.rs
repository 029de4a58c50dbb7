//! Writers that record what they send, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Acks, Client, Outcome, ProducerConfig, ProducerRecord};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::history::{AckedBy, Event, History, Place, RecordId, checksum, payload};

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
    /// With keys, of so many, which then say where a record goes; 0: without.
    pub keys: u64,
    /// What the history calls the topic, if not by its name.
    pub name: Option<Arc<str>>,
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
            keys: 0,
            name: None,
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
    let name = config.name.clone().unwrap_or_else(|| Arc::clone(&topic));
    history.record(promised(writer, &config.producer));
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
            let mut record = ProducerRecord::new(Arc::clone(&topic)).value(value.clone());
            let key = (config.keys > 0).then(|| format!("key-{writer}-{}", number % config.keys));
            record = match &key {
                Some(key) => record.key(key.clone()),
                None => record.partition(u32::try_from(number % u64::from(config.partitions)).unwrap_or(0)),
            };
            let sum = checksum(key.as_deref().map(str::as_bytes), Some(&value));
            history.record(Event::sent(id, &name, sum));
            match producer.send(record).await {
                Ok(delivery) => {
                    let history = history.clone();
                    let topic = Arc::clone(&name);
                    settling.spawn(async move { settled(&history, id, topic, delivery.await) });
                }
                Err(error) => settled(&history, id, Arc::clone(&name), Err(error)),
            }
        }
        while settling.try_join_next().is_some() {}
    }
    settling.join_all().await;
}

/// What such a producer asks for.
pub fn promised(writer: u32, config: &ProducerConfig) -> Event {
    let acks = match config.acks {
        Acks::None => AckedBy::Nobody,
        Acks::Leader => AckedBy::Leader,
        Acks::All => AckedBy::All,
    };
    Event::Writer { writer, acks, idempotent: config.idempotence.unwrap_or(config.acks == Acks::All) }
}

/// Records what became of a record that was sent to the topic that the history calls `topic`.
pub fn settled(
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
