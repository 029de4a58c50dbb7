//! A broker in one process, over real gRPC, on a simulated disk.

mod connections;
mod fetch;
mod harness;
mod offsets;
mod produce;
mod roles;
mod storage;
mod whole;
