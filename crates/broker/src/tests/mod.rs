//! A broker in one process, over real gRPC, on a simulated disk.

mod connections;
mod fetch;
pub(crate) mod harness;
mod offsets;
mod produce;
mod roles;
mod storage;
mod whole;
