//! The group coordinator: members and their partitions, and committed offsets.
//!
//! Two protocols, on the same offsets. Of KIP-848: a group has an epoch, which grows with every change of members, subscriptions
//! or topics; for each the coordinator makes a target assignment; members reach it step by step: they give up what is not theirs
//! any more, and are given what nobody has. And the classic one, where a member assigns: see [`classic`]. A group without members
//! is of either kind; one with members changes it while they live: see [`migration`].
//!
//! **Invariants** (P5)
//! - A partition is given to a member only when no other has it or has yet to say that it let go of it.
//! - A commit counts only from who has the partition in its present epoch, or has kept it since an earlier one (T40).
//! - What the group has committed within a transaction is in force once that commits, and not before (T37).
//! - A classic group has classic members only; a group's epoch, which is a classic group's generation, only grows.

mod admin;
mod classic;
mod consumer;
mod error;
mod migration;
mod offsets;
mod reconcile;
mod record;
mod request;
mod shard;
mod state;
#[cfg(test)]
mod tests;
mod timers;

pub use classic::{
    JoinAnswer, JoinRequest, JoinedMember, LeavingMember, LeftMember, Protocol, SyncAnswer, SyncRequest,
};
pub use error::Error;
pub use request::{
    CommittedOffset, DescribedGroup, DescribedMember, GroupConfig, GroupCounts, GroupKind, Heartbeat, HeartbeatAnswer,
    ListedGroup, OffsetCommit, OffsetsInTransaction, OpaqueParts, Request, Response, Unstable,
};
pub use shard::GroupShard;
pub use state::{Subscription, SubscriptionChange};

/// A group asks its driver for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {}
