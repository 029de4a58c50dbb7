//! Holds a history against P5 of DESIGN §1: in a group a partition has at most one owner, and a fenced member can't commit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use highwater_types::Offset;

use super::{Event, Place, Timed};

/// A broken promise of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipViolation {
    /// `second` was given the partition while `first`, which lived and was not told that it had lost it, still had it.
    TwoOwners { group: Arc<str>, place: Place, first: u32, second: u32, at: Duration },
    /// A commit that `member` began after `owner` had been given the partition was taken.
    CommitByFormerOwner { group: Arc<str>, place: Place, member: u32, owner: u32, offset: Offset, began: Duration },
    /// A commit was taken from a member that was never given the partition.
    CommitByStranger { group: Arc<str>, place: Place, member: u32, offset: Offset },
}

impl fmt::Display for OwnershipViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoOwners { group, place, first, second, at } => {
                write!(
                    f,
                    "two owners: {place} of group {group} was given to member {second} at {at:?} while member {first} had it"
                )
            }
            Self::CommitByFormerOwner { group, place, member, owner, offset, began } => write!(
                f,
                "commit by a former owner: member {member} committed {place}@{offset} for group {group}, begun at {began:?}, \
                 when member {owner} had it already"
            ),
            Self::CommitByStranger { group, place, member, offset } => {
                write!(
                    f,
                    "commit by a stranger: member {member} committed {place}@{offset} for group {group} without having had it"
                )
            }
        }
    }
}

/// A group, and a partition that it reads.
type Owned = (Arc<str>, Place);

/// Checks what the members of all groups did. Members are numbered over the whole history, each life its own number.
pub fn check_ownership(events: &[Timed]) -> Vec<OwnershipViolation> {
    let mut violations = Vec::new();
    // Who has it, as far as it knows itself.
    let mut owners: BTreeMap<Owned, u32> = BTreeMap::new();
    // Every time that it was given to somebody, in order.
    let mut given: BTreeMap<Owned, Vec<(Duration, u32)>> = BTreeMap::new();
    for Timed { at, event } in events {
        match event {
            Event::Assigned { group, member, place } => {
                let key = (Arc::clone(group), place.clone());
                if let Some(first) = owners.insert(key.clone(), *member).filter(|first| first != member) {
                    let (group, place) = key.clone();
                    violations.push(OwnershipViolation::TwoOwners { group, place, first, second: *member, at: *at });
                }
                given.entry(key).or_default().push((*at, *member));
            }
            Event::Released { group, member, place } => {
                let key = (Arc::clone(group), place.clone());
                if owners.get(&key) == Some(member) {
                    owners.remove(&key);
                }
            }
            Event::MemberGone { member } => owners.retain(|_, owner| owner != member),
            Event::Committed { group, member, place, offset, began } => {
                let given = given.get(&(Arc::clone(group), place.clone())).map_or(&[][..], Vec::as_slice);
                let (group, place) = (Arc::clone(group), place.clone());
                let Some(own) = given.iter().rposition(|(_, owner)| owner == member) else {
                    violations.push(OwnershipViolation::CommitByStranger {
                        group,
                        place,
                        member: *member,
                        offset: *offset,
                    });
                    continue;
                };
                if let Some((_, owner)) = given[own + 1..].iter().find(|(since, _)| since <= began) {
                    violations.push(OwnershipViolation::CommitByFormerOwner {
                        group,
                        place,
                        member: *member,
                        owner: *owner,
                        offset: *offset,
                        began: *began,
                    });
                }
            }
            _ => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn history(events: impl IntoIterator<Item = (u64, Event)>) -> Vec<Timed> {
        events.into_iter().map(|(at, event)| Timed { at: ms(at), event }).collect()
    }

    fn assigned(member: u32) -> Event {
        Event::Assigned { group: "g".into(), member, place: Place::new("t", 0) }
    }

    fn released(member: u32) -> Event {
        Event::Released { group: "g".into(), member, place: Place::new("t", 0) }
    }

    fn committed(member: u32, began: u64) -> Event {
        let (place, offset) = (Place::new("t", 0), Offset::new(7));
        Event::Committed { group: "g".into(), member, place, offset, began: ms(began) }
    }

    #[test]
    fn handing_over_in_order_is_fine() {
        let events = [
            (1, assigned(1)),
            (2, committed(1, 1)),
            (3, released(1)),
            (4, assigned(2)),
            // Begun before the other had it; its answer came late.
            (5, committed(1, 2)),
            (6, committed(2, 5)),
            (7, Event::MemberGone { member: 2 }),
            (8, assigned(1)),
            (9, committed(1, 8)),
        ];
        assert_eq!(check_ownership(&history(events)), []);
    }

    #[test]
    fn two_owners_are_found() {
        let found = check_ownership(&history([(1, assigned(1)), (2, assigned(2))]));
        assert!(matches!(found[..], [OwnershipViolation::TwoOwners { first: 1, second: 2, .. }]), "{found:?}");
    }

    #[test]
    fn a_commit_of_a_fenced_member_is_found() {
        let gone = Event::MemberGone { member: 1 };
        let found = check_ownership(&history([(1, assigned(1)), (2, gone), (3, assigned(2)), (5, committed(1, 4))]));
        assert!(
            matches!(found[..], [OwnershipViolation::CommitByFormerOwner { member: 1, owner: 2, .. }]),
            "{found:?}"
        );
    }

    #[test]
    fn a_commit_of_a_member_that_never_had_it_is_found() {
        let found = check_ownership(&history([(1, assigned(1)), (2, committed(9, 1))]));
        assert!(matches!(found[..], [OwnershipViolation::CommitByStranger { member: 9, .. }]), "{found:?}");
    }
}
