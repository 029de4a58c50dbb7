//! Server-side assignors: which member of a group reads which partition.
//!
//! Pure functions of who subscribes to what, who has what now, and who is where. Each partition that somebody subscribes to goes to
//! exactly one member that does; where it can be chosen, to one in a rack of its replicas (KIP-881). Where that makes no difference,
//! because racks are not known or all are near, the result is the same as without them.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{MemberId, TopicPartition};

mod nearer;
mod racks;
mod range;
#[cfg(test)]
mod tests;
mod uniform;

pub use racks::Racks;

/// Partitions by member.
pub type Assignment = BTreeMap<MemberId, BTreeSet<TopicPartition>>;

/// The assignors that a group can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Assignor {
    /// As many for each, within one where all subscribe to the same; what can stay stays, unless it is nearer to another who can take
    /// it, or something for it, without loss.
    #[default]
    Uniform,
    /// Topic by topic, in ranges: partitions of the same number of topics with as many partitions go together. Near ones come
    /// before the order of numbers.
    Range,
}

impl Assignor {
    /// `None` for a name that is not known; the empty one is the default's.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// `subscribed`: all partitions that each member subscribes to. `current`: what each has.
    pub fn assign(self, subscribed: &Assignment, current: &Assignment, racks: &Racks) -> Assignment {
        match self {
            Self::Uniform => uniform::uniform(subscribed, current, racks),
            Self::Range => range::range(subscribed, racks),
        }
    }
}
