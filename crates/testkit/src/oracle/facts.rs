//! A history in the order of its subjects: what became of each record, what each partition was seen to hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_types::Offset;

use super::Expectations;
use crate::history::{AckedBy, Event, Place, RecordId, Removal, Timed, Told, TransactionId};

/// A record from its send on.
pub struct Fate<'a> {
    pub sent_at: Duration,
    pub topic: &'a Arc<str>,
    pub checksum: u32,
    pub key: Option<&'a Arc<str>>,
    pub tombstone: bool,
    pub transaction: Option<TransactionId>,
    pub acknowledged: Option<Ack<'a>>,
    pub refused: Option<&'a str>,
    pub unknown: Option<&'a str>,
}

pub struct Ack<'a> {
    pub place: &'a Place,
    pub offset: Offset,
    pub at: Duration,
}

/// What a reader was given.
#[derive(Clone, Copy)]
pub struct Seen {
    pub id: Option<RecordId>,
    pub checksum: u32,
    pub reader: u32,
    /// When somebody was given it first.
    pub at: Duration,
    /// When a reader of committed records was.
    pub committed_at: Option<Duration>,
    pub timestamp_ms: Option<i64>,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id {
            Some(id) => write!(f, "{id}")?,
            None => f.write_str("a record without an id")?,
        }
        write!(f, " (checksum {:08x})", self.checksum)
    }
}

/// A reader that has read a partition whole.
pub struct Whole {
    pub reader: u32,
    pub from: Offset,
    pub to: Offset,
    pub began: Duration,
    pub at: Duration,
}

#[derive(Default)]
pub struct PlaceFacts {
    pub seen: BTreeMap<Offset, Seen>,
    pub by_reader: BTreeMap<u32, BTreeSet<Offset>>,
    pub wholes: Vec<Whole>,
    /// What lies before may be gone.
    pub start: Offset,
}

/// A topic's promises.
#[derive(Clone, Copy)]
pub struct TopicFacts {
    pub synced: bool,
    pub removal: Removal,
    pub dense: bool,
}

/// What a topic keeps whose oldest records go by themselves.
#[derive(Clone, Copy)]
pub struct Kept {
    pub records: Option<u64>,
    pub age: Option<Duration>,
}

#[derive(Default)]
pub struct TransactionFacts<'a> {
    pub records: Vec<RecordId>,
    pub producer: Option<(&'a Arc<str>, u32)>,
    pub began_at: Duration,
    pub ended: Option<Ended>,
}

pub struct Ended {
    pub told: Told,
    pub asked: Duration,
    pub at: Duration,
}

impl TransactionFacts<'_> {
    pub fn told(&self) -> Option<Told> {
        self.ended.as_ref().map(|ended| ended.told)
    }
}

/// What a pipeline does.
pub struct Copies<'a> {
    pub group: &'a Arc<str>,
    pub from: &'a Arc<str>,
    pub to: &'a Arc<str>,
}

pub struct Facts<'a> {
    pub events: &'a [Timed],
    pub expectations: &'a Expectations,
    writers: BTreeMap<u32, (AckedBy, bool)>,
    topics: BTreeMap<&'a Arc<str>, TopicFacts>,
    pub kept: BTreeMap<&'a Arc<str>, Kept>,
    committed_readers: BTreeSet<u32>,
    pub fates: BTreeMap<RecordId, Fate<'a>>,
    pub places: BTreeMap<&'a Place, PlaceFacts>,
    /// Where readers found it.
    pub stored: BTreeMap<RecordId, Vec<(&'a Place, Offset)>>,
    pub transactions: BTreeMap<TransactionId, TransactionFacts<'a>>,
    pub copies: Vec<Copies<'a>>,
    pub faults: Vec<Duration>,
    power_losses: Vec<Duration>,
    clock_wrong: Option<Duration>,
    healed: Option<Duration>,
}

impl<'a> Facts<'a> {
    pub fn gather(events: &'a [Timed], expectations: &'a Expectations) -> Self {
        let mut facts = Self {
            events,
            expectations,
            writers: BTreeMap::new(),
            topics: BTreeMap::new(),
            kept: BTreeMap::new(),
            committed_readers: BTreeSet::new(),
            fates: BTreeMap::new(),
            places: BTreeMap::new(),
            stored: BTreeMap::new(),
            transactions: BTreeMap::new(),
            copies: Vec::new(),
            faults: Vec::new(),
            power_losses: Vec::new(),
            clock_wrong: None,
            healed: None,
        };
        for timed in events {
            facts.take(timed);
        }
        for (place, known) in &facts.places {
            for (offset, seen) in &known.seen {
                if let Some(id) = seen.id {
                    facts.stored.entry(id).or_default().push((*place, *offset));
                }
            }
        }
        for (place, start) in &expectations.starts {
            if let Some(known) = facts.places.get_mut(place) {
                known.start = known.start.max(*start);
            }
        }
        facts
    }

    fn take(&mut self, timed: &'a Timed) {
        let at = timed.at;
        match &timed.event {
            Event::Writer { writer, acks, idempotent } => _ = self.writers.insert(*writer, (*acks, *idempotent)),
            Event::Topic { topic, synced, removal, dense } => {
                self.topics.insert(topic, TopicFacts { synced: *synced, removal: *removal, dense: *dense });
            }
            Event::Keeps { topic, records, age } => {
                self.kept.insert(topic, Kept { records: *records, age: *age });
            }
            Event::Copies { group, from, to } => self.copies.push(Copies { group, from, to }),
            Event::Sent { id, topic, checksum, key, tombstone, transaction } => {
                if let Some(transaction) = transaction {
                    self.transactions.entry(*transaction).or_default().records.push(*id);
                }
                self.fates.insert(
                    *id,
                    Fate {
                        sent_at: at,
                        topic,
                        checksum: *checksum,
                        key: key.as_ref(),
                        tombstone: *tombstone,
                        transaction: *transaction,
                        acknowledged: None,
                        refused: None,
                        unknown: None,
                    },
                );
            }
            Event::Acknowledged { id, place, offset } => {
                if let Some(fate) = self.fates.get_mut(id) {
                    fate.acknowledged = Some(Ack { place, offset: *offset, at });
                }
            }
            Event::Refused { id, why } => {
                if let Some(fate) = self.fates.get_mut(id) {
                    fate.refused = Some(why);
                }
            }
            Event::Unknown { id, why } => {
                if let Some(fate) = self.fates.get_mut(id) {
                    fate.unknown = Some(why);
                }
            }
            Event::Began { transaction, producer, instance } => {
                let known = self.transactions.entry(*transaction).or_default();
                (known.producer, known.began_at) = (Some((producer, *instance)), at);
            }
            Event::Ended { transaction, told, asked, .. } => {
                self.transactions.entry(*transaction).or_default().ended =
                    Some(Ended { told: *told, asked: *asked, at });
            }
            Event::ReadsCommitted { reader } => _ = self.committed_readers.insert(*reader),
            Event::Read { reader, place, offset, id, checksum, timestamp_ms } => {
                let committed_at = self.committed_readers.contains(reader).then_some(at);
                let known = self.places.entry(place).or_default();
                known.by_reader.entry(*reader).or_default().insert(*offset);
                let (reader, id, checksum, timestamp_ms) = (*reader, *id, *checksum, *timestamp_ms);
                let seen = known.seen.entry(*offset).or_insert(Seen {
                    id,
                    checksum,
                    reader,
                    at,
                    committed_at: None,
                    timestamp_ms,
                });
                seen.committed_at = seen.committed_at.or(committed_at);
            }
            Event::ReadWhole { reader, place, from, to, began } => {
                let whole = Whole { reader: *reader, from: *from, to: *to, began: *began, at };
                self.places.entry(place).or_default().wholes.push(whole);
            }
            Event::DeleteRecords { place, before } => {
                let known = self.places.entry(place).or_default();
                known.start = known.start.max(*before);
            }
            Event::Starts { place, offset: start, .. } | Event::OutOfRange { place, start, .. }
                if self.removal(&place.topic) == Removal::Retention =>
            {
                let known = self.places.entry(place).or_default();
                known.start = known.start.max(*start);
            }
            Event::Fault { .. } => self.faults.push(at),
            Event::PowerLost { .. } => self.power_losses.push(at),
            Event::ClockWrong { .. } => _ = self.clock_wrong.get_or_insert(at),
            Event::Healed => self.healed = Some(at),
            _ => {}
        }
    }

    pub fn acks(&self, writer: u32) -> AckedBy {
        self.writers.get(&writer).map_or(self.expectations.acks, |(acks, _)| *acks)
    }

    pub fn is_idempotent(&self, writer: u32) -> bool {
        self.writers.get(&writer).map_or(self.expectations.idempotent, |(_, idempotent)| *idempotent)
    }

    fn topic(&self, topic: &Arc<str>) -> TopicFacts {
        let plain = TopicFacts { synced: true, removal: Removal::OnRequest, dense: true };
        self.topics.get(topic).copied().unwrap_or(plain)
    }

    pub fn removal(&self, topic: &Arc<str>) -> Removal {
        self.topic(topic).removal
    }

    /// Whether each offset of the topic is a record's, as far as the history tells. Where a power loss may have left one copy of
    /// a record, that one can be damaged; its offset stays.
    pub fn is_dense(&self, topic: &Arc<str>) -> bool {
        let topic = self.topic(topic);
        let keeps_copies = topic.synced || self.power_losses.is_empty();
        topic.dense && keeps_copies && topic.removal != Removal::Compaction
    }

    /// Whether a record written to `topic` at `at` outlives everything that the history has of faults.
    pub fn is_safe_from_power_loss(&self, topic: &Arc<str>, at: Duration) -> bool {
        self.topic(topic).synced || self.power_losses.iter().all(|lost| *lost < at)
    }

    /// Whether all wall clocks have been right until `at`.
    pub fn are_clocks_right(&self, at: Duration) -> bool {
        self.clock_wrong.is_none_or(|wrong| at < wrong)
    }

    pub fn reads_committed(&self, reader: u32) -> bool {
        self.committed_readers.contains(&reader)
    }

    /// Where records of `topic` may be besides.
    pub fn is_copied(&self, from: &Arc<str>, to: &Arc<str>) -> bool {
        self.copies.iter().any(|copies| copies.from == from && copies.to == to)
    }

    /// In how many places of the topic that it was sent to the record was found.
    pub fn copies_of(&self, id: RecordId, places: &[(&Place, Offset)]) -> usize {
        let Some(fate) = self.fates.get(&id) else { return 0 };
        places.iter().filter(|(place, _)| place.topic == *fate.topic).count()
    }

    /// When the last fault was over.
    pub fn healed_at(&self) -> Duration {
        self.healed.or(self.faults.last().copied()).unwrap_or_default()
    }

    /// The newest reading of the whole partition.
    pub fn last_whole<'p>(&self, known: &'p PlaceFacts, committed: bool) -> Option<&'p Whole> {
        known.wholes.iter().rev().find(|whole| self.reads_committed(whole.reader) == committed)
    }
}
