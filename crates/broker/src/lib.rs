//! The broker: partitions, replication, purgatory and the services that clients call.

pub mod cluster;
pub mod services;
