//! What clients did and saw, in the order in which it happened, and the checks of it.
//!
//! A history holds no content: a record is its [`RecordId`], which travels inside of it, and a checksum. It can be
//! written as JSON lines, so that two runs can be compared and a failed one be read.

mod atomic;
mod check;
mod exactly_once;
mod ownership;
mod payload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_types::{Offset, PartitionId};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use atomic::{AtomicityViolation, Told, Transacted, check_atomicity};
pub use check::{Duplicates, Report, Rules, Violation, check};
pub use exactly_once::{PipelineViolation, check_exactly_once};
pub use ownership::{OwnershipViolation, check_ownership};
pub use payload::{checksum, payload, record_id};

/// Names a record over the whole history: the `number`-th that `writer` sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    pub writer: u32,
    pub number: u64,
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record {} of writer {}", self.number, self.writer)
    }
}

/// A partition, as clients name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: PartitionId,
}

impl Place {
    pub fn new(topic: &str, partition: u32) -> Self {
        Self { topic: topic.into(), partition: PartitionId::new(partition) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// Handed to the producer. A writer's numbers grow, in the order of its sends.
    Sent { id: RecordId, topic: Arc<str>, checksum: u32 },
    /// The producer said: written, with the acks asked for.
    Acknowledged { id: RecordId, place: Place, offset: Offset },
    /// The producer said: failed, and nothing was written.
    Refused { id: RecordId, why: String },
    /// The producer said: failed, and it can't tell whether it was written.
    Unknown { id: RecordId, why: String },
    /// A reader was given this record. `id` is `None` for one that carries no id.
    Read { reader: u32, place: Place, offset: Offset, id: Option<RecordId>, checksum: u32 },
    /// A reader has read everything of `place` from `from` (inclusive) to `to` (exclusive).
    ReadWhole { reader: u32, place: Place, from: Offset, to: Offset },
    /// A member of a group was given the partition. Members are numbered over the whole history, each life its own number.
    Assigned { group: Arc<str>, member: u32, place: Place },
    /// The member gave it back, or heard that it has lost it.
    Released { group: Arc<str>, member: u32, place: Place },
    /// The member was killed or paused: what it had may go to others without its knowing.
    MemberGone { member: u32 },
    /// The coordinator took the offset. `began`: when the member asked for it.
    Committed { group: Arc<str>, member: u32, place: Place, offset: Offset, began: Duration },
    /// Something was broken on purpose, or repaired.
    Fault { what: String },
}

/// An event and when it happened, since the history began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub at: Duration,
    #[serde(flatten)]
    pub event: Event,
}

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
    pub fn assert_keeps(&self, rules: &Rules) -> Report {
        let report = check(&self.events(), rules);
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
