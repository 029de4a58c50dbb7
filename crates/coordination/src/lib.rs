//! The coordinators of groups and of transactions, as state machines that are replayed from their records.
//!
//! A coordinator is the leader of a partition of an internal topic (`__consumer_offsets`, `__transaction_state`), and its
//! state is what that partition's records say. A [`Shard`] is that state with its rules; whoever drives it owns the log,
//! the clock and the network.
//!
//! **Invariant: live state equals replayed state.** What outlives the coordinator changes by [`Shard::replay`] alone, live
//! and after a restart alike. What does not (timers, members that wait to be answered) is rebuilt by [`Shard::loaded`].
//!
//! Pure: no clock, no randomness, no I/O.

pub mod assignor;
pub mod group;
mod shard;
mod topics;
pub mod transaction;

pub use shard::{
    CoordinatorRecord, CorruptRecord, Effects, EndMarker, Now, ProducerIdentity, Shard, Token, Write, partition_for_id,
};
pub use topics::{TopicInfo, Topics};
