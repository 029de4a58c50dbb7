//! Holds the output of a pipeline (consume, transform, produce and commit in one transaction) against exactly once: what a
//! `read_committed` reader finds in the output is each input record, once (P4 of DESIGN §1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use highwater_types::Offset;

use super::{Place, RecordId};

/// A record that the output holds as it should not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineViolation {
    /// An input that is in no output partition.
    Missing { id: RecordId },
    /// An input that is there more than once.
    Repeated { id: RecordId, places: Vec<(Place, Offset)> },
    /// An output that stems from no input.
    Invented { id: RecordId, place: Place, offset: Offset },
}

impl fmt::Display for PipelineViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { id } => write!(f, "missing: {id} did not come out"),
            Self::Repeated { id, places } => {
                write!(f, "repeated: {id} came out at")?;
                places.iter().try_for_each(|(place, offset)| write!(f, " {place}@{offset}"))
            }
            Self::Invented { id, place, offset } => write!(f, "invented: {id} at {place}@{offset} was never put in"),
        }
    }
}

/// Compares what was put in with what came out.
pub fn check_exactly_once(
    inputs: &BTreeSet<RecordId>,
    outputs: &[(Place, Offset, RecordId)],
) -> Vec<PipelineViolation> {
    let mut found: BTreeMap<RecordId, Vec<(Place, Offset)>> = BTreeMap::new();
    for (place, offset, id) in outputs {
        found.entry(*id).or_default().push((place.clone(), *offset));
    }
    let missing = inputs.iter().filter(|id| !found.contains_key(id)).map(|id| PipelineViolation::Missing { id: *id });
    let mut violations: Vec<_> = missing.collect();
    for (id, places) in found {
        if !inputs.contains(&id) {
            let (place, offset) = places[0].clone();
            violations.push(PipelineViolation::Invented { id, place, offset });
        } else if places.len() > 1 {
            violations.push(PipelineViolation::Repeated { id, places });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_repeated_or_invented_is_found() {
        let id = |number| RecordId { writer: 1, number };
        let at = |offset, number| (Place::new("out", 0), Offset::new(offset), id(number));
        let inputs = BTreeSet::from([id(1), id(2), id(3)]);
        assert_eq!(check_exactly_once(&inputs, &[at(0, 1), at(1, 3), at(2, 2)]), []);
        let found = check_exactly_once(&inputs, &[at(0, 1), at(1, 1), at(2, 2), at(3, 9)]);
        assert_eq!(
            found,
            [
                PipelineViolation::Missing { id: id(3) },
                PipelineViolation::Repeated {
                    id: id(1),
                    places: vec![(Place::new("out", 0), Offset::new(0)), (Place::new("out", 0), Offset::new(1))],
                },
                PipelineViolation::Invented { id: id(9), place: Place::new("out", 0), offset: Offset::new(3) },
            ]
        );
    }
}
