//! What a broker counts as it works, and what it looks up when it is asked ([`BrokerScrape`]).

mod scrape;
mod topics;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use highwater_metrics::{Counter, Histogram, Page};
use highwater_record::TransactionResult;
use highwater_types::{BrokerId, ErrorCode};

pub use scrape::BrokerScrape;
pub(crate) use topics::{TopicCounters, Topics};

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Produce,
    Fetch,
}

impl Api {
    const ALL: [Self; 2] = [Self::Produce, Self::Fetch];

    const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
        }
    }
}

/// Puts what a front door of another crate counts on a page.
pub type DoorScrape = Box<dyn Fn(&mut Page) + Send + Sync>;

/// Of one broker; shared by everything in it.
#[derive(Default)]
pub struct BrokerMetrics {
    pub(crate) topics: Topics,
    pub produce_took: Histogram,
    pub fetch_took: Histogram,
    pub produce_throttled: Counter,
    refused: Refused,
    pub connections_accepted: Counter,
    pub connections_closed: Counter,
    pub connections_refused: Counter,
    pub isr_shrinks: Counter,
    pub isr_expansions: Counter,
    pub leaderships: Counter,
    pub replica_bytes_in: Counter,
    pub replica_bytes_out: Counter,
    pub compactions: Counter,
    pub compactions_failed: Counter,
    pub compaction_bytes_before: Counter,
    pub compaction_bytes_after: Counter,
    pub commits: Counter,
    pub aborts: Counter,
    /// Of a further front door, once it is open.
    pub door: OnceLock<DoorScrape>,
}

/// By api and error code.
struct Refused(Vec<Counter>);

impl Default for Refused {
    fn default() -> Self {
        Self((0..Api::ALL.len() * ErrorCode::ALL.len()).map(|_| Counter::new()).collect())
    }
}

impl Refused {
    fn of(&self, api: Api, code: ErrorCode) -> Option<&Counter> {
        let code = ErrorCode::ALL.iter().position(|one| *one == code)?;
        self.0.get(api as usize * ErrorCode::ALL.len() + code)
    }
}

impl BrokerMetrics {
    pub fn refused(&self, api: Api, code: ErrorCode) {
        if let Some(counter) = self.refused.of(api, code) {
            counter.inc();
        }
    }

    /// From one view of a partition that this broker leads to the next. One change may do both.
    pub fn isr_changed(&self, before: &[BrokerId], after: &[BrokerId]) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
        if !before.is_subset(&after) {
            self.isr_shrinks.inc();
        }
        if !after.is_subset(&before) {
            self.isr_expansions.inc();
        }
    }

    pub fn compacted(&self, bytes_before: u64, bytes_after: u64) {
        self.compactions.inc();
        self.compaction_bytes_before.add(bytes_before);
        self.compaction_bytes_after.add(bytes_after);
    }

    pub fn transaction_ended(&self, result: TransactionResult) {
        match result {
            TransactionResult::Commit => self.commits.inc(),
            TransactionResult::Abort => self.aborts.inc(),
        }
    }
}
