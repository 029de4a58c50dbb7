//! The controllers: a Raft quorum that keeps the cluster's metadata, and the active one among them that decides.
//!
//! Decisions are the pure code of `highwater-metadata`; here are consensus ([`openraft`] over gRPC), storage
//! ([`MetaStore`]), the liveness of brokers, and the services.
//!
//! **Invariant**: vote and log entries are on disk, in order, before Raft answers (TRAPS T45).
//! **Invariant**: the state machine only replays records; what was decided on an older version changes nothing.

mod active;
mod config;
mod controller;
mod error;
mod membership;
mod raft;
mod scrape;
mod services;
mod store;

pub use config::ControllerConfig;
pub use controller::{Controller, ControllerHandle, RaftPosition};
pub use error::StartError;
pub use scrape::ControllerScrape;
pub use store::{MemStore, MetaKey, MetaOp, MetaStore, SledStore, StoreError, Stored};
