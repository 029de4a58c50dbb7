//! After the last fault everything works again, within a bound: a write to every partition is acknowledged and read, every
//! group goes on, a transaction commits, and all replicas are in sync.

use super::facts::Facts;
use super::{Anomaly, Violation};
use crate::history::Event;

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let Some(recovery) = &facts.expectations.recovery else { return };
    let healed_at = facts.healed_at();
    let seen_since = |timed: &&crate::history::Timed| timed.at >= healed_at;
    let since: Vec<_> = facts.events.iter().filter(seen_since).collect();
    for expected in &recovery.signs {
        let found = since.iter().find(|timed| matches!(&timed.event, Event::Works { sign } if sign == expected));
        match found {
            None => {
                let what = format!("{expected}: not seen after the last fault, at {healed_at:?}");
                let end = since.last().map_or(healed_at, |timed| timed.at);
                violations.push(Violation::new(Anomaly::NotRecovered, end, what));
            }
            Some(timed) if timed.at - healed_at > recovery.within => {
                let (took, within) = (timed.at - healed_at, recovery.within);
                let what = format!("{expected}: seen {took:?} after the last fault, and should be within {within:?}");
                violations.push(Violation::new(Anomaly::RecoveredLate, timed.at, what));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Expectations;
    use super::super::made::{Made, id, place};
    use super::*;
    use crate::history::Sign;

    #[test]
    fn what_does_not_work_again_in_time_is_found() {
        let works = || Event::Works { sign: Sign::InSync { place: place() } };
        let all = [
            Sign::Written { place: place() },
            Sign::InSync { place: place() },
            Sign::Transacted { topic: "t".into() },
            Sign::Consumed { group: "g".into() },
        ];
        for sign in all {
            let rules = Expectations::default().recovers(Duration::from_secs(10), vec![sign.clone()]);
            let works = || Event::Works { sign: sign.clone() };
            assert_eq!(Made::default().fault().event(works()).found_by(&rules), []);
            assert_eq!(Made::default().fault().found_by(&rules), [Anomaly::NotRecovered]);
            // What worked before the last fault says nothing of after it.
            assert_eq!(Made::default().event(works()).fault().found_by(&rules), [Anomaly::NotRecovered]);
            assert_eq!(Made::default().fault().later(20).event(works()).found_by(&rules), [Anomaly::RecoveredLate]);
            assert_eq!(Made::default().fault().later(20).event(Event::Healed).event(works()).found_by(&rules), []);
        }
        assert_eq!(Made::default().fault().event(works()).report().recovered_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn the_longest_stall_is_the_longest_wait_for_an_acknowledgement() {
        let made = Made::default().stored(id(1, 1), 0).later(100).sent(id(1, 2)).later(29).acked(id(1, 2), 1);
        let stall = made.report().longest_stall().cloned().unwrap();
        assert_eq!((stall.from, stall.lasted), (Duration::from_secs(103), Duration::from_secs(30)));
    }
}
