//! Histories made by hand, for the tests of the checkers.

use std::time::Duration;

use highwater_types::Offset;

use super::{Anomaly, Expectations, Report, check};
use crate::history::{AckedBy, Event, Place, RecordId, Removal, Timed};

/// Builds histories. A second passes between two events; a record carries the checksum `100 * writer + number`.
#[derive(Default, Clone)]
pub struct Made(pub Vec<Timed>, Duration);

pub fn id(writer: u32, number: u64) -> RecordId {
    RecordId { writer, number }
}

pub fn sum(id: RecordId) -> u32 {
    100 * id.writer + u32::try_from(id.number).unwrap()
}

pub fn place() -> Place {
    Place::new("t", 0)
}

impl Made {
    pub fn event(mut self, event: Event) -> Self {
        self.0.push(Timed { at: self.1, event });
        self.later(1)
    }
    pub fn later(mut self, seconds: u64) -> Self {
        self.1 += Duration::from_secs(seconds);
        self
    }
    pub fn then(self, other: Self) -> Self {
        other.0.into_iter().fold(self, |made, timed| made.event(timed.event))
    }
    pub fn writer(self, writer: u32, acks: AckedBy, idempotent: bool) -> Self {
        self.event(Event::Writer { writer, acks, idempotent })
    }
    pub fn topic(self, synced: bool, removal: Removal) -> Self {
        self.event(Event::Topic { topic: "t".into(), synced, removal, dense: true })
    }
    pub fn sent(self, id: RecordId) -> Self {
        self.event(Event::sent(id, &"t".into(), sum(id)))
    }
    pub fn put(self, id: RecordId, key: &str, tombstone: bool) -> Self {
        let (topic, key) = ("t".into(), Some(key.into()));
        self.event(Event::Sent { id, topic, checksum: sum(id), key, tombstone, transaction: None })
    }
    pub fn acked(self, id: RecordId, offset: i64) -> Self {
        self.event(Event::Acknowledged { id, place: place(), offset: Offset::new(offset) })
    }
    pub fn unknown(self, id: RecordId) -> Self {
        self.event(Event::Unknown { id, why: "timed out".to_owned() })
    }
    pub fn fault(self) -> Self {
        self.event(Event::Fault { what: "kill".to_owned() })
    }
    pub fn power_loss(self) -> Self {
        self.event(Event::PowerLost { node: "broker-1".to_owned() })
    }
    pub fn read_by(self, reader: u32, id: RecordId, offset: i64) -> Self {
        self.read_at(reader, place(), id, offset)
    }
    pub fn read_at(self, reader: u32, place: Place, id: RecordId, offset: i64) -> Self {
        let offset = Offset::new(offset);
        self.event(Event::Read { reader, place, offset, id: Some(id), checksum: sum(id), timestamp_ms: None })
    }
    pub fn read(self, id: RecordId, offset: i64) -> Self {
        self.read_by(0, id, offset)
    }
    pub fn whole(self, from: i64, to: i64) -> Self {
        self.whole_by(0, from, to)
    }
    /// It begins now.
    pub fn whole_by(self, reader: u32, from: i64, to: i64) -> Self {
        let began = self.1;
        self.whole_at(reader, place(), from, to, began)
    }
    /// It began when so many seconds had passed.
    pub fn whole_since(self, from: i64, to: i64, seconds: u64) -> Self {
        self.whole_at(0, place(), from, to, Duration::from_secs(seconds))
    }
    pub fn whole_at(self, reader: u32, place: Place, from: i64, to: i64, began: Duration) -> Self {
        let (from, to) = (Offset::new(from), Offset::new(to));
        self.event(Event::ReadWhole { reader, place, from, to, began })
    }
    /// Sent, acknowledged and read, at `offset`.
    pub fn stored(self, id: RecordId, offset: i64) -> Self {
        self.sent(id).acked(id, offset).read(id, offset)
    }
    pub fn report(&self) -> Report {
        check(&self.0, &Expectations::default())
    }
    /// What is found, each once, with what the promise of idempotence holds for all.
    pub fn found(&self) -> Vec<Anomaly> {
        self.found_by(&Expectations::default())
    }
    pub fn found_by(&self, expectations: &Expectations) -> Vec<Anomaly> {
        let mut found: Vec<_> = check(&self.0, expectations).violations.iter().map(|it| it.anomaly).collect();
        found.dedup();
        found
    }
}
