//! The gRPC door: decode, one call of the broker, encode. No decisions are made here.

pub mod admin;
mod admin_cluster;
pub(crate) mod coordinator;
pub(crate) mod data;
pub(crate) mod deadlines;
pub(crate) mod error;
pub(crate) mod fetch_session;
pub(crate) mod gather;
mod local;
pub mod metadata;
pub(crate) mod produce_session;
