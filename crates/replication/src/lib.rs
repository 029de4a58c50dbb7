//! One partition's leader and follower, as pure state machines: events in, effects out.
//!
//! Replication is by pull. A follower asks for records from its log end; that request is also its acknowledgement, the
//! only one there is. The leader moves the high watermark to the least acknowledged offset of the *maximal* ISR, that is
//! of all who are in it or may be once a proposal under way is decided. The owner of a partition calls these machines
//! under its lock and carries out the effects; time is an argument, counted from any fixed start.
//!
//! Invariants:
//! - The high watermark never goes back while a leader leads, and never passes what any member of the maximal ISR has
//!   acknowledged in this leader epoch.
//! - Progress is moved only by a fetch that states the current leader epoch.
//! - At most one ISR proposal is under way, and it names the partition epoch it was made on.

mod ack_queue;
mod follower;
mod leader;
mod progress;
mod view;

pub use ack_queue::{AckOutcome, AckQueue};
pub use follower::{FollowerEffect, LeaderAnswer, on_answer};
pub use leader::{
    Effect, FetchError, FetchOutcome, FollowerFetch, IsrMember, Leader, LeaderConfig, Proposal, ProposalOutcome,
};
pub use progress::ReplicaProgress;
pub use view::{LogEnds, PartitionView};
