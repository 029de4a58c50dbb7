//! P2, of topics that let go of their oldest records by themselves: what is to be kept is. Only whole segments go, so that more may
//! be there than must; and of a log's size its end is a part, too, which may never be committed: topics say what is sure
//! ([`Event::Keeps`]).

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::{Facts, Kept};
use super::{Anomaly, Violation};
use crate::history::{Event, Place, RecordId};

/// Clocks tell milliseconds, and a record's time is that of its send.
const EXACT: Duration = Duration::from_millis(5);

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    if facts.kept.is_empty() {
        return;
    }
    let records = records(facts);
    // Up to where ages have been looked at.
    let mut looked: BTreeMap<&Place, Offset> = BTreeMap::new();
    for timed in facts.events {
        let (place, start, end) = match &timed.event {
            Event::Starts { place, offset, .. } => (place, *offset, None),
            Event::OutOfRange { place, start, end, .. } => (place, *start, Some(*end)),
            _ => continue,
        };
        let Some(Kept { records: least, age }) = facts.kept.get(&place.topic) else { continue };
        if let (Some(least), Some(end)) = (least, end)
            && start > Offset::ZERO
            && u64::try_from(end.get() - start.get()).is_ok_and(|left| left < *least)
        {
            let what = format!("{place} began at {start} and ended at {end}: its last {least} offsets are to be kept");
            violations.push(Violation::new(Anomaly::GoneTooSoon, timed.at, what));
        }
        let from = looked.entry(place).or_insert(Offset::ZERO);
        if let Some(age) = age.filter(|_| facts.are_clocks_right(timed.at) && *from < start) {
            let known = records.get(place).map(|known| known.range(*from..start));
            for (offset, (id, sent_at)) in known.into_iter().flatten() {
                if *sent_at + age > timed.at + EXACT {
                    let what = format!(
                        "{place} began at {start}: {id}, at {offset}, was sent at {sent_at:?}, and is to be kept for {age:?}"
                    );
                    violations.push(Violation::new(Anomaly::GoneTooSoon, timed.at, what));
                }
            }
            *from = start;
        }
    }
}

/// Where they were, as was told or seen, and when they were sent.
fn records<'a>(facts: &Facts<'a>) -> BTreeMap<&'a Place, BTreeMap<Offset, (RecordId, Duration)>> {
    let mut found: BTreeMap<&Place, BTreeMap<Offset, (RecordId, Duration)>> = BTreeMap::new();
    for (id, fate) in facts.fates.iter().filter(|(_, fate)| facts.kept.contains_key(fate.topic)) {
        let told = fate.acknowledged.iter().map(|ack| (ack.place, ack.offset));
        let seen = facts.stored.get(id).into_iter().flatten().copied();
        for (place, offset) in told.chain(seen) {
            found.entry(place).or_default().insert(offset, (*id, fate.sent_at));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, id, place};
    use super::*;
    use crate::history::Removal;

    fn keeps(records: Option<u64>, age: Option<u64>) -> Made {
        let age = age.map(Duration::from_secs);
        Made::default().topic(true, Removal::Retention).event(Event::Keeps { topic: "t".into(), records, age })
    }

    fn starts(at: i64) -> Event {
        Event::Starts { place: place(), offset: Offset::new(at), asked: Duration::ZERO }
    }

    #[test]
    fn what_is_old_enough_may_go_and_what_is_younger_may_not() {
        // A record is stored in three seconds, one after the other.
        let made = || keeps(None, Some(3)).stored(id(1, 1), 0).stored(id(1, 2), 1);
        assert_eq!(made().event(starts(1)).whole(1, 2).found(), []);
        assert_eq!(made().later(1).event(starts(2)).whole(2, 2).found(), []);
        let too_soon = keeps(None, Some(4)).stored(id(1, 1), 0).stored(id(1, 2), 1).event(starts(2)).whole(2, 2);
        assert_eq!(too_soon.found(), [Anomaly::GoneTooSoon]);
        // Nobody can tell how old a record is for whose clock is wrong.
        let wrong = keeps(None, Some(4)).event(Event::ClockWrong { node: "broker-1".to_owned() });
        assert_eq!(wrong.stored(id(1, 1), 0).stored(id(1, 2), 1).event(starts(2)).whole(2, 2).found(), []);
    }

    #[test]
    fn the_last_records_stay_however_many_there_are() {
        let told = |start, end| {
            let [offset, start, end] = [0, start, end].map(Offset::new);
            Event::OutOfRange { reader: 1, place: place(), offset, start, end }
        };
        assert_eq!(keeps(Some(3), None).event(told(5, 8)).found(), []);
        assert_eq!(keeps(Some(3), None).event(told(6, 8)).found(), [Anomaly::GoneTooSoon]);
    }

    #[test]
    fn readers_pass_what_was_let_go_of_and_nothing_else() {
        let made = keeps(None, Some(1)).stored(id(1, 1), 0).stored(id(1, 2), 1).stored(id(1, 3), 2).later(9);
        let passed = |start| {
            let made = made.clone().event(starts(start));
            made.read_by(1, id(1, 1), 0).read_by(1, id(1, 3), 2).found()
        };
        assert_eq!(passed(1), [Anomaly::Disappeared]);
        assert_eq!(passed(2), []);
        let whole = |from| made.clone().event(starts(from)).whole_by(9, 1, 3).found();
        assert_eq!(whole(1), [Anomaly::Lost, Anomaly::Disappeared]);
        assert_eq!(whole(3), []);
    }
}
