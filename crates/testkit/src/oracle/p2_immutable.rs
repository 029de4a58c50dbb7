//! P2: an offset that a reader was given never changes and never disappears, other than by retention, compaction or
//! delete-records. So too: what was given was sent, and to this topic; a reader is given everything that lies on its way, in
//! the order of offsets; a partition's start does not move back.
//!
//! Readers of everything and readers of what is committed are held to what their like were given: an aborted record is nobody's
//! business who reads what is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::{Facts, PlaceFacts, Seen, Whole};
use super::{Anomaly, Violation};
use crate::history::{Event, Place, Removal, Timed};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut readers = Readers::default();
    for timed in facts.events {
        readers.take(facts, timed, violations);
    }
    for (place, known) in &facts.places {
        for whole in &known.wholes {
            gone(facts, place, known, whole, violations);
            holes(facts, place, known, whole, violations);
        }
    }
    starts(facts, violations);
}

/// Where each reader is.
#[derive(Default)]
struct Readers<'a> {
    positions: BTreeMap<(u32, &'a Place), Position>,
    deleted: BTreeMap<&'a Place, Offset>,
}

struct Position {
    /// What it was given last, since it sought.
    last: Option<Offset>,
    /// Where it sought, if it is known, and was given nothing since; and what was deleted by then.
    sought: Option<(Offset, Offset)>,
}

impl<'a> Readers<'a> {
    fn take(&mut self, facts: &Facts<'_>, timed: &'a Timed, violations: &mut Vec<Violation>) {
        match &timed.event {
            Event::Sought { reader, place, to } => {
                let deleted = self.deleted.get(place).copied().unwrap_or(Offset::ZERO);
                let position = Position { last: None, sought: Some((to.unwrap_or(Offset::ZERO), deleted)) };
                self.positions.insert((*reader, place), position);
            }
            Event::Deleted { place, start } => {
                let deleted = self.deleted.entry(place).or_insert(*start);
                *deleted = (*deleted).max(*start);
            }
            Event::Read { reader, place, offset, id, checksum, .. } => {
                let (reader, offset) = (*reader, *offset);
                let seen =
                    Seen { id: *id, checksum: *checksum, reader, at: timed.at, committed_at: None, timestamp_ms: None };
                self.read(facts, place, offset, &seen, violations);
                content(facts, place, offset, &seen, violations);
            }
            _ => {}
        }
    }

    fn read(
        &mut self,
        facts: &Facts<'_>,
        place: &'a Place,
        offset: Offset,
        seen: &Seen,
        violations: &mut Vec<Violation>,
    ) {
        let (reader, at) = (seen.reader, seen.at);
        let entry = self.positions.entry((reader, place)).or_insert(Position { last: None, sought: None });
        let next = match (entry.last, entry.sought.take()) {
            (Some(last), _) if last >= offset => {
                let what = format!("reader {reader} of {place} was given {offset} after {last}");
                violations.push(Violation::new(Anomaly::WentBack, at, what));
                offset
            }
            (Some(last), _) => last.next(),
            (None, Some((sought, deleted))) => {
                if offset < sought {
                    let what = format!("reader {reader} of {place} sought {sought}, and was given {offset}");
                    violations.push(Violation::new(Anomaly::WentBack, at, what));
                }
                if offset < deleted {
                    let what = format!(
                        "reader {reader} sought {place}@{sought} when everything before {deleted} was deleted, and was given \
                         {offset}"
                    );
                    violations.push(Violation::new(Anomaly::DeletedButServed, at, what));
                }
                offset
            }
            (None, None) => offset,
        };
        entry.last = Some(offset);
        let Some(known) = facts.places.get(place) else { return };
        for (passed, was) in known_between(facts, known, reader, next, offset) {
            let may_be_gone = passed < known.start
                || facts.removal(&place.topic) == Removal::Compaction
                || !facts.is_safe_from_power_loss(&place.topic, was.at);
            if !may_be_gone {
                let what = format!(
                    "reader {reader} of {place} was given {offset} and had not been given {was} at {passed}, which reader {} \
                     was at {:?}",
                    was.reader, was.at
                );
                violations.push(Violation::new(Anomaly::Disappeared, at, what));
            }
        }
    }
}

/// What readers like this one were given of a range of offsets.
fn known_between(
    facts: &Facts<'_>,
    known: &PlaceFacts,
    reader: u32,
    from: Offset,
    to: Offset,
) -> impl Iterator<Item = (Offset, Seen)> {
    let committed = facts.reads_committed(reader);
    let range = known.seen.range(from.min(to)..to);
    range.filter(move |(_, seen)| !committed || seen.committed_at.is_some()).map(|(offset, seen)| (*offset, *seen))
}

/// What one record says for itself.
fn content(facts: &Facts<'_>, place: &Place, offset: Offset, is: &Seen, violations: &mut Vec<Violation>) {
    let (reader, at) = (is.reader, is.at);
    let fate = is.id.and_then(|id| facts.fates.get(&id));
    match fate {
        Some(fate) if fate.checksum == is.checksum => {
            if *fate.topic != place.topic && !facts.is_copied(fate.topic, &place.topic) {
                let what = format!("reader {reader} was given {is} at {place}@{offset}; it was sent to {}", fate.topic);
                violations.push(Violation::new(Anomaly::Foreign, at, what));
            }
        }
        _ => {
            let what = format!("reader {reader} was given {is} at {place}@{offset}, which nobody sent");
            violations.push(Violation::new(Anomaly::NeverSent, at, what));
        }
    }
    if let Some(was) = facts.places.get(place).and_then(|known| known.seen.get(&offset))
        && (was.id, was.checksum) != (is.id, is.checksum)
        && facts.is_safe_from_power_loss(&place.topic, was.at)
    {
        let what = format!(
            "{place}@{offset} was {was} for reader {} at {:?}, and is {is} for reader {reader}",
            was.reader, was.at
        );
        violations.push(Violation::new(Anomaly::Changed, at, what));
    }
}

/// What was given to somebody before, and not to who reads everything.
fn gone(facts: &Facts<'_>, place: &Place, known: &PlaceFacts, whole: &Whole, violations: &mut Vec<Violation>) {
    if facts.removal(&place.topic) == Removal::Compaction {
        return;
    }
    let from = whole.from.max(known.start);
    let given = known.by_reader.get(&whole.reader);
    for (offset, seen) in known_between(facts, known, whole.reader, from, Offset::MAX) {
        let seen_before =
            if facts.reads_committed(whole.reader) { seen.committed_at.unwrap_or(seen.at) } else { seen.at };
        if seen_before < whole.began
            && given.is_none_or(|given| !given.contains(&offset))
            && facts.is_safe_from_power_loss(&place.topic, seen_before)
        {
            let what = format!(
                "reader {} was given {seen} at {place}@{offset} at {seen_before:?}; reader {}, which read {} up to {}, was \
                 not",
                seen.reader, whole.reader, whole.from, whole.to
            );
            violations.push(Violation::new(Anomaly::Disappeared, whole.at, what));
        }
    }
}

/// Offsets in a range that was read whole, and that nobody was given.
fn holes(facts: &Facts<'_>, place: &Place, known: &PlaceFacts, whole: &Whole, violations: &mut Vec<Violation>) {
    if !facts.is_dense(&place.topic) || facts.reads_committed(whole.reader) {
        return;
    }
    let start = whole.from.max(known.start).min(whole.to);
    let mut gaps = Vec::new();
    let mut next = start;
    for (&offset, _) in known.seen.range(start..whole.to) {
        if offset > next {
            gaps.push((next, offset));
        }
        next = offset.next();
    }
    if next < whole.to {
        gaps.push((next, whole.to));
    }
    for (from, to) in gaps {
        let what = format!("reader {} of {place} was not given {from} up to {to}, and nobody else was", whole.reader);
        violations.push(Violation::new(Anomaly::Skipped, whole.at, what));
    }
}

/// Records that are gone for good stay so. Where a leader says that its log begins is no promise: before the others have
/// followed, another may lead.
fn starts(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut deleted: BTreeMap<&Place, (Offset, Duration)> = BTreeMap::new();
    for timed in facts.events {
        match &timed.event {
            Event::Starts { place, offset: at, asked } => {
                if let Some((was, told)) = deleted.get(place).filter(|(was, told)| was > at && told < asked) {
                    let what = format!("{place} began at {was} for good, as was told at {told:?}, and at {at} later");
                    violations.push(Violation::new(Anomaly::StartWentBack, timed.at, what));
                }
            }
            Event::Deleted { place, start } => {
                let known = deleted.entry(place).or_insert((*start, timed.at));
                if *start > known.0 {
                    *known = (*start, timed.at);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, id, place};
    use super::*;

    fn read_as(reader: u32, offset: i64, id: Option<crate::RecordId>, checksum: u32) -> Event {
        Event::Read { reader, place: place(), offset: Offset::new(offset), id, checksum, timestamp_ms: None }
    }

    #[test]
    fn an_offset_that_two_readers_saw_differently_has_changed() {
        let changed = Made::default().sent(id(1, 1)).unknown(id(1, 1)).sent(id(2, 1)).unknown(id(2, 1));
        let changed = changed.read_by(0, id(1, 1), 0).read_by(1, id(2, 1), 0);
        assert_eq!(changed.found(), [Anomaly::Changed]);
    }

    #[test]
    fn what_nobody_sent_or_not_so_is_found() {
        assert_eq!(Made::default().read(id(9, 9), 0).found(), [Anomaly::NeverSent]);
        assert_eq!(Made::default().event(read_as(0, 0, None, 7)).found(), [Anomaly::NeverSent]);
        let bad = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).event(read_as(0, 0, Some(id(1, 1)), 7));
        assert_eq!(bad.found(), [Anomaly::NeverSent]);
    }

    #[test]
    fn a_record_of_another_topic_or_of_another_life_of_this_one_is_found() {
        let sent_elsewhere = Event::sent(id(1, 1), &"t#1".into(), super::super::made::sum(id(1, 1)));
        let foreign = Made::default().event(sent_elsewhere).unknown(id(1, 1)).read(id(1, 1), 0);
        assert_eq!(foreign.clone().found(), [Anomaly::Foreign]);
        let copies = Event::Copies { group: "g".into(), from: "t#1".into(), to: "t".into() };
        assert!(!foreign.event(copies).found().contains(&Anomaly::Foreign));
    }

    #[test]
    fn a_reader_that_is_given_an_older_offset_is_found_unless_it_sought() {
        let made = Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1);
        assert_eq!(made.clone().read(id(1, 1), 0).found(), [Anomaly::WentBack]);
        let sought = |to| Event::Sought { reader: 0, place: place(), to: Some(Offset::new(to)) };
        assert_eq!(made.clone().event(sought(0)).read(id(1, 1), 0).found(), []);
        assert_eq!(made.event(sought(1)).read(id(1, 1), 0).found(), [Anomaly::WentBack]);
    }

    #[test]
    fn a_reader_that_passes_what_another_was_given_is_found() {
        let made = Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1).stored(id(1, 3), 2);
        let passed = made.clone().read_by(1, id(1, 1), 0).read_by(1, id(1, 3), 2);
        assert_eq!(passed.found(), [Anomaly::Disappeared]);
        assert_eq!(made.read_by(1, id(1, 1), 0).read_by(1, id(1, 2), 1).read_by(1, id(1, 3), 2).found(), []);
    }

    #[test]
    fn what_was_read_and_is_not_there_in_the_end_is_found_acknowledged_or_not() {
        let made = Made::default().sent(id(1, 1)).unknown(id(1, 1)).read_by(1, id(1, 1), 0);
        assert_eq!(made.clone().whole_by(2, 0, 0).found(), [Anomaly::Disappeared]);
        // Read only after the other had asked for the end.
        assert_eq!(made.whole_since(0, 0, 1).found(), []);
    }

    #[test]
    fn missing_offsets_are_found_where_none_goes_to_markers() {
        let gap = || Made::default().stored(id(1, 1), 0).stored(id(1, 2), 2).whole(0, 3);
        assert_eq!(gap().found(), [Anomaly::Skipped]);
        let topic = Event::Topic { topic: "t".into(), synced: true, removal: Removal::OnRequest, dense: false };
        assert_eq!(Made::default().event(topic).then(gap()).found(), []);
    }

    #[test]
    fn an_aborted_record_is_no_business_of_who_reads_what_is_committed() {
        let made = Made::default().event(Event::ReadsCommitted { reader: 5 });
        let made =
            made.sent(id(1, 1)).unknown(id(1, 1)).sent(id(1, 2)).unknown(id(1, 2)).sent(id(1, 3)).unknown(id(1, 3));
        let made = made.read_by(1, id(1, 1), 0).read_by(1, id(1, 2), 1).read_by(1, id(1, 3), 2);
        let read = |made: Made, reader| made.read_by(reader, id(1, 1), 0).read_by(reader, id(1, 3), 2);
        assert_eq!(read(made.clone(), 5).found(), []);
        assert_eq!(read(made.clone(), 6).found(), [Anomaly::Disappeared]);
        let one_was_given_it = made.event(Event::ReadsCommitted { reader: 7 }).read_by(7, id(1, 2), 1);
        assert_eq!(read(one_was_given_it, 5).found(), [Anomaly::Disappeared]);
    }

    #[test]
    fn a_start_that_moves_back_and_what_is_given_before_it_are_found() {
        let starts = |at, asked| {
            let offset = Offset::new(at);
            Event::Starts { place: place(), offset, asked: Duration::from_secs(asked) }
        };
        let deleted = || Event::Deleted { place: place(), start: Offset::new(1) };
        let made = || Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1);
        assert_eq!(made().event(starts(0, 0)).event(deleted()).event(starts(1, 100)).found(), []);
        assert_eq!(made().event(deleted()).event(starts(0, 100)).found(), [Anomaly::StartWentBack]);
        // Asked before the other was answered.
        assert_eq!(made().event(deleted()).event(starts(0, 1)).found(), []);
        // Nobody was told that it stays so.
        assert_eq!(made().event(starts(1, 0)).event(starts(0, 100)).found(), []);
        let sought = Event::Sought { reader: 3, place: place(), to: None };
        let served = made().event(deleted()).event(sought).read_by(3, id(1, 1), 0);
        assert_eq!(served.found(), [Anomaly::DeletedButServed]);
    }
}
