//! The broker: keeps partitions, replicates them, and serves clients.
//!
//! It holds no decisions: those of replication are `highwater-replication`'s, those about the cluster come from the
//! controllers as images. Here are the partitions that carry them out ([`partition`]), the requests of clients over many
//! partitions ([`produce`], [`fetch`]), pull replication (`replication`), and the front door
//! (`services`, `server`).

mod backoff;
mod clock;
pub mod cluster;
mod config;
mod connections;
pub mod coordinator;
mod core;
mod error;
mod extra;
pub mod fetch;
mod metrics;
pub mod partition;
mod partitions;
pub mod produce;
mod replication;
mod server;
mod services;
mod tasks;
#[cfg(test)]
mod tests;
pub mod transaction;

pub use clock::Clock;
pub use config::{BrokerConfig, Limits};
pub use core::Core;
pub use error::{Fatal, StartError};
pub use extra::{ExtraServices, Surroundings};
pub use metrics::BrokerScrape;
pub use partitions::{LastRun, Partitions};
pub use server::{Broker, BrokerHandle};
