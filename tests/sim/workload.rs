//! What clients do in the simulation, written down in a history.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_client::{
    Client, Consumer, ConsumerConfig, NewTopic, Offset, OffsetAt, Outcome, PartitionId, ProducerConfig, ProducerRecord,
    StartAt,
};
use highwater_testkit::History;
use highwater_testkit::history::{Event, Place, RecordId, Told, check_atomicity, checksum, payload, record_id};
use highwater_testkit::pipeline::read_committed;
use highwater_testkit::transactors::Done;
use tokio::time::Instant;

use crate::cluster::bootstrap;
use crate::world::World;

pub const TOPIC: &str = "orders";
/// Written in transactions.
pub const LEDGER: &str = "ledger";
pub const PARTITIONS: u32 = 3;
/// How long a client looks for a broker that answers.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Fallible<T> = Result<T, Box<dyn Error>>;

/// A client on `host`, once any broker answers.
pub async fn connect(world: &World, host: &str, patience: Duration) -> Fallible<Client> {
    let deadline = Instant::now() + patience;
    loop {
        let attempt = Client::builder().bootstrap(bootstrap()).seams(world.seams(host)).build().await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

pub async fn create_topic(client: &Client, name: &str, patience: Duration) -> Fallible<()> {
    let topic = NewTopic::new(name, PARTITIONS, 3).config("min.insync.replicas", "2").config("segment.bytes", "32768");
    create(client, topic, patience).await
}

pub async fn create(client: &Client, topic: NewTopic, patience: Duration) -> Fallible<()> {
    let deadline = Instant::now() + patience;
    loop {
        match client.admin().create_topic(topic.clone()).await {
            Ok(_) => return Ok(()),
            // Brokers may still be registering.
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Sends keyed records, a few under way at a time, until told to stop.
pub async fn write(client: Client, history: History, writer: u32, stop: Rc<Cell<bool>>) -> Fallible<()> {
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(60), ..ProducerConfig::default() };
    let producer = client.producer(config)?;
    let topic: Arc<str> = TOPIC.into();
    let mut number = 0;
    while !stop.get() {
        let mut deliveries = Vec::new();
        for _ in 0..5 {
            let id = RecordId { writer, number };
            number += 1;
            let key = Bytes::from(format!("key-{}-{}", writer, id.number % 7));
            let value = payload(id, 64);
            let checksum = checksum(Some(&key), Some(&value));
            history.record(Event::Sent { id, topic: Arc::clone(&topic), checksum });
            match producer.send(ProducerRecord::new(TOPIC).key(key).value(value)).await {
                Ok(delivery) => deliveries.push((id, delivery)),
                Err(error) => history.record(Event::Refused { id, why: error.to_string() }),
            }
        }
        for (id, delivery) in deliveries {
            history.record(match delivery.await {
                Ok(at) => Event::Acknowledged {
                    id,
                    place: Place::new(TOPIC, at.partition.get()),
                    offset: at.offset.ok_or("acks=all says where a record is")?,
                },
                Err(error) if error.outcome == Outcome::Unknown => Event::Unknown { id, why: error.to_string() },
                Err(error) => Event::Refused { id, why: error.to_string() },
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Reads everything as it comes, until told to stop.
pub async fn follow(client: Client, history: History, reader: u32, stop: Rc<Cell<bool>>) -> Fallible<()> {
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign_topic(TOPIC, StartAt::Beginning).await?;
    while !stop.get() {
        read_some(&mut consumer, &history, reader).await?;
    }
    Ok(())
}

/// Reads all partitions from the beginning to their ends, and says so.
pub async fn read_whole(client: &Client, history: &History, reader: u32, patience: Duration) -> Fallible<()> {
    let deadline = Instant::now() + patience;
    let ends: Vec<(PartitionId, Offset)> = loop {
        match client.admin().list_offsets(TOPIC, OffsetAt::Latest).await {
            Ok(ends) => break ends.into_iter().map(|(p, end)| (p, end.offset.unwrap_or_default())).collect(),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign_topic(TOPIC, StartAt::Beginning).await?;
    for &(partition, end) in &ends {
        while consumer.position(TOPIC, partition).is_none_or(|position| position.offset < end) {
            if Instant::now() >= deadline {
                return Err(format!("partition {partition} could not be read up to {end}").into());
            }
            read_some(&mut consumer, history, reader).await?;
        }
    }
    for &(partition, to) in &ends {
        let place = Place::new(TOPIC, partition.get());
        history.record(Event::ReadWhole { reader, place, from: Offset::ZERO, to });
    }
    Ok(())
}

async fn read_some(consumer: &mut Consumer, history: &History, reader: u32) -> Fallible<()> {
    for record in consumer.poll(Duration::from_millis(200)).await? {
        let value = record.value.as_deref();
        history.record(Event::Read {
            reader,
            place: Place::new(record.topic.as_str(), record.partition.get()),
            offset: record.offset,
            id: value.and_then(record_id),
            checksum: checksum(record.key.as_deref(), value),
        });
    }
    Ok(())
}

/// Reads the ledger as a reader of committed records, and holds it against what the transactors were told.
pub async fn check_ledger(client: &Client, done: &Done, patience: Duration) -> Fallible<String> {
    let deadline = Instant::now() + patience;
    // Leaders may be changing still.
    let found = loop {
        match read_committed(client, LEDGER, patience).await {
            Ok(found) => break found,
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let done = done.lock().map_err(|_| "a transactor panicked")?;
    let violations = check_atomicity(&done, &found);
    if !violations.is_empty() {
        let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
        return Err(text.join("\n").into());
    }
    let told = |told| done.iter().filter(|one| one.told == told).count();
    let (committed, aborted, unknown) = (told(Told::Committed), told(Told::Aborted), told(Told::Unknown));
    Ok(format!("transactions: {committed} committed, {aborted} aborted, {unknown} unknown"))
}
