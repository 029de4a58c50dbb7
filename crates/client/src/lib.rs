//! The client of a Highwater cluster: what an application links.
//!
//! - [`Client`] knows the cluster: it follows the metadata stream of any broker that answers.
//! - [`Producer`] sends records, in batches, to the leaders of their partitions; each record's [`Delivery`] resolves to
//!   its place in the log or to an error that says whether the outcome is known.
//! - [`TransactionalProducer`] does so all or nothing, over partitions and with the offsets of what was consumed.
//! - [`Consumer`] reads the partitions assigned to it, fetching ahead, and finds out if the log was truncated.
//! - [`GroupConsumer`] is a member of a group, whose coordinator divides the partitions among the members.
//! - [`Admin`] manages topics, groups, transactions and the cluster.
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
mod ask;
mod backoff;
mod bootstrap;
mod channels;
mod client;
mod consumer;
mod coordinator;
mod error;
mod metadata;
mod offsets;
mod producer;

pub use admin::{
    Admin, ClusterDescription, ControllerDescription, GroupDescription, GroupListing, GroupProtocol,
    HangingTransaction, MemberDescription, NewTopic, PartitionDescription, PartitionLag, ProducerDescription,
    ReplicaProgress, TopicAlteration, TopicConfigEntry, TransactionDescription,
};
pub use bootstrap::NodeAddress;
pub use client::{Client, ClientBuilder};
pub use consumer::{
    Assignor, CommittedOffset, Consumer, ConsumerConfig, ConsumerRecord, GroupCommitter, GroupConfig, GroupConsumer,
    GroupMetadata, NoListener, OffsetReset, OffsetToCommit, Position, RebalanceListener, StartAt, Subscription,
};
pub use error::{
    AdminError, CommitError, ConnectError, ConsumeError, FlushError, InvalidSetting, ProduceError, TransactionError,
};
pub use highwater_record::{Compression, Header};
pub use highwater_types::{
    BrokerId, ControllerId, ErrorCode, IsolationLevel, LeaderEpoch, Offset, Outcome, PartitionId, TimestampMs, TopicId,
    TopicName,
};
pub use metadata::{BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata};
pub use offsets::{OffsetAt, TimestampedOffset};
pub use producer::{
    Acks, Delivery, PartitionNumber, Partitioner, Partitioning, Placement, Producer, ProducerConfig, ProducerRecord,
    RecordMetadata, TopicRef, Transaction, TransactionalConfig, TransactionalProducer,
};
pub use tonic::async_trait;
