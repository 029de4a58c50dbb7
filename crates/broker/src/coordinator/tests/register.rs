//! A shard for tests: a map from keys to values.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use highwater_coordination::*;
use highwater_types::{LeaderEpoch, Offset, ProducerId};

/// A key whose records can be written and not be read back from a log.
pub(super) const POISON: &str = "poison";

#[derive(Debug, Clone)]
pub(super) enum Request {
    Set(String, String),
    SetIn(ProducerIdentity, String, String),
    Get(String),
    Dump,
    Refuse,
    /// Answered once the key is set.
    AwaitChange(String),
    ExpireAfter(String, Duration),
    Topics,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused")]
pub(super) struct Refusal;

#[derive(Default)]
pub(super) struct Register {
    values: BTreeMap<String, String>,
    open: HashMap<ProducerId, Vec<CoordinatorRecord>>,
    waiting: Vec<(String, Token)>,
    expiries: Vec<(Duration, String)>,
    topics: Topics,
    is_loaded: bool,
}

type Done = Effects<Option<String>, Refusal, String>;

fn text(bytes: &Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn record(key: &str, value: Option<&str>) -> CoordinatorRecord {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    CoordinatorRecord { key: bytes(key), value: value.map(bytes) }
}

fn write(transaction_of: Option<ProducerIdentity>, record: CoordinatorRecord) -> Option<Write> {
    Some(Write { transaction_of, records: vec![record] })
}

impl Register {
    fn apply(&mut self, record: &CoordinatorRecord) {
        match &record.value {
            Some(value) => self.values.insert(text(&record.key), text(value)),
            None => self.values.remove(&text(&record.key)),
        };
    }
}

impl Shard for Register {
    type Request = Request;
    type Response = Option<String>;
    type Error = Refusal;
    type Action = String;

    fn replay(
        &mut self,
        offset: Offset,
        transaction_of: Option<ProducerIdentity>,
        record: &CoordinatorRecord,
    ) -> Result<(), CorruptRecord> {
        if record.key == POISON.as_bytes() && !self.is_loaded {
            return Err(CorruptRecord { offset, problem: "poison".into() });
        }
        match transaction_of {
            Some(producer) => self.open.entry(producer.id).or_default().push(record.clone()),
            None => self.apply(record),
        }
        Ok(())
    }

    fn replay_marker(&mut self, _: Offset, marker: EndMarker) {
        let records = self.open.remove(&marker.producer.id).unwrap_or_default();
        if marker.commit {
            records.iter().for_each(|record| self.apply(record));
        }
    }

    fn loaded(&mut self, _: Now, _: LeaderEpoch, topics: &Topics) -> Done {
        (self.is_loaded, self.topics) = (true, topics.clone());
        Done::default()
    }

    fn handle(&mut self, now: Now, token: Token, request: Request) -> Done {
        let answer = |value| Done { replies: vec![(token, Ok(value))], ..Done::default() };
        match request {
            Request::Set(key, value) => {
                let woken = self.waiting.extract_if(.., |(wanted, _)| *wanted == key);
                let mut replies: Vec<_> = woken.map(|(_, token)| (token, Ok(None))).collect();
                replies.push((token, Ok(None)));
                Done { write: write(None, record(&key, Some(&value))), replies, actions: vec![format!("set {key}")] }
            }
            Request::SetIn(producer, key, value) => {
                Done { write: write(Some(producer), record(&key, Some(&value))), ..answer(None) }
            }
            Request::Get(key) => answer(self.values.get(&key).cloned()),
            Request::Dump => {
                let all: Vec<_> = self.values.iter().map(|(key, value)| format!("{key}={value}")).collect();
                answer(Some(all.join(" ")))
            }
            Request::Refuse => Done { replies: vec![(token, Err(Refusal))], ..Done::default() },
            Request::AwaitChange(key) => {
                self.waiting.push((key, token));
                Done::default()
            }
            Request::ExpireAfter(key, after) => {
                self.expiries.push((now.elapsed + after, key));
                answer(None)
            }
            Request::Topics => {
                let names: Vec<_> = self.topics.iter().map(|(_, topic)| topic.name.to_string()).collect();
                answer(Some(names.join(" ")))
            }
        }
    }

    fn next_timer(&self) -> Option<Duration> {
        self.expiries.iter().map(|(due, _)| *due).min()
    }

    fn on_time(&mut self, now: Now) -> Done {
        let due = self.expiries.extract_if(.., |(due, _)| *due <= now.elapsed);
        let records: Vec<_> = due.map(|(_, key)| record(&key, None)).collect();
        Done { write: Some(Write { transaction_of: None, records }), ..Done::default() }
    }

    fn on_topics(&mut self, _: Now, topics: &Topics) -> Done {
        self.topics = topics.clone();
        Done::default()
    }
}
