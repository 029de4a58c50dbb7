//! One partition's replication as pure state machines: what its leader ([`Leader`]) and a follower ([`Follower`]) decide.
//!
//! No clock, randomness, network or file: time is a `Duration` since any start, positions of the log are arguments,
//! results are effects that the caller carries out under the same lock under which it asked. The rules come from
//! Kafka's replication and its later corrections (KIP-101, 279, 320, 497, 595, 841, 903, 966).
//!
//! **Invariants**
//! - The high watermark never goes beyond what each member of the maximal ISR (committed ∪ proposed) has acknowledged,
//!   and never back.
//! - Only a fetch entry in the leader's current epoch, from the newest incarnation of a follower whose log does not
//!   diverge, is an acknowledgement.
//! - A log is truncated where leader epochs diverge, never by high watermark, and before anything else of an answer.
//! - One ISR proposal at a time; what it could have made of the ISR counts until the metadata says what it did.

mod ack_queue;
mod error;
mod fetch;
mod follower;
mod leader;
mod view;

#[cfg(test)]
mod tests;

pub use ack_queue::{AckOutcome, AckQueue};
pub use error::FetchError;
pub use fetch::{EpochEnd, FetchOutcome, FollowerFetch, last_epoch};
pub use follower::{Asked, Follower, FollowerEffect, FollowerReaction, LeaderError, LeaderResponse};
pub use leader::{
    AliveBrokers, Effects, IsrMember, Leader, LeaderConfig, Proposal, ProposalOutcome, ReplicaProgress,
    isr_error_outcome,
};
pub use view::{LogEnds, PartitionView};
