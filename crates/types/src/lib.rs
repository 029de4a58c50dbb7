//! Ids, positions, names, error codes and configuration keys: the vocabulary of Highwater.
//!
//! Pure: no clock, no randomness, no I/O. Every id and position is a newtype, so that an offset can't be passed
//! where an epoch is meant.

mod config;
mod epoch;
mod error;
mod id;
mod name;
mod offset;

pub use config::{
    ConfigError, ConfigKeyInfo, Durability, TOPIC_CONFIG_KEYS, TimestampType, TopicConfig, UncleanElection,
};
pub use epoch::{BrokerEpoch, LeaderEpoch, MetadataVersion, PartitionEpoch, ProducerEpoch, Sequence};
pub use error::{ErrorCode, Outcome};
pub use id::{BrokerId, ControllerId, IncarnationId, PartitionId, ProducerId, TopicId, TopicPartition};
pub use name::{NameError, TopicName};
pub use offset::{Offset, TimestampMs};
