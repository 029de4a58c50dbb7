//! Transactions outside of their coordinator's state: the markers that end them, and the check before the first append.
//!
//! [`driver`] is the coordinator's end of the second phase: it has the markers written by the leaders of the partitions, for as
//! long as that takes; `complete` hands it what the coordinators here decide. [`markers`] is how leaders are asked for them.
//! [`verify`] is a leader's question to the coordinator before it takes the first records of a transaction.

pub(crate) mod complete;
pub mod driver;
pub mod markers;
pub mod verify;
