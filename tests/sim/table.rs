//! A compacted topic as a table: of every key the last value that was acknowledged is there in the end, or a later one, whatever
//! was compacted away; and a key that was deleted last is gone.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use highwater_client::{Client, ConsumerConfig, NewTopic, OffsetAt, Outcome, ProducerConfig, ProducerRecord, StartAt};
use tokio::time::Instant;

use crate::workload::{Fallible, PARTITIONS, create};

const TABLE: &str = "table";
const KEYS: u64 = 20;
/// Every so-manieth write deletes its key. No divisor of `KEYS`, so that all keys have their turn.
const DELETION: u64 = 7;

/// What was written to a key, in order. Refused writes are left out.
#[derive(Default)]
pub struct Written(BTreeMap<u64, Vec<Write>>);

struct Write {
    number: u64,
    is_acknowledged: bool,
}

impl Write {
    fn value(number: u64) -> Option<u64> {
        (!number.is_multiple_of(DELETION)).then_some(number)
    }
}

pub async fn make(client: &Client, patience: Duration) -> Fallible<()> {
    let topic = NewTopic::new(TABLE, PARTITIONS, 3)
        .config("min.insync.replicas", "2")
        .config("cleanup.policy", "compact")
        .config("segment.bytes", "8192")
        .config("min.cleanable.dirty.ratio", "0.2")
        // Deletions go while it runs, too.
        .config("delete.retention.ms", "3000");
    create(client, topic, patience).await
}

/// Writes numbers to keys, a few under way at a time but one to a key, until told to stop.
pub async fn write(client: Client, stop: Rc<Cell<bool>>) -> Fallible<Written> {
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(60), ..ProducerConfig::default() };
    let producer = client.producer(config)?;
    let (mut written, mut number) = (Written::default(), 0);
    while !stop.get() {
        let mut deliveries = Vec::new();
        for _ in 0..5 {
            number += 1;
            let mut record = ProducerRecord::new(TABLE).key(Bytes::from((number % KEYS).to_string()));
            if let Some(value) = Write::value(number) {
                record = record.value(Bytes::from(value.to_string()));
            }
            deliveries.push((number, producer.send(record).await));
        }
        for (number, sent) in deliveries {
            let is_acknowledged = match sent {
                Err(_) => continue,
                Ok(delivery) => match delivery.await {
                    Ok(_) => true,
                    Err(error) if error.outcome == Outcome::Unknown => false,
                    Err(_) => continue,
                },
            };
            written.0.entry(number % KEYS).or_default().push(Write { number, is_acknowledged });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(written)
}

/// Reads the whole table, and holds it against what was written.
pub async fn check(client: &Client, written: &Written, patience: Duration) -> Fallible<String> {
    let deadline = Instant::now() + patience;
    let ends = loop {
        match client.admin().list_offsets(TABLE, OffsetAt::Latest).await {
            Ok(ends) => break ends,
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign_topic(TABLE, StartAt::Beginning).await?;
    let (mut found, mut left) = (BTreeMap::new(), 0);
    for (partition, end) in ends {
        let end = end.offset.unwrap_or_default();
        while consumer.position(TABLE, partition).is_none_or(|position| position.offset < end) {
            if Instant::now() >= deadline {
                return Err(format!("partition {partition} of the table could not be read up to {end}").into());
            }
            for record in consumer.poll(Duration::from_millis(200)).await? {
                left += 1;
                found.insert(
                    parse(record.key.as_deref())?.ok_or("a record without key")?,
                    parse(record.value.as_deref())?,
                );
            }
        }
    }
    for (key, writes) in &written.0 {
        let found = found.get(key).copied().flatten();
        // Of what came after the last acknowledged write, nobody knows.
        let last = writes.iter().rposition(|write| write.is_acknowledged);
        let mut possible: Vec<Option<u64>> =
            writes[last.unwrap_or(0)..].iter().map(|it| Write::value(it.number)).collect();
        if last.is_none() {
            possible.push(None);
        }
        if !possible.contains(&found) {
            return Err(format!("key {key} of the table has {found:?}, and should have one of {possible:?}").into());
        }
    }
    let all: usize = written.0.values().map(Vec::len).sum();
    Ok(format!("table: {left} of {all} records left"))
}

fn parse(text: Option<&[u8]>) -> Fallible<Option<u64>> {
    let number = |text| Ok::<_, Box<dyn std::error::Error>>(std::str::from_utf8(text)?.parse()?);
    text.map(number).transpose()
}
