//! The client against brokers that go wrong as told (`fake`).
#![allow(clippy::unwrap_used)]

mod administration;
mod client;
mod consumer;
mod fake;
mod group;
mod idempotence;
mod producer;
mod transaction;
