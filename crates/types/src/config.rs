//! Topic configuration: keys, values, defaults and their checks, in one table.

pub(crate) mod kafka;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mutation::{self, Mutation};

/// When a replica counts an offset as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Once it is on its disk: the high watermark means "fsynced on every in-sync replica".
    #[default]
    Sync,
    /// Once it is in its page cache, as Kafka's default.
    Replicated,
}

/// Whether a partition with no eligible leader may be led by a replica that lacks acknowledged records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UncleanElection {
    /// Never: stay offline until an eligible replica returns.
    #[default]
    None,
    /// Once every last-known eligible replica has had the chance to return: choose by (leader epoch, LEO).
    Balanced,
    /// At once, among the replicas that are there: choose by (leader epoch, LEO).
    Proactive,
}

/// Whose clock a record's timestamp is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TimestampType {
    #[default]
    CreateTime,
    LogAppendTime,
}

/// What becomes of old records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum CleanupPolicy {
    /// They go by age and size.
    #[default]
    Delete,
    /// They go once their key has a newer value.
    Compact,
    CompactAndDelete,
}

impl CleanupPolicy {
    pub const fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }
    pub const fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }
}

/// The effective configuration of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    pub durability: Durability,
    /// How many replicas must be in sync for `acks=all`; its effect is bounded by the replication factor.
    pub min_insync_replicas: u32,
    /// Age at which a segment may go, in milliseconds; `None`: never.
    pub retention_ms: Option<u64>,
    /// Size of a partition above which its oldest segments go, in bytes; `None`: no bound.
    pub retention_bytes: Option<u64>,
    pub cleanup_policy: CleanupPolicy,
    /// How long a reader of a compacted topic has to see that a key was deleted, in milliseconds.
    pub delete_retention_ms: u64,
    /// Age below which records are not compacted, in milliseconds.
    pub compaction_lag_ms_min: u64,
    /// Age above which records are compacted whatever the ratio, in milliseconds; `None`: no bound.
    pub compaction_lag_ms_max: Option<u64>,
    /// Part of a log, in millionths, that must be dirty for it to be compacted.
    pub dirty_millionths_min: u32,
    pub segment_bytes: u64,
    pub segment_ms: u64,
    /// Largest record batch accepted, in bytes, compressed as it is.
    pub max_message_bytes: u32,
    pub index_interval_bytes: u32,
    pub timestamp_type: TimestampType,
    pub unclean_election: UncleanElection,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            min_insync_replicas: 2,
            retention_ms: Some(7 * 24 * 3600 * 1000),
            retention_bytes: None,
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: 24 * 3600 * 1000,
            compaction_lag_ms_min: 0,
            compaction_lag_ms_max: None,
            dirty_millionths_min: 500_000,
            segment_bytes: 256 << 20,
            segment_ms: 7 * 24 * 3600 * 1000,
            max_message_bytes: 1 << 20,
            index_interval_bytes: 16 << 10,
            timestamp_type: TimestampType::CreateTime,
            unclean_election: match mutation::is_on(Mutation::UncleanUnasked) {
                true => UncleanElection::Proactive,
                false => UncleanElection::None,
            },
        }
    }
}

/// One row of the configuration table.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKeyInfo {
    pub key: &'static str,
    pub default: &'static str,
    pub allowed: &'static str,
    pub help: &'static str,
}

/// Why a topic configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no topic config {key:?}; known are {known}", known = TopicConfig::known_keys())]
    UnknownKey { key: String },
    #[error("topic config {key}={value:?} is not allowed: {allowed}")]
    BadValue { key: &'static str, value: String, allowed: &'static str },
}

macro_rules! topic_config_keys {
    ($($key:literal, $default:literal, $allowed:literal, $help:literal;)*) => {
        /// Every topic configuration key, with its default, what is allowed, and what it does.
        pub const TOPIC_CONFIG_KEYS: &[ConfigKeyInfo] = &[
            $(ConfigKeyInfo { key: $key, default: $default, allowed: $allowed, help: $help },)*
        ];
    };
}

topic_config_keys! {
    "durability", "sync", "sync or replicated",
        "sync: a replica counts a record once it is fsynced; replicated: once it is in its page cache";
    "min.insync.replicas", "2", "a whole number from 1 to 32",
        "replicas that must be in sync for acks=all; never more than the replication factor takes effect";
    "retention.ms", "604800000", "-1 (for ever) or a whole number of milliseconds",
        "segments whose newest record is older than this are deleted";
    "retention.bytes", "-1", "-1 (no bound) or a whole number of bytes",
        "the oldest segments of a partition are deleted while it is larger than this";
    "cleanup.policy", "delete", "delete, compact or compact,delete",
        "delete: old segments go by age and size; compact: a record goes once its key has a newer value";
    "delete.retention.ms", "86400000", "a whole number of milliseconds",
        "how long a compacted topic keeps the tombstone of a key that was deleted, for readers to see it";
    "min.compaction.lag.ms", "0", "a whole number of milliseconds",
        "records younger than this are not compacted";
    "max.compaction.lag.ms", "-1", "-1 (no bound) or a whole number of milliseconds from 1",
        "records older than this are compacted whatever min.cleanable.dirty.ratio says";
    "min.cleanable.dirty.ratio", "0.5", "a number from 0 to 1",
        "part of a compacted log that must have come since it was last compacted, for it to be compacted again";
    "segment.bytes", "268435456", "a whole number of bytes from 1024 to 2147483647",
        "a new segment file is started when the current one would become larger than this";
    "segment.ms", "604800000", "a whole number of milliseconds from 1",
        "a new segment file is started when the current one is older than this";
    "max.message.bytes", "1048576", "a whole number of bytes from 1024 to 67108864",
        "largest record batch accepted, as it is sent (compressed)";
    "index.interval.bytes", "16384", "a whole number of bytes from 1024 to 16777216",
        "one entry of the offset and time index for about so many bytes of log";
    "message.timestamp.type", "CreateTime", "CreateTime or LogAppendTime",
        "whether a record keeps the producer's timestamp or gets the leader's at append";
    "unclean.leader.election", "none", "none, balanced or proactive",
        "whether a replica without all acknowledged records may lead when no other can: never; after the others had \
         their chance; at once";
}

impl TopicConfig {
    /// The effective configuration: defaults, and `overrides` over them. Fails on the first wrong entry.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for (key, value) in overrides {
            config.set(key, value)?;
        }
        Ok(config)
    }

    /// `min.insync.replicas`, bounded by the replication factor (TRAPS T15).
    pub fn min_insync_effective(&self, replication_factor: usize) -> usize {
        (self.min_insync_replicas as usize).min(replication_factor).max(1)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let Some(info) = TOPIC_CONFIG_KEYS.iter().find(|info| info.key == key) else {
            return Err(ConfigError::UnknownKey { key: key.to_owned() });
        };
        let bad = || ConfigError::BadValue { key: info.key, value: value.to_owned(), allowed: info.allowed };
        let number = |min: u64, max: u64| value.parse::<u64>().ok().filter(|n| (min..=max).contains(n)).ok_or_else(bad);
        let optional = || if value == "-1" { Ok(None) } else { number(0, i64::MAX as u64).map(Some) };
        match key {
            "durability" => {
                self.durability = match value {
                    "sync" => Durability::Sync,
                    "replicated" => Durability::Replicated,
                    _ => return Err(bad()),
                }
            }
            "min.insync.replicas" => self.min_insync_replicas = number(1, 32)? as u32,
            "retention.ms" => self.retention_ms = optional()?,
            "retention.bytes" => self.retention_bytes = optional()?,
            "cleanup.policy" => {
                self.cleanup_policy = match value {
                    "delete" => CleanupPolicy::Delete,
                    "compact" => CleanupPolicy::Compact,
                    "compact,delete" | "delete,compact" => CleanupPolicy::CompactAndDelete,
                    _ => return Err(bad()),
                }
            }
            "delete.retention.ms" => self.delete_retention_ms = number(0, i64::MAX as u64)?,
            "min.compaction.lag.ms" => self.compaction_lag_ms_min = number(0, i64::MAX as u64)?,
            "max.compaction.lag.ms" => {
                self.compaction_lag_ms_max = if value == "-1" { None } else { Some(number(1, i64::MAX as u64)?) };
            }
            "min.cleanable.dirty.ratio" => {
                let ratio = value.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(bad)?;
                self.dirty_millionths_min = (ratio * 1e6).round() as u32;
            }
            "segment.bytes" => self.segment_bytes = number(1024, i32::MAX as u64)?,
            "segment.ms" => self.segment_ms = number(1, i64::MAX as u64)?,
            "max.message.bytes" => self.max_message_bytes = number(1024, 64 << 20)? as u32,
            "index.interval.bytes" => self.index_interval_bytes = number(1024, 16 << 20)? as u32,
            "message.timestamp.type" => {
                self.timestamp_type = match value {
                    "CreateTime" => TimestampType::CreateTime,
                    "LogAppendTime" => TimestampType::LogAppendTime,
                    _ => return Err(bad()),
                }
            }
            "unclean.leader.election" => {
                self.unclean_election = match value {
                    "none" => UncleanElection::None,
                    "balanced" => UncleanElection::Balanced,
                    "proactive" => UncleanElection::Proactive,
                    _ => return Err(bad()),
                }
            }
            _ => return Err(ConfigError::UnknownKey { key: key.to_owned() }),
        }
        Ok(())
    }

    /// Age at which a segment is rolled: early enough for `max.compaction.lag.ms`.
    pub fn segment_ms_effective(&self) -> u64 {
        let lag = self.compaction_lag_ms_max.filter(|_| self.cleanup_policy.compacts());
        self.segment_ms.min(lag.unwrap_or(u64::MAX))
    }

    fn known_keys() -> String {
        TOPIC_CONFIG_KEYS.iter().map(|info| info.key).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str) -> Result<TopicConfig, ConfigError> {
        TopicConfig::from_overrides(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn the_table_states_the_real_defaults() {
        let stated = TOPIC_CONFIG_KEYS.iter().map(|i| (i.key.to_owned(), i.default.to_owned())).collect();
        assert_eq!(TopicConfig::from_overrides(&stated).unwrap(), TopicConfig::default());
    }

    #[test]
    fn refuses_unknown_keys_and_bad_values_by_name() {
        assert!(one("retention", "1").unwrap_err().to_string().contains("retention.ms"));
        for info in TOPIC_CONFIG_KEYS {
            let error = one(info.key, "nonsense").unwrap_err().to_string();
            assert!(error.contains(info.key) && error.contains(info.allowed), "{error}");
        }
        assert!(one("segment.bytes", "1023").is_err());
    }

    #[test]
    fn cleanup_is_by_key_or_by_age_or_both() {
        assert!(one("cleanup.policy", "compact").unwrap().cleanup_policy == CleanupPolicy::Compact);
        for both in ["compact,delete", "delete,compact"] {
            let policy = one("cleanup.policy", both).unwrap().cleanup_policy;
            assert!(policy.compacts() && policy.deletes());
        }
        assert_eq!(one("min.cleanable.dirty.ratio", "0.25").unwrap().dirty_millionths_min, 250_000);
        for bad in ["1.01", "-0.1", "NaN", ""] {
            assert!(one("min.cleanable.dirty.ratio", bad).is_err());
        }
        assert!(one("max.compaction.lag.ms", "0").is_err());
        let keys = [("cleanup.policy", "compact"), ("max.compaction.lag.ms", "5000")];
        let set = |keys: &[(&str, &str)]| {
            let overrides = keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            TopicConfig::from_overrides(&overrides).unwrap().segment_ms_effective()
        };
        assert_eq!((set(&keys), set(&keys[1..])), (5000, TopicConfig::default().segment_ms));
    }

    #[test]
    fn t15_min_insync_is_bounded_by_the_replication_factor() {
        let config = one("min.insync.replicas", "3").unwrap();
        assert_eq!(config.min_insync_effective(2), 2);
        assert_eq!(config.min_insync_effective(5), 3);
    }
}
