//! What the oracle says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::facts::Facts;
use crate::history::{Event, Place, Told};

/// A promise of DESIGN §1; and that what is repaired works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    P1Durable,
    P2Immutable,
    P3OrderedOnce,
    P4Atomic,
    P5OneOwner,
    P6Honest,
    Liveness,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P1Durable => "P1 (what is acknowledged stays)",
            Self::P2Immutable => "P2 (what was read does not change)",
            Self::P3OrderedOnce => "P3 (in order, and once)",
            Self::P4Atomic => "P4 (transactions are whole)",
            Self::P5OneOwner => "P5 (one owner)",
            Self::P6Honest => "P6 (no false answer and no silence)",
            Self::Liveness => "liveness",
        })
    }
}

/// Everything that the oracle can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// An acknowledged record that a reader of the whole partition was not given.
    Lost,
    /// The newest acknowledged value of a key is gone from a compacted topic, with nothing newer in its place.
    ValueLost,
    /// A deleted key has its old value again.
    BackFromTheDead,

    /// Two readers were given different records at one offset.
    Changed,
    /// One reader was given it, and another, later, not.
    Disappeared,
    /// Offsets are missing that nothing has removed.
    Skipped,
    /// A reader was given an older offset, and had not sought back.
    WentBack,
    /// Let go of, though it is to be kept.
    GoneTooSoon,
    /// A partition's start moved back.
    StartWentBack,
    /// Given to a reader that had sought it, though it had been deleted.
    DeletedButServed,
    /// Nobody sent it, or not with this content.
    NeverSent,
    /// It was sent to another topic.
    Foreign,

    /// Stored more than once.
    Duplicated,
    /// It stands before what was sent before it.
    Reordered,

    /// Some of a transaction is there and some not.
    Torn,
    /// Something of an aborted transaction was given to a reader of committed records.
    ReadOfAborted,
    /// Nothing of a committed transaction is there.
    CommitLost,
    /// Two transactions of one producer lie in partitions as no order of them explains.
    Interleaved,
    /// Committed by a producer that was fenced before it asked.
    CommitOfFenced,
    /// An input that a pipeline did not give out.
    NotCopied,
    /// A pipeline gave it out more than once.
    CopiedTwice,
    /// It came out of a pipeline, and never went in.
    CopiedFromNothing,
    /// A pipeline's offsets are past an input that did not come out.
    OffsetsWithoutRecords,
    /// An input came out, and the pipeline's offsets are not past it.
    RecordsWithoutOffsets,

    /// A partition was given to a member while another had it.
    TwoOwners,
    /// A commit was taken that was begun after the partition was another's.
    CommitByFormerOwner,
    /// A commit was taken of a member that never had the partition.
    CommitByStranger,
    /// A committed offset passed a record that no member was given.
    PositionSkipped,
    /// A committed offset is before one committed earlier.
    CommitWentBack,
    /// A new owner began before what the last one had committed.
    CommitForgotten,

    /// Said to be refused, and stored.
    RefusedButStored,
    /// Neither acknowledged nor failed.
    Unanswered,
    /// An error that says nothing.
    ErrorWithoutText,
    /// Acknowledged at an offset that another record has; it is elsewhere, or nowhere.
    AcknowledgedElsewhere,
    /// Said to be out of range, and there.
    FalselyOutOfRange,
    /// The offset found for a time is not the first.
    WrongByTime,

    /// What should work again does not.
    NotRecovered,
    /// It works again, but too late.
    RecoveredLate,
}

impl Anomaly {
    pub fn promise(self) -> Promise {
        match self {
            Self::Lost | Self::ValueLost | Self::BackFromTheDead => Promise::P1Durable,
            Self::Changed
            | Self::Disappeared
            | Self::Skipped
            | Self::WentBack
            | Self::GoneTooSoon
            | Self::StartWentBack
            | Self::DeletedButServed
            | Self::NeverSent
            | Self::Foreign => Promise::P2Immutable,
            Self::Duplicated | Self::Reordered => Promise::P3OrderedOnce,
            Self::Torn
            | Self::ReadOfAborted
            | Self::CommitLost
            | Self::Interleaved
            | Self::CommitOfFenced
            | Self::NotCopied
            | Self::CopiedTwice
            | Self::CopiedFromNothing
            | Self::OffsetsWithoutRecords
            | Self::RecordsWithoutOffsets => Promise::P4Atomic,
            Self::TwoOwners
            | Self::CommitByFormerOwner
            | Self::CommitByStranger
            | Self::PositionSkipped
            | Self::CommitWentBack
            | Self::CommitForgotten => Promise::P5OneOwner,
            Self::RefusedButStored
            | Self::Unanswered
            | Self::ErrorWithoutText
            | Self::AcknowledgedElsewhere
            | Self::FalselyOutOfRange
            | Self::WrongByTime => Promise::P6Honest,
            Self::NotRecovered | Self::RecoveredLate => Promise::Liveness,
        }
    }
}

/// A broken promise: what was seen, by whom, and when.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub promise: Promise,
    pub anomaly: Anomaly,
    /// When it could be seen first.
    pub at: Duration,
    pub what: String,
}

impl Violation {
    pub(super) fn new(anomaly: Anomaly, at: Duration, what: String) -> Self {
        Self { promise: anomaly.promise(), anomaly, at, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (at {:.3} s): {}", self.anomaly, self.at.as_secs_f64(), self.what)
    }
}

/// A time in which a partition acknowledged nothing although records for it waited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    pub place: Place,
    pub from: Duration,
    pub lasted: Duration,
}

/// The outcome of a check.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Distinct positions read.
    pub read: u64,
    /// Records stored more than once, allowed or not.
    pub duplicated: u64,
    /// Transactions: committed, aborted, and of unknown outcome.
    pub transactions: [u64; 3],
    /// Offsets committed by members of groups.
    pub commits: u64,
    /// The longest one of each partition.
    pub stalls: Vec<Stall>,
    /// How long after the last fault each sign of life was seen, the last one.
    pub recovered_after: Option<Duration>,
    /// By promise, then anomaly, then time.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn of(facts: &Facts<'_>) -> Self {
        let fates = || facts.fates.values();
        let count = |number: usize| number as u64;
        let told = |told| count(facts.transactions.values().filter(|one| one.told() == Some(told)).count());
        let recovered_after = facts.events.iter().rev().find_map(|timed| match timed.event {
            Event::Works { .. } => Some(timed.at.saturating_sub(facts.healed_at())),
            _ => None,
        });
        Self {
            sent: count(facts.fates.len()),
            acknowledged: count(fates().filter(|fate| fate.acknowledged.is_some()).count()),
            refused: count(fates().filter(|fate| fate.refused.is_some()).count()),
            unknown: count(fates().filter(|fate| fate.unknown.is_some()).count()),
            read: facts.places.values().map(|place| count(place.seen.len())).sum(),
            duplicated: count(facts.stored.iter().filter(|(id, places)| facts.copies_of(**id, places) > 1).count()),
            transactions: [told(Told::Committed), told(Told::Aborted), told(Told::Unknown)],
            commits: count(facts.events.iter().filter(|timed| matches!(timed.event, Event::Committed { .. })).count()),
            stalls: stalls(facts),
            recovered_after,
            violations: Vec::new(),
        }
    }

    /// The longest stall of any partition.
    pub fn longest_stall(&self) -> Option<&Stall> {
        self.stalls.iter().max_by_key(|stall| stall.lasted)
    }
}

/// The longest time between two acknowledgements of each partition, where what the second acknowledges had been sent when the
/// stall began or within it: the time since then counts, for before nobody waited.
fn stalls(facts: &Facts<'_>) -> Vec<Stall> {
    let mut acknowledged: BTreeMap<&Place, Vec<(Duration, Duration)>> = BTreeMap::new();
    for fate in facts.fates.values() {
        if let Some(ack) = &fate.acknowledged {
            acknowledged.entry(ack.place).or_default().push((ack.at, fate.sent_at));
        }
    }
    let longest = acknowledged.into_iter().filter_map(|(place, mut acks)| {
        acks.sort_unstable();
        let mut last = Duration::ZERO;
        let waits = acks.into_iter().map(|(at, sent_at)| {
            let from = sent_at.max(last);
            last = at;
            (at.saturating_sub(from), from)
        });
        let (lasted, from) = waits.max()?;
        Some(Stall { place: place.clone(), from, lasted })
    });
    longest.collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent, {} acknowledged, {} refused, {} unknown, {} read, {} duplicated, {} violations",
            self.sent,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.read,
            self.duplicated,
            self.violations.len()
        )?;
        let [committed, aborted, unknown] = self.transactions;
        if self.transactions != [0; 3] {
            write!(f, "; transactions: {committed} committed, {aborted} aborted, {unknown} unknown")?;
        }
        if let Some(stall) = self.longest_stall() {
            let (lasted, from) = (stall.lasted.as_secs_f64(), stall.from.as_secs_f64());
            write!(f, "; longest stall {lasted:.3} s, of {} from {from:.3} s", stall.place)?;
        }
        if let Some(after) = self.recovered_after {
            write!(f, "; whole {:.3} s after the last fault", after.as_secs_f64())?;
        }
        let mut promise = None;
        for violation in self.violations.iter().take(40) {
            if promise.replace(violation.promise) != Some(violation.promise) {
                write!(f, "\n {}", violation.promise)?;
            }
            write!(f, "\n  {violation}")?;
        }
        let more = self.violations.len().saturating_sub(40);
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}
