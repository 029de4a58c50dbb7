//! A broker in one process, over real gRPC, on a simulated disk.

mod classic;
mod connections;
mod coordinator;
mod fetch;
mod follower_reads;
pub(crate) mod harness;
mod metrics;
mod offsets;
mod produce;
mod producers;
mod roles;
mod storage;
mod transactions;
mod whole;
