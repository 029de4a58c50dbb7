//! The rules of the metadata, from commands to records. TRAPS lines are named by number.
#![allow(clippy::unwrap_used)]

mod brokers;
mod cluster;
mod doubt;
mod invariants;
mod partitions;
mod placement;
