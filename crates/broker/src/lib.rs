//! The broker: keeps partitions, replicates them, and serves clients.
//!
//! It holds no decisions: those of replication are `highwater-replication`'s, those about the cluster come from the
//! controllers as images. Here are the partitions that carry them out ([`partition`]), the requests of clients over many
//! partitions ([`produce`], [`fetch`]), pull replication (`replication`), and the front door
//! (`services`, `server`).

mod api;
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

pub use api::BrokerApi;
pub use clock::Clock;
pub use config::{BrokerConfig, Limits, ListenerConfig};
pub use connections::GuardedIo;
pub use core::{Budget, Core};
pub use error::{Fatal, StartError};
pub use extra::{DoorListener, ExtraServices, Surroundings};
pub use metrics::{Api, BrokerMetrics, BrokerScrape, DoorScrape};
pub use partitions::{LastRun, Partitions};
pub use server::{Broker, BrokerHandle};
pub use services::deadlines::Deadlines;
