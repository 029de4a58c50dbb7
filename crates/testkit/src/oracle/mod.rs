//! Holds a history against the promises of DESIGN §1: one checker for each, in a file of its own that is named after it, and
//! one for that everything works again once nothing is broken any more.
//!
//! Nothing of it is shared with the product but names and numbers of places. A checker finds only what is wrong for sure: where
//! a history leaves open what happened (an answer that never came), every possibility is allowed.

mod facts;
mod liveness;
#[cfg(test)]
mod made;
mod p1_durable;
mod p2_immutable;
mod p2_retention;
mod p3_ordered_once;
mod p4_atomic;
mod p5_one_owner;
mod p6_honest;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_types::Offset;

use crate::history::{AckedBy, Place, Sign, Timed};
use facts::Facts;
pub use report::{Anomaly, Promise, Report, Stall, Violation};

/// What a history is to show, besides what it says itself.
#[derive(Debug, Clone)]
pub struct Expectations {
    /// What writers ask for that do not say ([`Event::Writer`](crate::Event::Writer)).
    pub acks: AckedBy,
    /// Whether they number their batches.
    pub idempotent: bool,
    /// For writers that do not: a producer sends again after a fault. A record may be there twice whose send ended in
    /// `Unknown`, or was acknowledged after a fault and no more than this after the last one.
    pub settle: Duration,
    /// Partitions whose start was moved on purpose, where the history does not tell: what lies before may be gone.
    pub starts: BTreeMap<Place, Offset>,
    /// What must have worked again, and within which time after the last fault.
    pub recovery: Option<Recovery>,
}

/// See [`Expectations::recovery`].
#[derive(Debug, Clone)]
pub struct Recovery {
    pub within: Duration,
    pub signs: Vec<Sign>,
}

impl Default for Expectations {
    /// `acks=all` with idempotence, the producer's default: no duplicate, whatever goes wrong.
    fn default() -> Self {
        Self {
            acks: AckedBy::All,
            idempotent: true,
            settle: Duration::from_secs(15),
            starts: BTreeMap::new(),
            recovery: None,
        }
    }
}

impl Expectations {
    /// `acks=all` without idempotence: duplicates up to 15 s after a fault.
    pub fn at_least_once() -> Self {
        Self { idempotent: false, ..Self::default() }
    }

    /// That all these signs of life are there within a time after the last fault.
    #[must_use]
    pub fn recovers(self, within: Duration, signs: Vec<Sign>) -> Self {
        Self { recovery: Some(Recovery { within, signs }), ..self }
    }
}

/// Checks a history. A record counts as lost only in partitions that some reader has read whole
/// ([`Event::ReadWhole`](crate::Event::ReadWhole)): of others nothing can be said.
pub fn check(events: &[Timed], expectations: &Expectations) -> Report {
    let facts = Facts::gather(events, expectations);
    let mut report = Report::of(&facts);
    for checker in [
        p1_durable::check,
        p2_immutable::check,
        p2_retention::check,
        p3_ordered_once::check,
        p4_atomic::check,
        p5_one_owner::check,
        p6_honest::check,
        liveness::check,
    ] {
        checker(&facts, &mut report.violations);
    }
    report.violations.sort();
    report
}
