//! What the cluster is, and every decision about it.
//!
//! A [`Command`] asks for a change; [`decide`] turns it, given the [`ClusterImage`] it is decided on, into
//! [`Record`]s and a response; replaying the records on the image is the change. Controllers commit the records through
//! Raft, brokers receive them as deltas, and all of them replay with the same code, so that everybody who has reached a
//! version has the same image.
//!
//! Invariants of an image (held by `tests/rules/invariants.rs` under random commands):
//! - a partition has a leader exactly if its ISR is not empty; the leader is in the ISR, the ISR within the replicas;
//! - every ISR member is unfenced; a fenced broker leads nothing;
//! - ISR and ELR are disjoint; the ELR is empty while the ISR has `min.insync.replicas` members or more;
//! - the last copy never leaves ISR ∪ ELR unseen: what leaves them both stays named in `last_known_elr`;
//! - an unclean election comes by the topic's policy, because it was asked for since there was a leader, or where all who
//!   had the committed records and still have their storage are in doubt;
//! - a replica in doubt leads by such an election only, or by joining the ISR first (T43);
//! - leader epochs, partition epochs, broker epochs and the version only grow.
//!
//! Pure: no clock, no randomness (a seed is an argument), no I/O.

mod changes;
mod command;
mod decide;
mod election;
mod error;
mod image;
mod placement;
mod record;

pub use changes::Changes;
pub use command::{
    AlterPartition, AlteredPartition, Command, CommandResponse, Election, ElectionOutcome, IsrMember, ListChange,
    PartitionLogEnd, Registration,
};
pub use decide::{Decision, PARTITIONS_PER_TOPIC_MAX, REPLICATION_FACTOR_MAX, decide};
pub use error::{CommandError, Ineligible};
pub use image::{
    BrokerEpochCounter, BrokerState, ClusterImage, ControllerState, Endpoint, JsonError, NamedEndpoint, PartitionState,
    ProducerIdCounter, ReplicaLogEnd, TopicState, UncleanReport,
};
pub use placement::{PlacementBroker, place};
pub use record::{Record, ReplayError};
