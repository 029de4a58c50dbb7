//! The Kafka front door: a second listener that speaks the Kafka wire protocol, for the clients that there are.
//!
//! It decodes, calls the same methods of the broker as the gRPC services do, and encodes. One file for each API is in
//! `apis`, and one table of them says which versions there are; `layout` checks what strangers send before it is decoded;
//! `connection` keeps requests and answers in order; `error` has the one mapping of error codes.
#![warn(missing_docs)]

mod apis;
mod connection;
mod door;
mod error;
mod frame;
#[allow(missing_docs, dead_code, reason = "a vocabulary, for the layouts of all APIs")]
mod layout;
mod metrics;
mod reply;
mod seldom;

pub use apis::{SUPPORTED, Supported, can_be_read};
pub use door::{KafkaConfig, serve};
pub use frame::read_frames;
