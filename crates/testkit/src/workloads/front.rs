//! Who looks where the partitions of a topic begin, and for records that were before.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Client, ConsumeError, ConsumerConfig, Offset, OffsetAt, PartitionId, StartAt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::go_on;
use super::readers::{out_of_range, seen};
use crate::history::{Event, History, Place};

/// How long a reader looks for what is gone: it is told so, or not at all.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at one partition after the other, as `reader`.
pub struct FrontReader {
    pub client: Client,
    pub history: History,
    pub topic: Arc<str>,
    pub partitions: u32,
    pub reader: u32,
    /// Between one and the next.
    pub every: Duration,
}

impl FrontReader {
    /// Looks for what lies before each, until told to stop.
    pub async fn look(self, mut stopping: watch::Receiver<bool>) {
        let mut turn = 0;
        while go_on(&mut stopping, self.every).await {
            if let Some((place, start, _)) = self.next(&mut turn).await {
                self.look_before(&place, start).await;
            }
        }
    }

    /// The next partition in turn, where it begins and where it ends, as its leader says.
    pub(super) async fn next(&self, turn: &mut u32) -> Option<(Place, Offset, Offset)> {
        *turn += 1;
        let place = Place { topic: Arc::clone(&self.topic), partition: PartitionId::new(*turn % self.partitions) };
        let admin = self.client.admin();
        let asked = self.history.now();
        let of = |found: Vec<(PartitionId, highwater_client::TimestampedOffset)>| {
            found.into_iter().find(|(id, _)| *id == place.partition)?.1.offset
        };
        let start = of(admin.list_offsets(&self.topic, OffsetAt::Earliest).await.ok()?)?;
        self.history.record(Event::Starts { place: place.clone(), offset: start, asked });
        let end = of(admin.list_offsets(&self.topic, OffsetAt::Latest).await.ok()?)?;
        Some((place, start, end))
    }

    /// What a new reader is told that begins at the last record before `start`, if there was one.
    pub(super) async fn look_before(&self, place: &Place, start: Offset) {
        let Some(at) = start.get().checked_sub(1).filter(|at| *at >= 0).map(Offset::new) else { return };
        let (history, reader) = (&self.history, self.reader);
        let until = Instant::now() + LOOK;
        let mut consumer = self.client.consumer(ConsumerConfig::default());
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
}
