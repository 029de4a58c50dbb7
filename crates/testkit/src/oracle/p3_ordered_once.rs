//! P3: records of one producer to one partition keep their order; an idempotent producer leaves no duplicate.
//!
//! A producer without idempotence may leave a record more than once where something broke and it had to send again, and one whose
//! outcome it does not know may appear after later ones; with `acks=none` nothing is sent a second time.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::{Facts, Fate};
use super::{Anomaly, Violation};
use crate::history::{AckedBy, Place, RecordId};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    // Ids come by writer, then number; so the latest record of each writer and partition is the one before.
    let mut last: BTreeMap<(u32, &Place), (RecordId, Offset)> = BTreeMap::new();
    for (id, places) in &facts.stored {
        let Some(fate) = facts.fates.get(id) else { continue };
        if facts.copies_of(*id, places) > 1 && !may_be_there_twice(facts, *id, fate) {
            let mut what = format!("{id} is at");
            places.iter().for_each(|(place, offset)| what.push_str(&format!(" {place}@{offset}")));
            violations.push(Violation::new(Anomaly::Duplicated, seen_at(facts, places), what));
        }
        // By the first place of each record: a copy sent again may stand behind what came after the first.
        let mut firsts: BTreeMap<&Place, Offset> = BTreeMap::new();
        for (place, offset) in places.iter().filter(|(place, _)| place.topic == *fate.topic) {
            let first = firsts.entry(place).or_insert(*offset);
            *first = (*first).min(*offset);
        }
        for (place, offset) in firsts {
            match last.get(&(id.writer, place)) {
                Some((before, at)) if *at > offset => {
                    let what = format!("in {place}, {before} is at {at}, after {id} at {offset}, which was sent later");
                    violations.push(Violation::new(Anomaly::Reordered, seen_at(facts, places), what));
                }
                _ if facts.is_idempotent(id.writer) || fate.unknown.is_none() => {
                    last.insert((id.writer, place), (*id, offset));
                }
                // It may come late; nothing follows from where it is.
                _ => {}
            }
        }
    }
}

fn seen_at(facts: &Facts<'_>, places: &[(&Place, Offset)]) -> Duration {
    let at = |(place, offset): &(&Place, Offset)| facts.places.get(place)?.seen.get(offset).map(|seen| seen.at);
    places.iter().filter_map(at).max().unwrap_or_default()
}

fn may_be_there_twice(facts: &Facts<'_>, id: RecordId, fate: &Fate<'_>) -> bool {
    if facts.is_idempotent(id.writer) || facts.acks(id.writer) == AckedBy::Nobody {
        return false;
    }
    let after_fault = |at: Duration| {
        let last = facts.faults.iter().rev().find(|fault| **fault <= at);
        last.is_some_and(|fault| at - *fault <= facts.expectations.settle)
    };
    fate.unknown.is_some() || fate.acknowledged.as_ref().is_some_and(|ack| after_fault(ack.at))
}

#[cfg(test)]
mod tests {
    use super::super::Expectations;
    use super::super::made::{Made, id};
    use super::*;

    #[test]
    fn a_duplicate_of_an_idempotent_producer_is_found_whatever_went_wrong() {
        let twice = |made: Made| made.sent(id(1, 1)).fault().acked(id(1, 1), 1).read(id(1, 1), 0).read(id(1, 1), 1);
        assert!(twice(Made::default()).found().contains(&Anomaly::Duplicated));
        let unknown = Made::default().sent(id(1, 1)).unknown(id(1, 1)).read(id(1, 1), 0).read(id(1, 1), 1);
        assert_eq!(unknown.found(), [Anomaly::Duplicated]);
    }

    #[test]
    fn at_least_once_allows_a_duplicate_after_a_fault_or_an_unknown_outcome() {
        let rules = Expectations::at_least_once();
        let after_fault = Made::default().sent(id(1, 1)).fault().acked(id(1, 1), 1).read(id(1, 1), 0).read(id(1, 1), 1);
        assert_eq!(after_fault.found_by(&rules), []);
        let unknown = Made::default().sent(id(1, 1)).unknown(id(1, 1)).read(id(1, 1), 0).read(id(1, 1), 1);
        assert_eq!(unknown.found_by(&rules), []);
        let without = Made::default().stored(id(1, 1), 0).read(id(1, 1), 1).whole(0, 2);
        assert_eq!(without.found_by(&rules), [Anomaly::Duplicated]);
        let late = Made::default().fault().sent(id(1, 1)).acked(id(1, 1), 0).read(id(1, 1), 0).read(id(1, 1), 1);
        let short = Expectations { settle: Duration::from_secs(1), ..rules };
        assert_eq!(late.found_by(&short), [Anomaly::Duplicated]);
    }

    #[test]
    fn with_acks_of_nobody_nothing_is_there_twice() {
        let made = Made::default().writer(1, AckedBy::Nobody, false).sent(id(1, 1)).unknown(id(1, 1)).fault();
        assert_eq!(made.clone().read(id(1, 1), 0).found(), []);
        assert_eq!(made.read(id(1, 1), 0).read(id(1, 1), 1).found(), [Anomaly::Duplicated]);
    }

    #[test]
    fn records_of_one_writer_out_of_order_are_found_also_when_not_acknowledged() {
        let swapped = Made::default().sent(id(1, 1)).sent(id(1, 2)).unknown(id(1, 1)).unknown(id(1, 2));
        let swapped = swapped.read(id(1, 2), 0).read(id(1, 1), 1).whole(0, 2);
        assert_eq!(swapped.found(), [Anomaly::Reordered]);
        // Without numbers, one that is given up may come late.
        assert_eq!(swapped.found_by(&Expectations::at_least_once()), []);
    }

    #[test]
    fn acknowledged_records_keep_their_order_without_numbers_too() {
        let swapped = Made::default().sent(id(1, 1)).sent(id(1, 2)).acked(id(1, 2), 0).acked(id(1, 1), 1);
        let swapped = swapped.read(id(1, 2), 0).read(id(1, 1), 1);
        assert_eq!(swapped.found_by(&Expectations::at_least_once()), [Anomaly::Reordered]);
    }

    #[test]
    fn a_batch_sent_again_is_no_reordering_and_other_writers_do_not_matter() {
        let again = Made::default().sent(id(1, 1)).sent(id(1, 2)).sent(id(2, 1)).fault();
        let again = again.acked(id(1, 1), 3).acked(id(1, 2), 4).acked(id(2, 1), 2);
        let again = again.read(id(1, 1), 0).read(id(1, 2), 1).read(id(2, 1), 2).read(id(1, 1), 3).read(id(1, 2), 4);
        assert_eq!(again.whole(0, 5).found_by(&Expectations::at_least_once()), []);
    }
}
