//! Signs of life: once nothing is broken any more, everything must work again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use highwater_client::{Client, ConsumeError, Offset, PartitionId, Producer, ProducerConfig, ProducerRecord, StartAt};
use tokio::time::{Instant, sleep, timeout_at};

use super::appends::{promised, settled};
use super::readers::{Reader, out_of_range, seen};
use super::transactors::{Work, config};
use super::{PAUSE, insist};
use crate::history::{Event, History, Place, RecordId, Sign, checksum, payload};

/// Looks for signs of life, each until it is there or patience is over.
pub struct Probe {
    pub client: Client,
    pub history: History,
    /// It writes as this, and reads as this: numbers of its own.
    pub writer: u32,
    pub reader: u32,
    pub patience: Duration,
}

/// What to try.
#[derive(Default)]
pub struct Subjects {
    /// Topics, each with what the history calls it.
    pub topics: Vec<(String, Arc<str>)>,
    /// A topic to write to in a transaction, and how many partitions it has.
    pub transactional: Option<(Arc<str>, u32)>,
    /// Groups, and the topic that each reads.
    pub groups: Vec<(Arc<str>, Arc<str>)>,
}

impl Probe {
    /// Tries everything at once, and returns the signs that should be there now.
    ///
    /// # Panics
    /// If the producer's settings are refused.
    pub async fn look(&self, subjects: &Subjects) -> Vec<Sign> {
        let config = ProducerConfig { delivery_timeout: self.patience, ..ProducerConfig::default() };
        self.history.record(promised(self.writer, &config));
        let producer = self.client.producer(config).expect("the settings of a probe are allowed");
        let admin = self.client.admin();
        let mut places = Vec::new();
        for (topic, name) in &subjects.topics {
            let found = insist(self.patience, || admin.describe_topic(topic)).await;
            let count = found.map_or(1, |found| found.partitions.len()) as u32;
            places.extend(
                (0..count).map(|partition| {
                    (topic, Place { topic: Arc::clone(name), partition: PartitionId::new(partition) })
                }),
            );
        }
        let looked = places.iter().zip(1..).map(|((topic, place), number)| {
            let producer = &producer;
            async move {
                let (written, ()) =
                    tokio::join!(self.written(producer, topic, place, number), self.in_sync(topic, place));
                Some((place.clone(), written?))
            }
        });
        let (ends, ()) = tokio::join!(join_all(looked), self.transacted(subjects));
        let ends: Vec<_> = ends.into_iter().flatten().collect();
        join_all(subjects.groups.iter().map(|(group, topic)| self.consumed(group, topic, &ends))).await;
        let mut signs: Vec<Sign> = Vec::new();
        for (_, place) in places {
            signs.extend([Sign::Written { place: place.clone() }, Sign::InSync { place }]);
        }
        signs.extend(subjects.transactional.iter().map(|(topic, _)| Sign::Transacted { topic: Arc::clone(topic) }));
        signs.extend(subjects.groups.iter().map(|(group, _)| Sign::Consumed { group: Arc::clone(group) }));
        signs
    }

    /// Writes to the partition, and reads what it has written; returns where that is.
    async fn written(&self, producer: &Producer, topic: &str, place: &Place, number: u64) -> Option<Offset> {
        let until = Instant::now() + self.patience;
        let id = RecordId { writer: self.writer, number };
        let (key, value) = (Bytes::from(format!("probe-{number}")), payload(id, 64));
        self.history.record(Event::Sent {
            id,
            topic: Arc::clone(&place.topic),
            checksum: checksum(Some(&key), Some(&value)),
            key: Some(String::from_utf8_lossy(&key).into()),
            tombstone: false,
            transaction: None,
        });
        let record = ProducerRecord::new(topic).partition(place.partition).key(key).value(value);
        let result = match producer.send(record).await {
            Ok(delivery) => delivery.await,
            Err(error) => Err(error),
        };
        let offset = result.as_ref().ok().and_then(|at| at.offset);
        settled(&self.history, id, Arc::clone(&place.topic), result);
        let offset = offset?;
        let reader = Reader::of_all(self.reader);
        let mut consumer = reader.consumer(&self.client, &self.history);
        self.history.record(Event::Sought { reader: self.reader, place: place.clone(), to: Some(offset) });
        while consumer.assign([(topic, place.partition, StartAt::Offset(offset))]).await.is_err() {
            if Instant::now() >= until {
                return None;
            }
            sleep(PAUSE).await;
        }
        while Instant::now() < until {
            let records = match timeout_at(until, consumer.poll(PAUSE)).await {
                Ok(Ok(records)) => records,
                // Let go of already.
                Ok(Err(ref error @ ConsumeError::OffsetOutOfRange { position, start, .. })) if position < start => {
                    out_of_range(&self.history, self.reader, place, error);
                    self.history.record(Event::Works { sign: Sign::Written { place: place.clone() } });
                    return Some(offset);
                }
                _ => continue,
            };
            records.iter().for_each(|record| self.history.record(seen(self.reader, &place.topic, record)));
            if !records.is_empty() {
                self.history.record(Event::Works { sign: Sign::Written { place: place.clone() } });
                return Some(offset);
            }
        }
        None
    }

    async fn in_sync(&self, topic: &str, place: &Place) {
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            let found = self.client.admin().describe_topic(topic).await;
            let partition =
                found.ok().and_then(|found| found.partitions.into_iter().find(|it| it.id == place.partition));
            if partition.is_some_and(|it| it.leader.is_some() && it.isr.len() == it.replicas.len()) {
                return self.history.record(Event::Works { sign: Sign::InSync { place: place.clone() } });
            }
            sleep(PAUSE).await;
        }
    }

    async fn transacted(&self, subjects: &Subjects) {
        let Some((topic, partitions)) = &subjects.transactional else { return };
        let until = Instant::now() + self.patience;
        // A writer of its own, whose numbers it does not share.
        let (writer, topic, partitions) = (self.writer + 1, Arc::clone(topic), *partitions);
        let producer: Arc<str> = format!("probe-{writer}").into();
        let work = Work {
            history: self.history.clone(),
            writer,
            producer: Arc::clone(&producer),
            topic,
            partitions,
            held: None,
        };
        for turn in 0.. {
            if Instant::now() >= until {
                return;
            }
            let Ok(mut open) = self.client.transactional_producer(config(&producer)).await else {
                sleep(PAUSE).await;
                continue;
            };
            let instance = u32::try_from(turn).unwrap_or(u32::MAX) + 1;
            self.history.record(Event::LetIn { producer: Arc::clone(&producer), instance });
            if work.transact(&mut open, instance, turn, true).await.is_ok() {
                let sign = Sign::Transacted { topic: Arc::clone(&work.topic) };
                return self.history.record(Event::Works { sign });
            }
        }
    }

    /// The group has committed past what was written now.
    async fn consumed(&self, group: &Arc<str>, topic: &Arc<str>, ends: &[(Place, Offset)]) {
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            let offsets = self.client.admin().group_offsets(group).await.unwrap_or_default();
            let is_past = |(place, end): &(Place, Offset)| {
                let of_place = |at: &&highwater_client::CommittedOffset| {
                    at.topic.as_str() == &*place.topic && at.partition == place.partition
                };
                offsets.iter().find(of_place).is_some_and(|at| at.position.offset > *end)
            };
            if ends.iter().filter(|(place, _)| place.topic == *topic).all(is_past) {
                return self.history.record(Event::Works { sign: Sign::Consumed { group: Arc::clone(group) } });
            }
            sleep(PAUSE).await;
        }
    }
}
