//! Readers that record what they are given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_client::{
    AdminError, Client, ConsumeError, Consumer, ConsumerConfig, ConsumerRecord, IsolationLevel, Offset, OffsetAt,
    PartitionId, StartAt, TimestampMs,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Running;
use crate::history::{Event, History, Place, RecordId, checksum, record_id};

/// A header with the id of a record whose value has no room for it: of a deletion.
pub const ID_HEADER: &str = "id";

/// The id that a record carries, in its value or in a header.
pub fn id_of(record: &ConsumerRecord) -> Option<RecordId> {
    let header = || record.headers.iter().find(|header| header.name == ID_HEADER)?.value.as_deref();
    record.value.as_deref().and_then(record_id).or_else(|| header().and_then(record_id))
}

/// That `reader` was given `record`, of the topic that the history calls `topic`.
pub fn seen(reader: u32, topic: &Arc<str>, record: &ConsumerRecord) -> Event {
    Event::Read {
        reader,
        place: Place { topic: Arc::clone(topic), partition: record.partition },
        offset: record.offset,
        id: id_of(record),
        checksum: checksum(record.key.as_deref(), record.value.as_deref()),
        timestamp_ms: Some(record.timestamp.get()),
    }
}

/// That a reader was told so, if that is what it was told.
pub fn out_of_range(history: &History, reader: u32, place: &Place, error: &ConsumeError) {
    if let ConsumeError::OffsetOutOfRange { position, start, end, .. } = *error {
        history.record(Event::OutOfRange { reader, place: place.clone(), offset: position, start, end });
    }
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

/// Who reads, and what.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    pub number: u32,
    pub isolation: IsolationLevel,
}

impl Reader {
    /// Of everything.
    pub fn of_all(number: u32) -> Self {
        Self { number, isolation: IsolationLevel::ReadUncommitted }
    }

    /// Of what is committed.
    pub fn of_committed(number: u32) -> Self {
        Self { number, isolation: IsolationLevel::ReadCommitted }
    }

    /// A consumer for it, which the history then knows.
    pub fn consumer(self, client: &Client, history: &History) -> Consumer {
        if self.isolation == IsolationLevel::ReadCommitted {
            history.record(Event::ReadsCommitted { reader: self.number });
        }
        client.consumer(ConsumerConfig { isolation: self.isolation, ..ConsumerConfig::default() })
    }
}

/// Reads all that is committed in `topic` now, and records it. Returns how many records that were.
pub async fn read_whole(
    client: &Client,
    history: &History,
    reader: u32,
    topic: &str,
    deadline: Duration,
) -> Result<u64, ReadError> {
    read_whole_as(client, history, Reader::of_all(reader), topic, &topic.into(), deadline).await
}

/// The same of a topic that the history calls `name`, and as `reader` reads; one of what is committed waits for transactions that
/// are open.
pub async fn read_whole_as(
    client: &Client,
    history: &History,
    reader: Reader,
    topic: &str,
    name: &Arc<str>,
    deadline: Duration,
) -> Result<u64, ReadError> {
    let until = Instant::now() + deadline;
    let admin = client.admin();
    let began = history.now();
    let starts = offsets(super::insist(deadline, || admin.list_offsets(topic, OffsetAt::Earliest)).await?);
    let ends = offsets(super::insist(deadline, || admin.list_offsets(topic, OffsetAt::Latest)).await?);
    let mut consumer = reader.consumer(client, history);
    for (id, start) in &starts {
        let place = Place { topic: Arc::clone(name), partition: *id };
        history.record(Event::Starts { place: place.clone(), offset: *start, asked: began });
        history.record(Event::Sought { reader: reader.number, place, to: Some(*start) });
    }
    // From where it was just told to: the beginning may be elsewhere by now.
    consumer.assign(starts.iter().map(|(id, start)| (topic, *id, StartAt::Offset(*start)))).await?;
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
        match polled {
            Ok(records) => {
                for record in records {
                    read += u64::from(ends.get(&record.partition).is_some_and(|end| record.offset < *end));
                    history.record(seen(reader.number, name, &record));
                }
            }
            // A leader that is gone for a while.
            Err(error) if error.is_retriable() => {}
            // It has moved on since it was asked where it begins.
            Err(ref error @ ConsumeError::OffsetOutOfRange { partition, start, .. }) => {
                let place = Place { topic: Arc::clone(name), partition };
                out_of_range(history, reader.number, &place, error);
                history.record(Event::Sought { reader: reader.number, place, to: Some(start) });
                consumer.seek(topic, partition, StartAt::Offset(start)).await?;
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= until {
            return Err(ReadError::TimedOut { deadline, left: left(&consumer).join(", ") });
        }
    }
    for (partition, to) in ends {
        let (place, from) = (Place { topic: Arc::clone(name), partition }, starts[&partition]);
        history.record(Event::ReadWhole { reader: reader.number, place, from, to, began });
    }
    Ok(read)
}

fn offsets(found: Vec<(PartitionId, highwater_client::TimestampedOffset)>) -> BTreeMap<PartitionId, Offset> {
    found.into_iter().map(|(id, at)| (id, at.offset.unwrap_or(Offset::ZERO))).collect()
}

/// A reader that follows a topic while it is written.
pub struct Tail(Running<Result<u64, ConsumeError>>);

impl Tail {
    /// Starts to read `topic` from its beginning.
    pub fn start(client: &Client, history: &History, reader: u32, topic: &str) -> Self {
        Self::start_as(client, history, Reader::of_all(reader), topic)
    }

    /// The same as `reader` reads.
    pub fn start_as(client: &Client, history: &History, reader: Reader, topic: &str) -> Self {
        let (client, history, topic) = (client.clone(), history.clone(), Arc::from(topic));
        Self(Running::start(|stopping| follow(client, history, reader, topic, stopping)))
    }

    /// Ends it; returns how many records it read, or why it had to give up before.
    ///
    /// # Panics
    /// If its task did.
    pub async fn stop(self) -> Result<u64, ConsumeError> {
        self.0.stop().await
    }
}

async fn follow(
    client: Client,
    history: History,
    reader: Reader,
    topic: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) -> Result<u64, ConsumeError> {
    let mut consumer = reader.consumer(&client, &history);
    let mut read = 0;
    consumer.assign_topic(&topic, StartAt::Beginning).await?;
    loop {
        let polled = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return Ok(read),
            polled = consumer.poll(Duration::from_millis(200)) => polled,
        };
        match polled {
            Ok(records) => {
                read += records.len() as u64;
                records.iter().for_each(|record| history.record(seen(reader.number, &topic, record)));
            }
            // A leader that is gone for a while is what these tests are about.
            Err(error) if error.is_retriable() => {}
            // Deleted before it was read: it goes on where the log begins.
            Err(ref error @ ConsumeError::OffsetOutOfRange { partition, start, .. }) => {
                let place = Place { topic: Arc::clone(&topic), partition };
                out_of_range(&history, reader.number, &place, error);
                history.record(Event::Sought { reader: reader.number, place, to: Some(start) });
                consumer.seek(&topic, partition, StartAt::Offset(start)).await?;
            }
            // Whether it may be, the oracle says.
            Err(ConsumeError::LogTruncated { partition, diverged_at, .. }) => {
                let place = Place { topic: Arc::clone(&topic), partition };
                history.record(Event::Sought { reader: reader.number, place, to: Some(diverged_at) });
                consumer.seek(&topic, partition, StartAt::Offset(diverged_at)).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Looks up times and offsets of what `reader` was given, and reads on from there, until told to stop.
pub async fn seek_about(
    client: Client,
    history: History,
    reader: Reader,
    topic: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut consumer = reader.consumer(&client, &history);
    let mut given: BTreeMap<PartitionId, Vec<(Offset, i64)>> = BTreeMap::new();
    let mut assigned = false;
    for turn in 0_usize.. {
        if !super::go_on(&mut stopping, Duration::from_millis(10)).await {
            return;
        }
        let polled = if assigned {
            consumer.poll(Duration::from_millis(300)).await
        } else {
            consumer.assign_topic(&topic, StartAt::Beginning).await.map(|()| Vec::new())
        };
        let Ok(records) = polled else { continue };
        assigned = true;
        for record in &records {
            history.record(seen(reader.number, &topic, record));
            given.entry(record.partition).or_default().push((record.offset, record.timestamp.get()));
        }
        // Now and then back to something that it was given, by its offset or by its time.
        let Some((partition, (offset, time))) = given
            .iter()
            .nth(turn % given.len().max(1))
            .and_then(|(id, known)| Some((*id, *known.get((turn * 31) % known.len().max(1))?)))
            .filter(|_| turn % 7 == 6)
        else {
            continue;
        };
        let place = Place { topic: Arc::clone(&topic), partition };
        let to = if turn % 2 == 0 {
            Some(offset)
        } else {
            let asked = history.now();
            let found = client.admin().list_offsets(&topic, OffsetAt::Timestamp(TimestampMs::new(time))).await;
            let Some((_, found)) = found.into_iter().flatten().find(|(id, _)| *id == partition) else { continue };
            let place = place.clone();
            history.record(Event::FoundByTime { place, timestamp_ms: time, offset: found.offset, asked });
            found.offset
        };
        if let Some(to) = to
            && consumer.seek(&topic, partition, StartAt::Offset(to)).await.is_ok()
        {
            history.record(Event::Sought { reader: reader.number, place, to: Some(to) });
        }
    }
}

/// Acknowledged records of `topic` that none of those readers was given.
pub fn unread(history: &History, topic: &str, is_one: impl Fn(u32) -> bool) -> BTreeSet<RecordId> {
    let (mut unread, mut read) = (BTreeSet::new(), BTreeSet::new());
    for timed in history.events() {
        match timed.event {
            Event::Acknowledged { id, place, .. } if &*place.topic == topic => _ = unread.insert(id),
            // A record may be read before its writer hears of it.
            Event::Read { reader, id: Some(id), .. } if is_one(reader) => _ = read.insert(id),
            _ => {}
        }
    }
    unread.retain(|id| !read.contains(id));
    unread
}
