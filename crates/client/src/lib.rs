//! The client of a Highwater cluster: what an application links.
//!
//! - [`Client`] knows the cluster: it follows the metadata stream of any broker that answers.
//! - [`Producer`] sends records, in batches, to the leaders of their partitions; each record's [`Delivery`] resolves to
//!   its place in the log or to an error that says whether the outcome is known.
//! - [`Consumer`] reads the partitions assigned to it, fetching ahead, and finds out if the log was truncated.
//! - [`Admin`] manages topics and the cluster.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use highwater_client::{Client, ProducerConfig, ProducerRecord};
//!
//! let client = Client::connect("127.0.0.1:9092").await?;
//! let producer = client.producer(ProducerConfig::default())?;
//! let delivery = producer.send(ProducerRecord::new("orders").key("k").value("v")).await?;
//! println!("at {:?}", delivery.await?.offset);
//! # Ok(()) }
//! ```
//!
//! Network, clock and randomness come through `highwater_seams`, so that clients also run inside the simulation.
#![warn(missing_docs)]

mod admin;
mod backoff;
mod bootstrap;
mod channels;
mod client;
mod consumer;
mod error;
mod metadata;
mod offsets;
mod producer;

pub use admin::{
    Admin, ClusterDescription, ControllerDescription, NewTopic, PartitionDescription, ReplicaProgress, TopicAlteration,
    TopicConfigEntry,
};
pub use bootstrap::NodeAddress;
pub use client::{Client, ClientBuilder};
pub use consumer::{Consumer, ConsumerConfig, ConsumerRecord, OffsetReset, Position, StartAt};
pub use error::{AdminError, ConnectError, ConsumeError, FlushError, InvalidSetting, ProduceError};
pub use highwater_record::{Compression, Header};
pub use highwater_types::{
    BrokerId, ControllerId, ErrorCode, LeaderEpoch, Offset, Outcome, PartitionId, TimestampMs, TopicId, TopicName,
};
pub use metadata::{BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata};
pub use offsets::{OffsetAt, TimestampedOffset};
pub use producer::{
    Acks, Delivery, PartitionNumber, Partitioner, Partitioning, Placement, Producer, ProducerConfig, ProducerRecord,
    RecordMetadata, TopicRef,
};
