//! Ids, positions, names, error codes and configuration keys: the vocabulary of Highwater.
//!
//! Pure: no clock, no randomness, no I/O. Every id and position is a newtype, so that an offset can't be passed
//! where an epoch is meant.

mod config;
mod epoch;
mod error;
mod group;
mod id;
pub mod mutation;
mod name;
mod offset;

pub use config::kafka::{
    ConfigType, DescribedConfig, KAFKA_TOPIC_CONFIGS, KafkaConfigError, KafkaConfigInfo, Meaning, Values, changed_list,
    describe_topic_configs, kafka_topic_config, topic_config_is_list, topic_config_unset_by_kafka,
    topic_configs_from_kafka,
};
pub use config::{
    CleanupPolicy, ConfigError, ConfigKeyInfo, Durability, TOPIC_CONFIG_KEYS, TimestampType, TopicConfig,
    UncleanElection,
};
pub use epoch::{
    BrokerEpoch, Generation, GroupEpoch, LeaderEpoch, MemberEpoch, MetadataVersion, PartitionEpoch, ProducerEpoch,
    Sequence,
};
pub use error::{ErrorCode, Outcome};
pub use group::{GroupId, InstanceId, IsolationLevel, MemberId, TEXT_ID_BYTES_MAX, TextIdError, TransactionalId};
pub use id::{BrokerId, ControllerId, IncarnationId, PartitionId, ProducerId, TopicId, TopicPartition};
pub use name::{GROUPS_TOPIC, NameError, TRANSACTIONS_TOPIC, TopicName, is_internal_topic};
pub use offset::{Offset, TimestampMs};
