//! What clients did and saw, in the order in which it happened. [`crate::oracle`] holds it against the promises.
//!
//! A history holds no content: a record is its [`RecordId`], which travels inside of it, and a checksum. It can be
//! written as JSON lines, so that two runs can be compared and a failed one be read.

mod event;
mod payload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use event::{
    AckedBy, Event, FIRST_MEMBER_READER, Place, RecordId, Removal, Sign, Timed, Told, TransactionId, life_of,
    member_of, reader_of,
};
pub use payload::{checksum, payload, record_id};

use crate::oracle::{Expectations, Report, check};

/// Records events from many tasks. Clones share one history.
#[derive(Debug, Clone)]
pub struct History {
    clock: Clock,
    events: Arc<Mutex<Vec<Timed>>>,
}

impl Default for History {
    fn default() -> Self {
        Self { clock: Clock::Since(Instant::now()), events: Arc::default() }
    }
}

#[derive(Debug, Clone, Copy)]
enum Clock {
    Since(Instant),
    Of(fn() -> Duration),
}

impl History {
    pub fn new() -> Self {
        Self::default()
    }

    /// With another clock than tokio's: hosts of a simulation have each its own of that.
    pub fn timed_by(clock: fn() -> Duration) -> Self {
        Self { clock: Clock::Of(clock), events: Arc::default() }
    }

    pub fn record(&self, event: Event) {
        let mut events = self.lock();
        // Taken under the lock, so that times never go back along the history.
        let at = self.now();
        events.push(Timed { at, event });
    }

    /// For who stands outside of the simulated time in which the history runs. Times must not go back.
    pub fn record_at(&self, at: Duration, event: Event) {
        self.lock().push(Timed { at, event });
    }

    /// How long the history has run.
    pub fn now(&self) -> Duration {
        match self.clock {
            Clock::Since(start) => start.elapsed(),
            Clock::Of(clock) => clock(),
        }
    }

    pub fn fault(&self, what: impl Into<String>) {
        self.record(Event::Fault { what: what.into() });
    }

    /// A copy of what happened so far.
    pub fn events(&self) -> Vec<Timed> {
        self.lock().clone()
    }

    /// A copy of what happened after the first `from` events.
    pub fn events_from(&self, from: usize) -> Vec<Timed> {
        self.lock().get(from..).unwrap_or_default().to_vec()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.lock().iter().filter(|timed| matches!(timed.event, Event::Acknowledged { .. })).count()
    }

    /// One JSON object a line.
    pub fn to_json_lines(&self) -> String {
        let mut text = String::new();
        for timed in self.lock().iter() {
            text.push_str(&serde_json::to_string(timed).expect("events hold only text and numbers"));
            text.push('\n');
        }
        text
    }

    /// Checks it, and panics with the violations if there are any; the history is then left in a file, which is named.
    pub fn assert_keeps(&self, expectations: &Expectations) -> Report {
        let report = check(&self.events(), expectations);
        if !report.violations.is_empty() {
            panic!("{report}\n{}", self.left_in_a_file());
        }
        report
    }

    /// Leaves the history in a temporary file, and says where.
    pub fn left_in_a_file(&self) -> String {
        let file = tempfile::Builder::new().prefix("history-").suffix(".jsonl").tempfile();
        let path = file.and_then(|file| {
            std::fs::write(file.path(), self.to_json_lines())?;
            Ok(file.keep().map_err(|kept| kept.error)?.1)
        });
        match path {
            Ok(path) => format!("the history is in {}", path.display()),
            Err(error) => format!("the history could not be written: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Timed>> {
        // A poisoned list of events is still one.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_being_written_as_json() {
        let (id, topic) = (RecordId { writer: 1, number: 2 }, Arc::from("t"));
        let transaction = Some(TransactionId { writer: 1, number: 3 });
        let began = Duration::from_millis(1);
        let place = Place::new("t", 0);
        let events = [
            Event::sent(id, &topic, 7),
            Event::sent_in(transaction, id, &topic, 7),
            Event::Acknowledged { id, place: place.clone(), offset: highwater_types::Offset::ZERO },
            Event::Works { sign: Sign::Written { place } },
            Event::Topic { topic, synced: true, removal: Removal::Compaction, dense: false },
            Event::Ended {
                transaction: TransactionId { writer: 1, number: 3 },
                told: Told::Unknown,
                asked: began,
                why: "?".into(),
            },
            Event::Healed,
            Event::Starts { place: Place::new("t", 0), offset: highwater_types::Offset::ZERO, asked: began },
            Event::Deleted { place: Place::new("t", 0), start: highwater_types::Offset::ZERO },
        ];
        for event in events {
            let timed = Timed { at: began, event };
            let text = serde_json::to_string(&timed).unwrap();
            assert_eq!(serde_json::from_str::<Timed>(&text).unwrap(), timed);
        }
    }
}
