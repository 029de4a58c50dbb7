//! Thin clients: publishers that know no more of the cluster than some brokers' addresses, and ask one after the other.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::error_from_status;
use highwater_protocol::v1::{self, records_client::RecordsClient};
use highwater_seams::{Net, channel};
use highwater_types::{Offset, PartitionId};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{PAUSE, go_on};
use crate::history::{AckedBy, Event, History, Place, RecordId, checksum, payload};

/// How long one broker has for an answer.
const ANSWER: Duration = Duration::from_secs(5);
const RECORDS: u64 = 3;

/// A publisher.
pub struct Publisher {
    pub net: Arc<dyn Net>,
    /// Any brokers, by host and port.
    pub brokers: Vec<(String, u16)>,
    pub history: History,
    pub writer: u32,
    pub topic: Arc<str>,
    /// With a name each request is stored once, however often it is sent.
    pub name: Option<String>,
    /// How long a request is sent again, by other brokers, until it is given up.
    pub patience: Duration,
}

impl Publisher {
    /// Publishes until told to stop.
    pub async fn publish(self, every: Duration, mut stopping: watch::Receiver<bool>) {
        self.history.record(Event::Writer { writer: self.writer, acks: AckedBy::All, idempotent: self.name.is_some() });
        let mut sequence = 0;
        while go_on(&mut stopping, every).await {
            let ids: Vec<_> =
                (0..RECORDS).map(|n| RecordId { writer: self.writer, number: sequence * RECORDS + n }).collect();
            sequence += 1;
            let request = self.request(&ids, sequence);
            if !self.until_answered(&ids, &request, sequence).await {
                // What becomes of it nobody knows, so what would come after it can't be numbered.
                return;
            }
        }
    }

    fn request(&self, ids: &[RecordId], sequence: u64) -> v1::PublishRequest {
        let records = ids.iter().map(|id| {
            let value = payload(*id, 40);
            self.history.record(Event::sent(*id, &self.topic, checksum(None, Some(&value))));
            v1::PublishRecord { value: Some(value), partition: Some(0), ..v1::PublishRecord::default() }
        });
        v1::PublishRequest {
            topic: self.topic.to_string(),
            records: records.collect(),
            acks: v1::Acks::All.into(),
            publisher_id: self.name.clone().unwrap_or_default(),
            sequence: if self.name.is_some() { sequence } else { 0 },
            ..v1::PublishRequest::default()
        }
    }

    /// Asks one broker after the other. False: given up.
    async fn until_answered(&self, ids: &[RecordId], request: &v1::PublishRequest, sequence: u64) -> bool {
        let until = Instant::now() + self.patience;
        let mut why = "not asked".to_owned();
        let mut is_unknown = false;
        for turn in sequence as usize.. {
            let (host, port) = &self.brokers[turn % self.brokers.len()];
            let mut door = RecordsClient::new(channel(&self.net, host, *port));
            match timeout(ANSWER, door.publish(request.clone())).await {
                Ok(Ok(answer)) => {
                    for (id, result) in ids.iter().zip(answer.into_inner().results) {
                        self.settle(*id, &result);
                    }
                    return true;
                }
                Ok(Err(status)) => {
                    let error = error_from_status(&status);
                    is_unknown |= error.outcome_unknown;
                    why = format!("{host}: {}", error.message);
                }
                Err(_) => {
                    is_unknown = true;
                    why = format!("{host} did not answer within {ANSWER:?}");
                }
            }
            // Without a name, sending again what may be stored would store it twice.
            let give_up = self.name.is_none() && is_unknown;
            if give_up || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        for id in ids {
            let why = why.clone();
            let id = *id;
            self.history.record(if is_unknown { Event::Unknown { id, why } } else { Event::Refused { id, why } });
        }
        self.name.is_none()
    }

    fn settle(&self, id: RecordId, result: &v1::PublishResult) {
        let place = Place { topic: Arc::clone(&self.topic), partition: PartitionId::new(result.partition) };
        self.history.record(match (&result.error, result.offset) {
            (Some(error), _) if error.outcome_unknown => Event::Unknown { id, why: error.message.clone() },
            (Some(error), _) => Event::Refused { id, why: error.message.clone() },
            (None, Some(offset)) => Event::Acknowledged { id, place, offset: Offset::new(offset) },
            (None, None) => Event::Unknown { id, why: "stored, long ago: nobody knows where".to_owned() },
        });
    }
}
