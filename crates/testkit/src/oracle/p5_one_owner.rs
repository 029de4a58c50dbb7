//! P5: in a group a partition has at most one owner, and a fenced member can't commit. So each record is some member's to process:
//! a committed offset passes nothing that no member was given, does not move back, and is where the next owner begins, or before
//! which it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_types::Offset;

use super::facts::Facts;
use super::{Anomaly, Violation};
use crate::history::{Event, Place, Removal, Timed, member_of};

pub fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut groups = Groups::default();
    for timed in facts.events {
        groups.take(facts, timed, violations);
    }
}

/// A group, and a partition that it reads.
type Owned<'a> = (&'a Arc<str>, &'a Place);

#[derive(Default)]
struct Groups<'a> {
    partitions: BTreeMap<Owned<'a>, Partition>,
    /// What each member has, or had: its groups.
    members: BTreeMap<u32, BTreeSet<&'a Arc<str>>>,
}

#[derive(Default)]
struct Partition {
    /// Who has it, as far as it knows itself.
    owner: Option<u32>,
    /// Every time that it was given to somebody, in order.
    given: Vec<(Duration, u32)>,
    /// What its members were given to process.
    read: BTreeSet<Offset>,
    /// The last commit that was taken, and when.
    committed: Option<(Offset, Duration)>,
    /// What the owners so far had committed when they ended: a new one begins there at least.
    settled: Offset,
    /// It was given to an owner that has read nothing yet.
    is_fresh: bool,
}

impl<'a> Groups<'a> {
    fn take(&mut self, facts: &Facts<'_>, timed: &'a Timed, violations: &mut Vec<Violation>) {
        let at = timed.at;
        match &timed.event {
            Event::Assigned { group, member, place } => {
                self.members.entry(*member).or_default().insert(group);
                let partition = self.partitions.entry((group, place)).or_default();
                if let Some(first) = partition.owner.filter(|first| first != member) {
                    let what =
                        format!("{place} of group {group} was given to member {member} while member {first} had it");
                    violations.push(Violation::new(Anomaly::TwoOwners, at, what));
                }
                partition.owner = Some(*member);
                partition.given.push((at, *member));
                partition.is_fresh = true;
            }
            Event::Released { group, member, place } => {
                let partition = self.partitions.entry((group, place)).or_default();
                partition.ends(|owner| owner == *member);
            }
            Event::MemberGone { member } => {
                self.partitions.values_mut().for_each(|partition| partition.ends(|owner| owner == *member));
            }
            Event::Read { reader, place, offset, .. } => {
                let Some(member) = member_of(*reader) else { return };
                let groups = self.members.get(&member).into_iter().flatten();
                for group in groups {
                    let Some(partition) = self.partitions.get_mut(&(*group, place)) else { continue };
                    partition.read.insert(*offset);
                    let is_first = partition.owner == Some(member) && std::mem::take(&mut partition.is_fresh);
                    if is_first && *offset < partition.settled {
                        let what = format!(
                            "member {member} of group {group} began {place} at {offset}, though {} was committed before",
                            partition.settled
                        );
                        violations.push(Violation::new(Anomaly::CommitForgotten, at, what));
                    }
                }
            }
            Event::Committed { group, member, place, offset, began } => {
                let partition = self.partitions.entry((group, place)).or_default();
                if let Some(violation) = partition.by_whom(group, place, *member, *offset, *began, at) {
                    violations.push(violation);
                }
                partition.how_far(facts, group, place, *member, *offset, *began, at, violations);
            }
            _ => {}
        }
    }
}

impl Partition {
    fn ends(&mut self, of: impl Fn(u32) -> bool) {
        if self.owner.is_some_and(of) {
            self.owner = None;
            self.settled = self.settled.max(self.committed.map_or(Offset::ZERO, |(offset, _)| offset));
        }
    }

    fn by_whom(
        &self,
        group: &Arc<str>,
        place: &Place,
        member: u32,
        offset: Offset,
        began: Duration,
        at: Duration,
    ) -> Option<Violation> {
        let Some(own) = self.given.iter().rposition(|(_, owner)| *owner == member) else {
            let what = format!("member {member} committed {place}@{offset} for group {group} without having had it");
            return Some(Violation::new(Anomaly::CommitByStranger, at, what));
        };
        let (since, owner) = self.given[own + 1..].iter().find(|(since, _)| *since <= began)?;
        let what = format!(
            "member {member} committed {place}@{offset} for group {group}, begun at {began:?}, when member {owner} had it \
             already, since {since:?}"
        );
        Some(Violation::new(Anomaly::CommitByFormerOwner, at, what))
    }

    #[expect(clippy::too_many_arguments, reason = "one event's fields")]
    fn how_far(
        &mut self,
        facts: &Facts<'_>,
        group: &Arc<str>,
        place: &Place,
        member: u32,
        offset: Offset,
        began: Duration,
        at: Duration,
        violations: &mut Vec<Violation>,
    ) {
        let before = self.committed.map_or(Offset::ZERO, |(offset, _)| offset);
        if let Some((was, told)) = self.committed.filter(|(was, told)| *was > offset && *told < began) {
            let what =
                format!("group {group} had committed {place}@{was} at {told:?}, and member {member} {offset} after it");
            violations.push(Violation::new(Anomaly::CommitWentBack, at, what));
        }
        if let Some(known) = facts.places.get(place).filter(|_| facts.removal(&place.topic) == Removal::OnRequest) {
            let passed = known.seen.range(before.max(known.start).min(offset)..offset);
            for (skipped, seen) in passed.filter(|(offset, _)| !self.read.contains(offset)) {
                let what = format!(
                    "member {member} of group {group} committed {place}@{offset}; no member was given {seen} at {skipped}"
                );
                violations.push(Violation::new(Anomaly::PositionSkipped, at, what));
            }
        }
        if offset >= before {
            self.committed = Some((offset, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::made::{Made, id, place};
    use super::*;
    use crate::history::reader_of;

    fn assigned(member: u32) -> Event {
        Event::Assigned { group: "g".into(), member, place: place() }
    }

    fn released(member: u32) -> Event {
        Event::Released { group: "g".into(), member, place: place() }
    }

    fn committed(member: u32, offset: i64, began: u64) -> Event {
        let (offset, began) = (Offset::new(offset), Duration::from_secs(began));
        Event::Committed { group: "g".into(), member, place: place(), offset, began }
    }

    /// Three records are there, as a reader without a group knows; then these happen, from the hundredth second on.
    fn made(events: impl IntoIterator<Item = Event>) -> Made {
        let made = (0..3).fold(Made::default(), |made, n| made.stored(id(1, n), i64::try_from(n).unwrap()));
        let made = Made::later(made, 91);
        events.into_iter().fold(made, Made::event)
    }

    fn reads(member: u32, record: u64) -> Event {
        // Each time that it was given something, a member is another reader.
        let reader = reader_of(member, u32::try_from(record).unwrap());
        let made = Made::default().read_by(reader, id(1, record), i64::try_from(record).unwrap());
        made.0[0].event.clone()
    }

    #[test]
    fn handing_over_in_order_is_fine() {
        let events = [
            assigned(1),
            reads(1, 0),
            committed(1, 1, 102),
            released(1),
            assigned(2),
            reads(2, 1),
            // Begun before the other had it; its answer came late.
            committed(1, 1, 102),
            committed(2, 2, 107),
            Event::MemberGone { member: 2 },
            assigned(1),
            reads(1, 2),
            committed(1, 3, 111),
        ];
        assert_eq!(made(events).found(), []);
    }

    #[test]
    fn two_owners_are_found() {
        assert_eq!(made([assigned(1), assigned(2)]).found(), [Anomaly::TwoOwners]);
        assert_eq!(made([assigned(1), Event::MemberGone { member: 1 }, assigned(2)]).found(), []);
    }

    #[test]
    fn a_commit_of_a_fenced_member_is_found() {
        let gone = Event::MemberGone { member: 1 };
        let events = [assigned(1), reads(1, 0), gone, assigned(2), committed(1, 1, 104)];
        assert_eq!(made(events).found(), [Anomaly::CommitByFormerOwner]);
    }

    #[test]
    fn a_commit_of_a_member_that_never_had_it_is_found() {
        assert_eq!(made([assigned(1), reads(1, 0), committed(9, 1, 102)]).found(), [Anomaly::CommitByStranger]);
    }

    #[test]
    fn a_commit_past_what_no_member_was_given_is_found() {
        assert_eq!(made([assigned(1), reads(1, 0), committed(1, 2, 102)]).found(), [Anomaly::PositionSkipped]);
        let by_another =
            [assigned(1), reads(1, 0), reads(1, 1), released(1), assigned(2), reads(2, 0), committed(2, 2, 105)];
        assert_eq!(made(by_another).found(), []);
    }

    #[test]
    fn a_commit_that_goes_back_is_found_unless_it_was_under_way() {
        let both = [assigned(1), reads(1, 0), reads(1, 1), committed(1, 2, 103)];
        assert_eq!(made(both.clone()).event(committed(1, 1, 104)).found(), [Anomaly::CommitWentBack]);
        assert_eq!(made(both).event(committed(1, 1, 102)).found(), []);
    }

    #[test]
    fn a_new_owner_that_begins_before_what_was_committed_is_found() {
        let events =
            |first| [assigned(1), reads(1, 0), committed(1, 1, 102), released(1), assigned(2), reads(2, first)];
        assert_eq!(made(events(1)).found(), []);
        assert_eq!(made(events(0)).found(), [Anomaly::CommitForgotten]);
    }
}
