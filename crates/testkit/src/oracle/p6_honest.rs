//! P6: no false success and no silence. Every request is answered, every failure says something, and what is said is so.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::{Facts, Fate};
use super::{Anomaly, Violation};
use crate::history::{AckedBy, Event, Place, RecordId, Removal, Told};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut acknowledged: BTreeMap<(&Place, Offset), RecordId> = BTreeMap::new();
    for (id, fate) in &facts.fates {
        answered(facts, *id, fate, violations);
        refused(facts, *id, fate, violations);
        let Some(ack) = fate.acknowledged.as_ref().filter(|_| is_meant(facts, *id, fate)) else { continue };
        let other = acknowledged.insert((ack.place, ack.offset), *id).filter(|other| other != id);
        let found = facts.places.get(ack.place).and_then(|known| known.seen.get(&ack.offset));
        // What was there before a power loss may be gone, and its offset another's.
        let found = found.filter(|seen| facts.is_safe_from_power_loss(&ack.place.topic, seen.at));
        let instead = found.and_then(|seen| seen.id).filter(|found| found != id).or(other);
        if let Some(instead) = instead {
            let elsewhere = facts.stored.get(id).and_then(|places| places.first());
            let elsewhere =
                elsewhere.map_or("nobody has seen it".to_owned(), |(place, at)| format!("it is at {place}@{at}"));
            let (place, offset) = (ack.place, ack.offset);
            let what = format!("{id} was acknowledged at {place}@{offset}, where {instead} is; {elsewhere}");
            violations.push(Violation::new(Anomaly::AcknowledgedElsewhere, ack.at, what));
        }
    }
    for timed in facts.events {
        said(facts, timed.at, &timed.event, violations);
    }
}

/// Whether the acknowledgement's offset is the record's for good.
fn is_meant(facts: &Facts<'_>, id: RecordId, fate: &Fate<'_>) -> bool {
    facts.acks(id.writer) == AckedBy::All && facts.is_safe_from_power_loss(fate.topic, fate.sent_at)
}

fn answered(facts: &Facts<'_>, id: RecordId, fate: &Fate<'_>, violations: &mut Vec<Violation>) {
    // A transaction's end answers for its records.
    let by_its_end = fate.transaction.and_then(|id| facts.transactions.get(&id)).is_some_and(|it| it.ended.is_some());
    if fate.acknowledged.is_none() && fate.refused.is_none() && fate.unknown.is_none() && !by_its_end {
        let what = format!("{id}, sent to {} at {:?}, was neither acknowledged nor failed", fate.topic, fate.sent_at);
        violations.push(Violation::new(Anomaly::Unanswered, fate.sent_at, what));
    }
}

fn refused(facts: &Facts<'_>, id: RecordId, fate: &Fate<'_>, violations: &mut Vec<Violation>) {
    let Some(why) = fate.refused else { return };
    let found = facts.stored.get(&id).and_then(|places| places.iter().find(|(place, _)| place.topic == *fate.topic));
    if let Some((place, offset)) = found {
        let seen = facts.places.get(place).and_then(|known| known.seen.get(offset));
        let what = format!("{id} was refused ({why}), and is at {place}@{offset}");
        violations.push(Violation::new(Anomaly::RefusedButStored, seen.map_or(fate.sent_at, |seen| seen.at), what));
    }
}

fn said(facts: &Facts<'_>, at: Duration, event: &Event, violations: &mut Vec<Violation>) {
    let mut silent = |of: &dyn std::fmt::Display, why: &str| {
        if why.trim().is_empty() {
            violations.push(Violation::new(Anomaly::ErrorWithoutText, at, format!("{of} failed, without a word why")));
        }
    };
    match event {
        Event::Refused { id, why } | Event::Unknown { id, why } => silent(id, why),
        Event::Failed { what, why } => silent(what, why),
        Event::Ended { transaction, told, why, .. } if *told != Told::Committed => silent(transaction, why),
        Event::OutOfRange { reader, place, offset, start, end } => {
            if let Some(why_not) = in_range(facts, at, place, *offset, *start, *end) {
                let what = format!(
                    "reader {reader} was told that {place}@{offset} is out of range, which was {start} to {end}: {why_not}"
                );
                violations.push(Violation::new(Anomaly::FalselyOutOfRange, at, what));
            }
        }
        Event::FoundByTime { place, timestamp_ms, offset, asked } => {
            if let Some(why_not) = not_first(facts, place, *timestamp_ms, *offset, *asked) {
                let offset = offset.map_or("nothing".to_owned(), |offset| offset.to_string());
                let what =
                    format!("the first record of {place} from {timestamp_ms} ms on was said to be {offset}: {why_not}");
                violations.push(Violation::new(Anomaly::WrongByTime, at, what));
            }
        }
        _ => {}
    }
}

fn in_range(
    facts: &Facts<'_>,
    at: Duration,
    place: &Place,
    offset: Offset,
    start: Offset,
    end: Offset,
) -> Option<String> {
    if (start..=end).contains(&offset) {
        return Some("it is within".to_owned());
    }
    // Nobody has deleted that much.
    let allowed = facts.places.get(place).map_or(Offset::ZERO, |known| known.start);
    if start > allowed && facts.removal(&place.topic) == Removal::OnRequest {
        return Some(format!("what lies from {allowed} on was not deleted"));
    }
    let seen = facts
        .places
        .get(place)?
        .seen
        .get(&offset)
        .filter(|seen| seen.at < at && offset > end && facts.is_safe_from_power_loss(&place.topic, seen.at))?;
    Some(format!("reader {} was given {seen} there at {:?}", seen.reader, seen.at))
}

/// Of what had been read when it was asked.
fn not_first(
    facts: &Facts<'_>,
    place: &Place,
    timestamp_ms: i64,
    found: Option<Offset>,
    asked: Duration,
) -> Option<String> {
    let known = facts.places.get(place)?;
    if facts.removal(&place.topic) != Removal::OnRequest {
        return None;
    }
    let mut before = known.seen.range(known.start..found.unwrap_or(Offset::MAX).max(known.start));
    let earlier =
        before.find(|(_, seen)| seen.at < asked && seen.timestamp_ms.is_some_and(|time| time >= timestamp_ms));
    if let Some((offset, seen)) = earlier {
        return Some(format!("{seen} at {offset} has {:?} ms", seen.timestamp_ms.unwrap_or_default()));
    }
    let itself = known.seen.get(&found?)?.timestamp_ms.filter(|time| *time < timestamp_ms)?;
    Some(format!("it has {itself} ms"))
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, id, place};
    use super::*;

    #[test]
    fn a_refused_record_that_is_read_is_found() {
        let refused =
            Made::default().sent(id(1, 1)).event(Event::Refused { id: id(1, 1), why: "too large".to_owned() });
        assert_eq!(refused.found(), []);
        assert_eq!(refused.read(id(1, 1), 0).found(), [Anomaly::RefusedButStored]);
    }

    #[test]
    fn a_send_without_an_answer_is_found() {
        assert_eq!(Made::default().sent(id(1, 1)).found(), [Anomaly::Unanswered]);
        let transaction = Some(crate::history::TransactionId { writer: 1, number: 1 });
        let open = Made::default().event(Event::sent_in(transaction, id(1, 1), &"t".into(), 101));
        assert_eq!(open.found(), [Anomaly::Unanswered]);
    }

    #[test]
    fn an_error_that_says_nothing_is_found() {
        let silent = |why: &str| {
            let made = Made::default().sent(id(1, 1)).event(Event::Unknown { id: id(1, 1), why: why.to_owned() });
            made.found()
        };
        assert_eq!(silent("the leader did not answer"), []);
        assert_eq!(silent(" "), [Anomaly::ErrorWithoutText]);
        let failed = Event::Failed { what: "deleting records".to_owned(), why: String::new() };
        assert_eq!(Made::default().event(failed).found(), [Anomaly::ErrorWithoutText]);
    }

    #[test]
    fn an_unknown_outcome_may_turn_out_either_way() {
        let unknown = Made::default().sent(id(1, 1)).unknown(id(1, 1));
        assert_eq!(unknown.clone().whole(0, 0).found(), []);
        assert_eq!(unknown.read(id(1, 1), 0).whole(0, 1).found(), []);
    }

    #[test]
    fn an_acknowledgement_with_the_offset_of_another_record_is_found() {
        let moved = Made::default().sent(id(1, 1)).sent(id(2, 1)).acked(id(1, 1), 0).acked(id(2, 1), 1);
        let moved = moved.read(id(2, 1), 0).read(id(1, 1), 1).whole(0, 2);
        assert_eq!(moved.found(), [Anomaly::AcknowledgedElsewhere]);
        let twice = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).sent(id(2, 1)).acked(id(2, 1), 0);
        assert_eq!(twice.found(), [Anomaly::AcknowledgedElsewhere]);
        let before_a_loss = Made::default().topic(false, Removal::OnRequest).stored(id(1, 1), 0);
        let again = |made: Made| made.sent(id(2, 1)).acked(id(2, 1), 0).read_by(7, id(2, 1), 0).found();
        assert_eq!(again(before_a_loss.clone().fault()), [Anomaly::Changed, Anomaly::AcknowledgedElsewhere]);
        assert_eq!(again(before_a_loss.power_loss()), []);
        let by_the_leader = Made::default().writer(1, AckedBy::Leader, false).writer(2, AckedBy::Leader, false);
        assert_eq!(by_the_leader.then(twice).found(), []);
    }

    #[test]
    fn what_is_said_to_be_out_of_range_and_is_not_is_found() {
        let told = |offset, start, end| {
            let [offset, start, end] = [offset, start, end].map(Offset::new);
            Event::OutOfRange { reader: 1, place: place(), offset, start, end }
        };
        let made = || Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1);
        let deleted = |before| made().event(Event::DeleteRecords { place: place(), before: Offset::new(before) });
        assert_eq!(deleted(1).event(told(0, 1, 2)).found(), []);
        assert_eq!(made().event(told(5, 0, 2)).found(), []);
        assert_eq!(made().event(told(0, 1, 2)).found(), [Anomaly::FalselyOutOfRange]);
        assert_eq!(deleted(1).event(told(1, 1, 2)).found(), [Anomaly::FalselyOutOfRange]);
        assert_eq!(made().event(told(1, 0, 0)).found(), [Anomaly::FalselyOutOfRange]);
        // Where replicas do not sync, a loss of power may take the end of the log.
        let unsynced = Made::default().topic(false, Removal::OnRequest).then(made());
        assert_eq!(unsynced.clone().event(told(1, 0, 0)).found(), [Anomaly::FalselyOutOfRange]);
        assert_eq!(unsynced.power_loss().event(told(1, 0, 0)).found(), []);
    }

    #[test]
    fn an_offset_for_a_time_that_is_not_the_first_is_found() {
        let read = |offset: i64, timestamp_ms| {
            let made = Made::default().read(id(1, u64::try_from(offset).unwrap()), offset);
            match made.0[0].event.clone() {
                Event::Read { reader, place, offset, id, checksum, .. } => {
                    Event::Read { reader, place, offset, id, checksum, timestamp_ms: Some(timestamp_ms) }
                }
                other => other,
            }
        };
        let all = (0..3).fold(Made::default(), |made, n| made.sent(id(1, n)).unknown(id(1, n)));
        let all = all.event(read(0, 10)).event(read(1, 20)).event(read(2, 30));
        let found = |offset: Option<i64>| {
            let (offset, asked) = (offset.map(Offset::new), Duration::from_secs(1000));
            all.clone().event(Event::FoundByTime { place: place(), timestamp_ms: 15, offset, asked }).found()
        };
        assert_eq!(found(Some(1)), []);
        for wrong in [Some(0), Some(2), None] {
            assert_eq!(found(wrong), [Anomaly::WrongByTime]);
        }
    }
}
