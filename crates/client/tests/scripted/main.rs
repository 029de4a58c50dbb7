//! The client against brokers that go wrong as told (`fake`).
#![allow(clippy::unwrap_used)]

mod client;
mod consumer;
mod fake;
mod producer;
