//! Holds a history against the promises of DESIGN §1, as far as plain producers and consumers go: nothing
//! acknowledged is lost (P1), what was read never changes (P2), the records of a writer keep their order in a
//! partition (P3), and nothing is said that isn't so (P6).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use highwater_types::Offset;

use super::{Event, Place, RecordId, Timed};

/// When a record may be stored more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Never: the producers number their batches (P3), or nothing went wrong, so that nothing was sent twice.
    Forbidden,
    /// At least once: a producer sends again after a fault. Allowed for records whose send ended in `Unknown`, or was
    /// acknowledged after a fault and no more than this after the last one.
    AfterFault { settle: Duration },
}

/// What to expect of the history.
#[derive(Debug, Clone)]
pub struct Rules {
    pub duplicates: Duplicates,
    /// Whether an acknowledgement promises that the record stays (`acks=all`).
    pub acknowledged_stays: bool,
    /// Partitions whose start was moved on purpose (retention, delete-records): what lies before may be gone.
    pub starts: BTreeMap<Place, Offset>,
}

impl Default for Rules {
    /// `acks=all` at least once: duplicates up to 15 s after a fault.
    fn default() -> Self {
        Self {
            duplicates: Duplicates::AfterFault { settle: Duration::from_secs(15) },
            acknowledged_stays: true,
            starts: BTreeMap::new(),
        }
    }
}

impl Rules {
    /// `acks=all` with idempotence, the producer's default: no duplicate, whatever goes wrong.
    pub fn idempotent() -> Self {
        Self { duplicates: Duplicates::Forbidden, ..Self::default() }
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Acknowledged at `offset`, which a reader passed without seeing it, or which lies past all that was read.
    Lost { id: RecordId, place: Place, offset: Offset },
    /// Two readers, or a reader and an acknowledgement, disagree on what is at `offset`.
    Changed { place: Place, offset: Offset, was: Seen, is: Seen },
    /// Stored more often than the rules allow.
    Duplicated { id: RecordId, places: Vec<(Place, Offset)> },
    /// `later` was sent after `earlier` and stands before it.
    Reordered { place: Place, earlier: (RecordId, Offset), later: (RecordId, Offset) },
    /// Read, but nobody sent it, or not with this content.
    NeverSent { place: Place, offset: Offset, what: Seen },
    /// Said to have been refused, yet read.
    RefusedButStored { id: RecordId, place: Place, offset: Offset },
    /// A reader was given `got` after `after`, and had not sought back.
    ReaderWentBack { reader: u32, place: Place, after: Offset, got: Offset },
    /// Between two records that a reader was given, offsets are missing that nothing has removed.
    Skipped { reader: u32, place: Place, from: Offset, to: Offset },
    /// Neither acknowledged nor failed: the producer said nothing.
    Unanswered { id: RecordId },
}

/// What was found at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub id: Option<RecordId>,
    /// `None` where only the id is known, from an acknowledgement.
    pub checksum: Option<u32>,
}

impl Seen {
    fn agrees_with(self, other: Self) -> bool {
        let same_content = match (self.checksum, other.checksum) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.id == other.id && same_content
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "{id}")?,
            None => f.write_str("a record without an id")?,
        }
        self.checksum.map_or(Ok(()), |checksum| write!(f, " (checksum {checksum:08x})"))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { id, place, offset } => write!(f, "lost: {id}, acknowledged at {place}@{offset}"),
            Self::Changed { place, offset, was, is } => write!(f, "changed: {place}@{offset} was {was} and is {is}"),
            Self::Duplicated { id, places } => {
                write!(f, "duplicated: {id} is at")?;
                places.iter().try_for_each(|(place, offset)| write!(f, " {place}@{offset}"))
            }
            Self::Reordered { place, earlier, later } => write!(
                f,
                "reordered: in {place}, {} is at {} after {} at {}, which was sent later",
                earlier.0, earlier.1, later.0, later.1
            ),
            Self::NeverSent { place, offset, what } => write!(f, "never sent: {what} at {place}@{offset}"),
            Self::RefusedButStored { id, place, offset } => {
                write!(f, "refused, but stored: {id} at {place}@{offset}")
            }
            Self::ReaderWentBack { reader, place, after, got } => {
                write!(f, "reader {reader} of {place} was given {got} after {after}")
            }
            Self::Skipped { reader, place, from, to } => {
                write!(f, "skipped: reader {reader} of {place} was not given {from} up to {to}")
            }
            Self::Unanswered { id } => write!(f, "unanswered: {id} was neither acknowledged nor failed"),
        }
    }
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
    pub violations: Vec<Violation>,
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
        self.violations.iter().take(20).try_for_each(|violation| write!(f, "\n  {violation}"))?;
        let more = self.violations.len().saturating_sub(20);
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}

/// Checks a history against `rules`. A record counts as lost only in partitions that some reader has read whole
/// ([`Event::ReadWhole`]): of others nothing can be said.
pub fn check(events: &[Timed], rules: &Rules) -> Report {
    let mut checker = Checker::new(rules);
    for timed in events {
        checker.take(timed);
    }
    checker.finish()
}

#[derive(Debug, Default)]
struct Fate {
    checksum: u32,
    acknowledged: Option<(Place, Offset, Duration)>,
    refused: bool,
    unknown: bool,
}

struct Checker<'a> {
    rules: &'a Rules,
    sent: HashMap<RecordId, Fate>,
    /// What is known to be where, from reads and acknowledgements.
    log: BTreeMap<Place, BTreeMap<Offset, Seen>>,
    read: BTreeMap<Place, BTreeSet<Offset>>,
    whole: BTreeMap<Place, Vec<(Offset, Offset)>>,
    positions: HashMap<(u32, Place), Offset>,
    faults: Vec<Duration>,
    report: Report,
}

impl<'a> Checker<'a> {
    fn new(rules: &'a Rules) -> Self {
        Self {
            rules,
            sent: HashMap::new(),
            log: BTreeMap::new(),
            read: BTreeMap::new(),
            whole: BTreeMap::new(),
            positions: HashMap::new(),
            faults: Vec::new(),
            report: Report::default(),
        }
    }

    fn violation(&mut self, violation: Violation) {
        self.report.violations.push(violation);
    }

    fn take(&mut self, timed: &Timed) {
        match &timed.event {
            Event::Sent { id, checksum, .. } => {
                self.report.sent += 1;
                self.sent.insert(*id, Fate { checksum: *checksum, ..Fate::default() });
            }
            Event::Acknowledged { id, place, offset } => {
                self.report.acknowledged += 1;
                if let Some(fate) = self.sent.get_mut(id) {
                    fate.acknowledged = Some((place.clone(), *offset, timed.at));
                }
                if self.rules.acknowledged_stays {
                    self.found(place, *offset, Seen { id: Some(*id), checksum: None });
                }
            }
            Event::Refused { id, .. } => {
                self.report.refused += 1;
                self.sent.entry(*id).or_default().refused = true;
            }
            Event::Unknown { id, .. } => {
                self.report.unknown += 1;
                self.sent.entry(*id).or_default().unknown = true;
            }
            Event::Read { reader, place, offset, id, checksum } => {
                self.take_read(*reader, place, *offset, Seen { id: *id, checksum: Some(*checksum) });
            }
            Event::ReadWhole { reader, place, from, to } => {
                self.whole.entry(place.clone()).or_default().push((*from, *to));
                self.skipped(*reader, place, *from, *to);
            }
            Event::Fault { .. } => self.faults.push(timed.at),
            // Groups have a check of their own.
            Event::Assigned { .. } | Event::Released { .. } | Event::MemberGone { .. } | Event::Committed { .. } => {}
        }
    }

    fn take_read(&mut self, reader: u32, place: &Place, offset: Offset, seen: Seen) {
        let position = self.positions.insert((reader, place.clone()), offset);
        if let Some(after) = position.filter(|after| *after >= offset) {
            self.violation(Violation::ReaderWentBack { reader, place: place.clone(), after, got: offset });
        }
        self.found(place, offset, seen);
        if self.read.entry(place.clone()).or_default().insert(offset) {
            self.report.read += 1;
        }
        let as_sent = seen.id.and_then(|id| self.sent.get(&id)).map(|fate| fate.checksum);
        if as_sent.is_none() || as_sent != seen.checksum {
            self.violation(Violation::NeverSent { place: place.clone(), offset, what: seen });
        }
    }

    fn found(&mut self, place: &Place, offset: Offset, seen: Seen) {
        let at = self.log.entry(place.clone()).or_default();
        match at.get_mut(&offset) {
            None => {
                at.insert(offset, seen);
            }
            Some(was) if was.agrees_with(seen) => was.checksum = was.checksum.or(seen.checksum),
            Some(was) => {
                let was = *was;
                self.violation(Violation::Changed { place: place.clone(), offset, was, is: seen });
            }
        }
    }

    /// Offsets in a range that a reader says it has read whole, and that nobody was given.
    fn skipped(&mut self, reader: u32, place: &Place, from: Offset, to: Offset) {
        let start = from.max(self.start(place));
        let read = self.read.entry(place.clone()).or_default();
        let mut gaps = Vec::new();
        let mut next = start;
        for &offset in read.range(start.min(to)..to) {
            if offset > next {
                gaps.push((next, offset));
            }
            next = offset.next();
        }
        if next < to {
            gaps.push((next, to));
        }
        for (from, to) in gaps {
            self.violation(Violation::Skipped { reader, place: place.clone(), from, to });
        }
    }

    fn start(&self, place: &Place) -> Offset {
        self.rules.starts.get(place).copied().unwrap_or(Offset::ZERO)
    }

    fn finish(mut self) -> Report {
        let mut stored: BTreeMap<RecordId, Vec<(Place, Offset)>> = BTreeMap::new();
        for (place, log) in &self.log {
            for (offset, seen) in log {
                // Where the acknowledgement is all there is, nobody has seen the record stored.
                if let (Some(id), Some(_)) = (seen.id, seen.checksum) {
                    stored.entry(id).or_default().push((place.clone(), *offset));
                }
            }
        }
        self.lost();
        self.order(&stored);
        self.fates(&stored);
        self.report.violations.sort();
        self.report
    }

    fn lost(&mut self) {
        if !self.rules.acknowledged_stays {
            return;
        }
        let mut lost = Vec::new();
        for (id, fate) in &self.sent {
            let Some((place, offset, _)) = &fate.acknowledged else { continue };
            let was_read = self.read.get(place).is_some_and(|read| read.contains(offset));
            if !was_read && self.whole.contains_key(place) && *offset >= self.start(place) {
                lost.push(Violation::Lost { id: *id, place: place.clone(), offset: *offset });
            }
        }
        self.report.violations.extend(lost);
    }

    /// By the first place of each record: a copy sent again may stand behind what came after the first.
    fn order(&mut self, stored: &BTreeMap<RecordId, Vec<(Place, Offset)>>) {
        // Ids come by writer, then number; so the latest record of each writer and partition is the one before.
        let mut last: HashMap<(u32, Place), (RecordId, Offset)> = HashMap::new();
        let mut reordered = Vec::new();
        for (id, places) in stored {
            let mut firsts: BTreeMap<&Place, Offset> = BTreeMap::new();
            for (place, offset) in places {
                let first = firsts.entry(place).or_insert(*offset);
                *first = (*first).min(*offset);
            }
            for (place, offset) in firsts {
                let key = (id.writer, place.clone());
                match last.get(&key) {
                    Some(&before) if before.1 > offset => reordered.push(Violation::Reordered {
                        place: place.clone(),
                        earlier: before,
                        later: (*id, offset),
                    }),
                    _ => {
                        last.insert(key, (*id, offset));
                    }
                }
            }
        }
        self.report.violations.extend(reordered);
    }

    fn fates(&mut self, stored: &BTreeMap<RecordId, Vec<(Place, Offset)>>) {
        let mut found = Vec::new();
        for (id, fate) in &self.sent {
            let places = stored.get(id).map_or(&[][..], Vec::as_slice);
            if fate.refused
                && let Some((place, offset)) = places.first()
            {
                found.push(Violation::RefusedButStored { id: *id, place: place.clone(), offset: *offset });
            }
            if !fate.refused && !fate.unknown && fate.acknowledged.is_none() {
                found.push(Violation::Unanswered { id: *id });
            }
            if places.len() > 1 {
                self.report.duplicated += 1;
                if !self.may_be_duplicated(fate) {
                    found.push(Violation::Duplicated { id: *id, places: places.to_vec() });
                }
            }
        }
        self.report.violations.extend(found);
    }

    fn may_be_duplicated(&self, fate: &Fate) -> bool {
        let Duplicates::AfterFault { settle } = self.rules.duplicates else { return false };
        let after_fault = |at: Duration| {
            let last = self.faults.iter().rev().find(|fault| **fault <= at);
            last.is_some_and(|fault| at - *fault <= settle)
        };
        fate.unknown || fate.acknowledged.as_ref().is_some_and(|(_, _, at)| after_fault(*at))
    }
}

#[cfg(test)]
mod tests;
