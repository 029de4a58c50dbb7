//! Records that are deleted on request, from the front of each partition, and readers that look for them all the same.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Client, ConsumeError, ConsumerConfig, Offset, OffsetAt, PartitionId, StartAt};
use highwater_types::Offset as Position;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::go_on;
use super::readers::{out_of_range, seen};
use crate::history::{Event, History, Place};

/// How long a reader looks for what is gone: it is told so, or not at all.
const LOOK: Duration = Duration::from_secs(5);

/// Deletes the older half of one partition after the other, until told to stop. `reader` seeks before what is left.
pub async fn trim(
    client: Client,
    history: History,
    topic: Arc<str>,
    partitions: u32,
    reader: u32,
    every: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let mut turn = 0;
    while go_on(&mut stopping, every).await {
        turn += 1;
        let partition = PartitionId::new(turn % partitions);
        let place = Place { topic: Arc::clone(&topic), partition };
        let Some((start, end)) = bounds(&client, &history, &place).await else { continue };
        let before = Position::new((start.get() + end.get()) / 2);
        history.record(Event::DeleteRecords { place: place.clone(), before });
        match client.admin().delete_records(&topic, partition, Some(before)).await {
            Ok(start) => history.record(Event::Deleted { place: place.clone(), start }),
            Err(error) => {
                history.record(Event::Failed { what: format!("delete records of {place}"), why: error.to_string() });
                continue;
            }
        }
        if before > Offset::ZERO {
            look_before(&client, &history, reader, &place, Position::new(before.get() - 1)).await;
        }
    }
}

/// Where the partition begins and ends, as its leader says.
pub(super) async fn bounds(client: &Client, history: &History, place: &Place) -> Option<(Offset, Offset)> {
    let admin = client.admin();
    let asked = history.now();
    let of = |found: Vec<(PartitionId, highwater_client::TimestampedOffset)>| {
        found.into_iter().find(|(id, _)| *id == place.partition)?.1.offset
    };
    let start = of(admin.list_offsets(&place.topic, OffsetAt::Earliest).await.ok()?)?;
    history.record(Event::Starts { place: place.clone(), offset: start, asked });
    let end = of(admin.list_offsets(&place.topic, OffsetAt::Latest).await.ok()?)?;
    Some((start, end))
}

/// What a new reader is told that begins at a deleted record.
pub(super) async fn look_before(client: &Client, history: &History, reader: u32, place: &Place, at: Offset) {
    let until = Instant::now() + LOOK;
    let mut consumer = client.consumer(ConsumerConfig::default());
    history.record(Event::Sought { reader, place: place.clone(), to: Some(at) });
    let mut assigned = false;
    while Instant::now() < until {
        let result = if assigned {
            match timeout_at(until, consumer.poll(Duration::from_millis(200))).await {
                Ok(polled) => polled,
                Err(_) => return,
            }
        } else {
            let begin = [(place.topic.as_ref(), place.partition.get(), StartAt::Offset(at))];
            consumer.assign(begin).await.map(|()| Vec::new())
        };
        match result {
            Ok(records) => {
                assigned = true;
                records.iter().for_each(|record| history.record(seen(reader, &place.topic, record)));
                if !records.is_empty() {
                    return;
                }
            }
            Err(error) if error.is_retriable() => {}
            Err(error) => {
                match &error {
                    ConsumeError::OffsetOutOfRange { .. } => out_of_range(history, reader, place, &error),
                    other => history.record(Event::Failed {
                        what: format!("reader {reader} at {place}@{at}"),
                        why: other.to_string(),
                    }),
                }
                return;
            }
        }
    }
}
