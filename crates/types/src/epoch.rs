//! Versions that fence the past from the present.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! epoch {
    ($(#[$doc:meta])* $name:ident($int:ty), none = $none:expr, first = $first:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($int);

        impl $name {
            /// Not known or not stated.
            pub const NONE: Self = Self($none);
            /// The first one given.
            pub const FIRST: Self = Self($first);

            pub const fn new(value: $int) -> Self {
                Self(value)
            }
            pub const fn get(self) -> $int {
                self.0
            }
            /// The next one. Panics when the range is used up, which is a programmer error at these widths.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

epoch! {
    /// One reign of a partition's leader. Grows with each election; stamped into every batch that the leader appends.
    LeaderEpoch(i32), none = -1, first = 0
}
epoch! {
    /// The version of a partition's state at the controller; grows with every change of leader, ISR, ELR or replicas.
    PartitionEpoch(i32), none = -1, first = 0
}
epoch! {
    /// One incarnation of a broker, given by the controller at registration (KIP-631).
    BrokerEpoch(i64), none = -1, first = 1
}
epoch! {
    /// One session of a producer id; a newer one fences the older.
    ProducerEpoch(i16), none = -1, first = 0
}
epoch! {
    /// The number of a record within a producer's session and partition.
    Sequence(i32), none = -1, first = 0
}
epoch! {
    /// The version of a group's members and subscriptions; a target assignment is computed for each (KIP-848).
    GroupEpoch(i32), none = -1, first = 0
}
epoch! {
    /// What a member of a group has reached of the group's epochs (KIP-848). [`MemberEpoch::FIRST`] in a request joins.
    MemberEpoch(i32), none = -1, first = 0
}
epoch! {
    /// One round of the classic group protocol; whatever states another is refused.
    Generation(i32), none = -1, first = 0
}

impl MemberEpoch {
    /// In a request: the member leaves.
    pub const LEAVE: Self = Self(-1);
    /// In a request: a static member leaves for a while, and keeps its partitions until its session times out.
    pub const LEAVE_STATIC: Self = Self(-2);
}

/// How many metadata records have been applied: the version of a cluster image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetadataVersion(u64);

impl MetadataVersion {
    /// The empty image.
    pub const ZERO: Self = Self(0);

    pub const fn new(value: u64) -> Self {
        Self(value)
    }
    pub const fn get(self) -> u64 {
        self.0
    }
    #[must_use]
    pub const fn plus(self, records: u64) -> Self {
        Self(self.0 + records)
    }
}

impl fmt::Display for MetadataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for MetadataVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetadataVersion({})", self.0)
    }
}
