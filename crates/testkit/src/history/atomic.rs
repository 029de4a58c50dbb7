//! Holds transactions against P4 of DESIGN §1: a `read_committed` reader finds each one wholly or not at all, over all its
//! partitions, as the producer was told.

use std::collections::BTreeMap;
use std::fmt;

use highwater_types::Offset;

use super::{Place, RecordId};

/// What a producer was told of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Committed,
    Aborted,
    /// Neither: it was cut off, or killed, while it asked.
    Unknown,
}

/// One transaction: its records, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transacted {
    pub records: Vec<RecordId>,
    pub told: Told,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtomicityViolation {
    /// Some of its records are there and others not.
    Torn { first: RecordId, found: usize, of: usize },
    /// Told that it is committed, and nothing is there.
    Lost { first: RecordId },
    /// Told that it is aborted, and it is there.
    Undead { first: RecordId },
    /// A record is there more than once.
    Repeated { id: RecordId, places: Vec<(Place, Offset)> },
    /// A record of no transaction.
    Invented { id: RecordId },
}

impl fmt::Display for AtomicityViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { first, found, of } => {
                write!(f, "torn: of the transaction that begins with {first}, {found} of {of} records are there")
            }
            Self::Lost { first } => write!(f, "lost: the committed transaction that begins with {first} is not there"),
            Self::Undead { first } => write!(f, "undead: the aborted transaction that begins with {first} is there"),
            Self::Repeated { id, places } => {
                write!(f, "repeated: {id} is at")?;
                places.iter().try_for_each(|(place, offset)| write!(f, " {place}@{offset}"))
            }
            Self::Invented { id } => write!(f, "invented: {id} is of no transaction"),
        }
    }
}

/// Compares what producers did with all that a `read_committed` reader finds.
pub fn check_atomicity(transactions: &[Transacted], found: &[(Place, Offset, RecordId)]) -> Vec<AtomicityViolation> {
    let mut places: BTreeMap<RecordId, Vec<(Place, Offset)>> = BTreeMap::new();
    for (place, offset, id) in found {
        places.entry(*id).or_default().push((place.clone(), *offset));
    }
    let mut violations = Vec::new();
    for transaction in transactions {
        let Some(first) = transaction.records.first().copied() else { continue };
        let there = transaction.records.iter().filter(|id| places.contains_key(id)).count();
        let of = transaction.records.len();
        violations.extend(match (transaction.told, there) {
            (_, there) if there != 0 && there != of => Some(AtomicityViolation::Torn { first, found: there, of }),
            (Told::Committed, 0) => Some(AtomicityViolation::Lost { first }),
            (Told::Aborted, there) if there > 0 => Some(AtomicityViolation::Undead { first }),
            _ => None,
        });
        for id in &transaction.records {
            if let Some(places) = places.remove(id).filter(|places| places.len() > 1) {
                violations.push(AtomicityViolation::Repeated { id: *id, places });
            }
        }
    }
    violations.extend(places.into_keys().map(|id| AtomicityViolation::Invented { id }));
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> RecordId {
        RecordId { writer: 1, number }
    }

    fn transaction(numbers: [u64; 2], told: Told) -> Transacted {
        Transacted { records: numbers.map(id).to_vec(), told }
    }

    fn at(offset: i64, number: u64) -> (Place, Offset, RecordId) {
        (Place::new("t", 0), Offset::new(offset), id(number))
    }

    #[test]
    fn whole_or_not_at_all_is_fine_as_told() {
        let transactions = [
            transaction([1, 2], Told::Committed),
            transaction([3, 4], Told::Aborted),
            transaction([5, 6], Told::Unknown),
            transaction([7, 8], Told::Unknown),
        ];
        assert_eq!(check_atomicity(&transactions, &[at(0, 1), at(1, 2), at(2, 5), at(3, 6)]), []);
    }

    #[test]
    fn each_anomaly_is_found() {
        use AtomicityViolation as V;
        let of = |told, found: &[_]| check_atomicity(&[transaction([1, 2], told)], found);
        assert_eq!(of(Told::Unknown, &[at(0, 1)]), [V::Torn { first: id(1), found: 1, of: 2 }]);
        assert_eq!(of(Told::Committed, &[]), [V::Lost { first: id(1) }]);
        assert_eq!(of(Told::Aborted, &[at(0, 1), at(1, 2)]), [V::Undead { first: id(1) }]);
        let twice = of(Told::Committed, &[at(0, 1), at(1, 2), at(2, 2)]);
        assert!(matches!(twice[..], [V::Repeated { .. }]), "{twice:?}");
        assert_eq!(of(Told::Committed, &[at(0, 1), at(1, 2), at(2, 9)]), [V::Invented { id: id(9) }]);
    }
}
