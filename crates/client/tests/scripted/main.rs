//! The client against brokers that go wrong as told (`fake`).
// Each test is one future, on the stack of its thread: that it is large is no harm.
#![allow(clippy::unwrap_used, clippy::large_futures)]

mod administration;
mod client;
mod consumer;
mod fake;
mod group;
mod idempotence;
mod producer;
mod transaction;
