//! P1: a write acknowledged with `acks=all` is never lost; also not by power loss, where the topic's replicas sync before they
//! acknowledge. Of a compacted topic that goes for the newest value of a key.
//!
//! What is promised for less: with `acks=leader` a record stays if nothing was broken from some time before its send on; on a topic whose replicas
//! do not sync, if no power was lost from its send on. With `acks=none` nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::Offset;

use super::facts::{Facts, Fate, PlaceFacts, Whole};
use super::{Anomaly, Violation};
use crate::history::{AckedBy, Place, RecordId, Removal};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    for (id, fate) in &facts.fates {
        let Some(ack) = &fate.acknowledged else { continue };
        if facts.removal(&ack.place.topic) == Removal::Compaction || !stays(facts, *id, fate) {
            continue;
        }
        let Some(known) = facts.places.get(ack.place) else { continue };
        let Some(whole) = reading(facts, fate, known) else { continue };
        let is_due = ack.at <= whole.began && ack.offset >= known.start.max(whole.from);
        let was_given = known.by_reader.get(&whole.reader).is_some_and(|read| read.contains(&ack.offset));
        if is_due && !was_given {
            let (place, offset, at, reader) = (ack.place, ack.offset, ack.at, whole.reader);
            let seen = match known.seen.get(&offset) {
                Some(seen) => format!("reader {} was given it at {:?}", seen.reader, seen.at),
                None => "nobody was ever given it".to_owned(),
            };
            let what = format!(
                "{id} was acknowledged at {place}@{offset} at {at:?}; reader {reader}, which read {} up to {}, was not given \
                 it ({seen})",
                whole.from, whole.to
            );
            violations.push(Violation::new(Anomaly::Lost, whole.at, what));
        }
    }
    for (place, known) in &facts.places {
        if facts.removal(&place.topic) == Removal::Compaction
            && let Some(whole) = facts.last_whole(known, false)
        {
            compacted(facts, place, known, whole, violations);
        }
    }
}

/// Whether the record's acknowledgement promised that it is there in the end.
fn stays(facts: &Facts<'_>, id: RecordId, fate: &Fate<'_>) -> bool {
    match facts.acks(id.writer) {
        AckedBy::Nobody => false,
        AckedBy::Leader => facts.faults.iter().all(|fault| *fault + facts.expectations.settle < fate.sent_at),
        AckedBy::All => facts.is_safe_from_power_loss(fate.topic, fate.sent_at),
    }
}

/// Who must have been given it: who reads everything; for what is in no transaction, or in a committed one, also who reads what
/// is committed. (Committed ones are P4's.)
fn reading<'p>(facts: &Facts<'_>, fate: &Fate<'_>, known: &'p PlaceFacts) -> Option<&'p Whole> {
    let of_all = facts.last_whole(known, false);
    let of_committed = facts.last_whole(known, true).filter(|_| fate.transaction.is_none());
    of_all.into_iter().chain(of_committed).max_by_key(|whole| whole.began)
}

fn compacted(facts: &Facts<'_>, place: &Place, known: &PlaceFacts, whole: &Whole, violations: &mut Vec<Violation>) {
    // By key: the newest that was acknowledged, and the newest that was found.
    let mut newest: BTreeMap<&Arc<str>, (Offset, RecordId)> = BTreeMap::new();
    // What may have been written besides, nobody knows where.
    let mut unknown: BTreeMap<&Arc<str>, Vec<&Fate<'_>>> = BTreeMap::new();
    for (id, fate) in &facts.fates {
        let Some(key) = fate.key.filter(|_| fate.topic == &place.topic) else { continue };
        match &fate.acknowledged {
            Some(ack) if ack.place == place && ack.at <= whole.began && stays(facts, *id, fate) => {
                let entry = newest.entry(key).or_insert((ack.offset, *id));
                *entry = (*entry).max((ack.offset, *id));
            }
            None if fate.unknown.is_some() => unknown.entry(key).or_default().push(fate),
            _ => {}
        }
    }
    let read = known.by_reader.get(&whole.reader);
    let mut found: BTreeMap<&Arc<str>, Offset> = BTreeMap::new();
    for offset in read.into_iter().flatten() {
        let id = known.seen.get(offset).and_then(|seen| seen.id);
        if let Some(key) = id.and_then(|id| facts.fates.get(&id)).and_then(|fate| fate.key) {
            found.insert(key, *offset);
        }
    }
    for (key, (offset, id)) in newest {
        let found = found.get(key).copied();
        if found.is_some_and(|found| found >= offset) {
            continue;
        }
        let Some(fate) = facts.fates.get(&id) else { continue };
        let anomaly = match (fate.tombstone, found) {
            // Deleted, and the deletion itself compacted away.
            (true, None) => continue,
            (true, Some(_)) => Anomaly::BackFromTheDead,
            // Perhaps what nobody knows of deleted it.
            (false, None) if unknown.get(key).is_some_and(|fates| fates.iter().any(|fate| fate.tombstone)) => continue,
            (false, _) => Anomaly::ValueLost,
        };
        let found = found.map_or("nothing".to_owned(), |found| format!("what is at {found}"));
        let what = format!(
            "the newest of key {key:?} that was acknowledged is {id} at {place}@{offset}; reader {} was given {found}",
            whole.reader
        );
        violations.push(Violation::new(anomaly, whole.at, what));
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, id, place};
    use super::*;
    use crate::history::Event;

    #[test]
    fn a_good_history_is_counted_and_nothing_is_found() {
        let good = Made::default().stored(id(1, 1), 0).stored(id(1, 2), 1).sent(id(2, 1)).unknown(id(2, 1)).whole(0, 2);
        let report = good.report();
        assert_eq!(report.violations, []);
        assert_eq!((report.sent, report.acknowledged, report.unknown, report.read), (3, 2, 1, 2));
    }

    #[test]
    fn an_acknowledged_record_past_the_end_is_lost() {
        let lost = Made::default().stored(id(1, 1), 0).sent(id(1, 2)).acked(id(1, 2), 1).whole(0, 1);
        assert_eq!(lost.found(), [Anomaly::Lost]);
    }

    #[test]
    fn an_acknowledged_record_whose_offset_was_passed_is_lost() {
        let gap = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).stored(id(1, 2), 1).whole(0, 2);
        assert_eq!(gap.found(), [Anomaly::Lost, Anomaly::Skipped]);
    }

    #[test]
    fn that_somebody_was_given_it_once_does_not_make_it_less_lost() {
        let gone = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).read_by(7, id(1, 1), 0).whole(0, 0);
        assert_eq!(gone.found(), [Anomaly::Lost, Anomaly::Disappeared]);
    }

    #[test]
    fn what_was_acknowledged_only_after_the_reading_began_is_not_missed() {
        let later = Made::default().stored(id(1, 1), 0);
        let later = later.whole_since(0, 1, 2).sent(id(1, 2)).acked(id(1, 2), 1);
        assert_eq!(later.found(), []);
    }

    #[test]
    fn of_a_partition_that_nobody_has_read_whole_nothing_is_said() {
        assert_eq!(Made::default().sent(id(1, 1)).acked(id(1, 1), 0).found(), []);
    }

    #[test]
    fn what_lies_before_a_start_moved_on_purpose_may_be_gone() {
        let trimmed = Made::default().sent(id(1, 1)).acked(id(1, 1), 0).stored(id(1, 2), 1);
        let deleted =
            trimmed.clone().event(Event::DeleteRecords { place: place(), before: Offset::new(1) }).whole(1, 2);
        assert_eq!(deleted.found(), []);
        let too_much = trimmed.stored(id(1, 3), 2);
        let too_much =
            too_much.event(Event::DeleteRecords { place: place(), before: Offset::new(1) }).whole_by(9, 2, 3);
        assert!(too_much.found().contains(&Anomaly::Lost) || too_much.found().contains(&Anomaly::Disappeared));
    }

    #[test]
    fn acks_of_the_leader_alone_promise_as_long_as_nothing_breaks() {
        let lost = Made::default().writer(1, AckedBy::Leader, false);
        assert_eq!(lost.clone().sent(id(1, 1)).acked(id(1, 1), 0).whole(0, 0).found(), [Anomaly::Lost]);
        assert_eq!(lost.clone().fault().sent(id(1, 1)).acked(id(1, 1), 0).whole(0, 0).found(), []);
        assert_eq!(
            lost.clone().fault().later(60).sent(id(1, 1)).acked(id(1, 1), 0).whole(0, 0).found(),
            [Anomaly::Lost]
        );
        assert_eq!(lost.sent(id(1, 1)).acked(id(1, 1), 0).fault().whole(0, 0).found(), []);
    }

    #[test]
    fn a_topic_that_is_not_synced_may_lose_by_power_loss_and_by_nothing_else() {
        let sent = |synced| Made::default().topic(synced, Removal::OnRequest).sent(id(1, 1)).acked(id(1, 1), 0);
        assert_eq!(sent(false).fault().whole(0, 0).found(), [Anomaly::Lost]);
        assert_eq!(sent(false).power_loss().whole(0, 0).found(), []);
        assert_eq!(sent(true).power_loss().whole(0, 0).found(), [Anomaly::Lost]);
    }

    #[test]
    fn of_a_compacted_topic_the_newest_value_of_each_key_stays() {
        let table = || Made::default().topic(true, Removal::Compaction);
        let put = |made: Made, number, offset| {
            made.put(id(1, number), "k", false).acked(id(1, number), offset).event(Event::Fault { what: "?".into() })
        };
        let both = put(put(table(), 1, 0), 2, 1);
        assert_eq!(both.clone().read(id(1, 2), 1).whole(0, 2).found(), []);
        assert_eq!(both.clone().whole(0, 2).found(), [Anomaly::ValueLost]);
        assert_eq!(both.clone().read(id(1, 1), 0).whole(0, 2).found(), [Anomaly::ValueLost]);
        let deleted = put(table(), 1, 0).put(id(1, 2), "k", true).acked(id(1, 2), 1);
        assert_eq!(deleted.clone().whole(0, 2).found(), []);
        assert_eq!(deleted.clone().read(id(1, 2), 1).whole(0, 2).found(), []);
        assert_eq!(deleted.read(id(1, 1), 0).whole(0, 2).found(), [Anomaly::BackFromTheDead]);
        let perhaps = put(table(), 1, 0).put(id(1, 2), "k", true).unknown(id(1, 2));
        assert_eq!(perhaps.whole(0, 2).found(), []);
    }
}
