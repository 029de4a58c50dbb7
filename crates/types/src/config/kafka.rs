//! Topic configs as Kafka's tools name and write them, and what becomes of each here.
//!
//! What Highwater has under the same or another name is honoured. What it does not have is refused, but for values that say
//! nothing: Kafka's own default, which states no wish, and what Highwater does in any case. Those are taken and not kept.

use std::collections::BTreeMap;

use super::{ConfigError, TOPIC_CONFIG_KEYS, TopicConfig};

/// As Kafka's protocol tells types of configs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigType {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
}

/// What Highwater makes of a config that Kafka knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The config of this name, with values written alike but for what `values` says.
    Honoured { key: &'static str, values: Values },
    /// Not to be chosen: this is what Highwater does, and these values may be given and say nothing.
    Fixed { value: &'static str, accepted: &'static [&'static str], why: &'static str },
}

/// How Kafka's values differ from Highwater's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    Alike,
    /// No bound is the largest number, and not -1.
    LargestIsNone,
    /// `true` is `proactive`, `false` is `none`.
    UncleanElection,
}

/// One config of a topic.
#[derive(Debug, Clone, Copy)]
pub struct KafkaConfigInfo {
    pub key: &'static str,
    pub config_type: ConfigType,
    pub meaning: Meaning,
}

/// Kafka's "no bound".
const LARGEST: &str = "9223372036854775807";

const fn honoured(key: &'static str, config_type: ConfigType) -> KafkaConfigInfo {
    KafkaConfigInfo { key, config_type, meaning: Meaning::Honoured { key, values: Values::Alike } }
}

const fn mapped(key: &'static str, config_type: ConfigType, to: &'static str, values: Values) -> KafkaConfigInfo {
    KafkaConfigInfo { key, config_type, meaning: Meaning::Honoured { key: to, values } }
}

const fn fixed(
    key: &'static str,
    config_type: ConfigType,
    value: &'static str,
    accepted: &'static [&'static str],
    why: &'static str,
) -> KafkaConfigInfo {
    KafkaConfigInfo { key, config_type, meaning: Meaning::Fixed { value, accepted, why } }
}

const FLUSH: &str = "when records are synced is said by durability: sync or replicated";
const TIERED: &str = "there is no tiered storage";
const THROTTLE: &str = "replication is not throttled by topic";
const COMPRESSED: &str = "batches are kept as the producer compressed them";
const ANY_TIME: &str = "a record's timestamp may be any";

/// Every config of a topic as the Kafka door takes and tells it, by name.
pub const KAFKA_TOPIC_CONFIGS: &[KafkaConfigInfo] = &[
    honoured("cleanup.policy", ConfigType::List),
    fixed("compression.gzip.level", ConfigType::Int, "-1", &["-1"], COMPRESSED),
    fixed("compression.lz4.level", ConfigType::Int, "9", &["9"], COMPRESSED),
    fixed("compression.type", ConfigType::String, "producer", &["producer"], COMPRESSED),
    fixed("compression.zstd.level", ConfigType::Int, "3", &["3"], COMPRESSED),
    honoured("delete.retention.ms", ConfigType::Long),
    honoured("durability", ConfigType::String),
    fixed(
        "file.delete.delay.ms",
        ConfigType::Long,
        "0",
        &["0", "60000"],
        "files are removed as soon as nobody reads them",
    ),
    fixed("flush.messages", ConfigType::Long, LARGEST, &[LARGEST], FLUSH),
    fixed("flush.ms", ConfigType::Long, LARGEST, &[LARGEST], FLUSH),
    fixed("follower.replication.throttled.replicas", ConfigType::List, "", &[""], THROTTLE),
    honoured("index.interval.bytes", ConfigType::Int),
    fixed("leader.replication.throttled.replicas", ConfigType::List, "", &[""], THROTTLE),
    fixed("local.retention.bytes", ConfigType::Long, "-2", &["-2"], TIERED),
    fixed("local.retention.ms", ConfigType::Long, "-2", &["-2"], TIERED),
    mapped("max.compaction.lag.ms", ConfigType::Long, "max.compaction.lag.ms", Values::LargestIsNone),
    honoured("max.message.bytes", ConfigType::Int),
    fixed("message.timestamp.after.max.ms", ConfigType::Long, LARGEST, &[LARGEST], ANY_TIME),
    fixed("message.timestamp.before.max.ms", ConfigType::Long, LARGEST, &[LARGEST], ANY_TIME),
    honoured("message.timestamp.type", ConfigType::String),
    honoured("min.cleanable.dirty.ratio", ConfigType::Double),
    honoured("min.compaction.lag.ms", ConfigType::Long),
    honoured("min.insync.replicas", ConfigType::Int),
    fixed("preallocate", ConfigType::Boolean, "true", &["true", "false"], "segment files are preallocated"),
    fixed("remote.storage.enable", ConfigType::Boolean, "false", &["false"], TIERED),
    honoured("retention.bytes", ConfigType::Long),
    honoured("retention.ms", ConfigType::Long),
    honoured("segment.bytes", ConfigType::Int),
    fixed(
        "segment.index.bytes",
        ConfigType::Int,
        "10485760",
        &["10485760"],
        "an index has the size that its segment and index.interval.bytes give it",
    ),
    fixed(
        "segment.jitter.ms",
        ConfigType::Long,
        "0",
        &["0"],
        "segments are rolled by segment.ms and segment.bytes alone",
    ),
    honoured("segment.ms", ConfigType::Long),
    honoured("unclean.leader.election", ConfigType::String),
    mapped("unclean.leader.election.enable", ConfigType::Boolean, "unclean.leader.election", Values::UncleanElection),
];

/// Why a config that a Kafka client gave is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaConfigError {
    #[error("there is no topic config {key:?}; known are {}", known_keys())]
    UnknownKey { key: String },
    #[error("topic config {key} can't be {value:?}, only {}: {why}", accepted.join(" or "))]
    NotChangeable { key: &'static str, value: String, accepted: &'static [&'static str], why: &'static str },
    #[error("topic configs {one} and {other} say the same thing, and only one of them can be given")]
    Twice { one: String, other: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn known_keys() -> String {
    KAFKA_TOPIC_CONFIGS.iter().map(|info| info.key).collect::<Vec<_>>().join(", ")
}

/// The row of this name.
pub fn kafka_topic_config(key: &str) -> Result<&'static KafkaConfigInfo, KafkaConfigError> {
    let found = KAFKA_TOPIC_CONFIGS.iter().find(|info| info.key == key);
    found.ok_or_else(|| KafkaConfigError::UnknownKey { key: key.to_owned() })
}

/// What a Kafka client sets, as Highwater's own keys and values, all of them checked. What says nothing is left out.
pub fn topic_configs_from_kafka<'a>(
    set: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<String, String>, KafkaConfigError> {
    let mut configs: BTreeMap<String, String> = BTreeMap::new();
    let mut given: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, value) in set {
        match kafka_topic_config(key)?.meaning {
            Meaning::Fixed { accepted, .. } if accepted.contains(&value) => {}
            Meaning::Fixed { accepted, why, .. } => {
                let info = kafka_topic_config(key)?;
                return Err(KafkaConfigError::NotChangeable { key: info.key, value: value.to_owned(), accepted, why });
            }
            Meaning::Honoured { key: native, values } => {
                let value = values.to_native(value)?;
                if let (Some(other), Some(before)) = (given.insert(native, key), configs.get(native)) {
                    // Who copies all configs of a topic gives both names of one.
                    let alike = |of: Values| of.to_kafka(before) == of.to_kafka(&value);
                    if !alike(Values::UncleanElection) && before != &value {
                        return Err(KafkaConfigError::Twice { one: other.to_owned(), other: key.to_owned() });
                    }
                    if values != Values::Alike {
                        continue;
                    }
                }
                configs.insert(native.to_owned(), value);
            }
        }
    }
    TopicConfig::from_overrides(&configs)?;
    Ok(configs)
}

/// Which of Highwater's own keys goes back to its default when a Kafka client deletes `key`; `None`: it is never set.
pub fn topic_config_unset_by_kafka(key: &str) -> Result<Option<&'static str>, KafkaConfigError> {
    Ok(match kafka_topic_config(key)?.meaning {
        Meaning::Honoured { key, .. } => Some(key),
        Meaning::Fixed { .. } => None,
    })
}

/// A config as it is told to Kafka clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConfig {
    pub key: &'static str,
    pub value: String,
    pub default: String,
    /// Set on the topic; otherwise the value is the default.
    pub overridden: bool,
    pub config_type: ConfigType,
    /// Highwater does this, and nothing else.
    pub read_only: bool,
    pub documentation: &'static str,
}

/// All configs of a topic whose own are `overrides`.
pub fn describe_topic_configs(overrides: &BTreeMap<String, String>) -> Vec<DescribedConfig> {
    let one = |info: &KafkaConfigInfo| match info.meaning {
        Meaning::Fixed { value, why, .. } => DescribedConfig {
            key: info.key,
            value: value.to_owned(),
            default: value.to_owned(),
            overridden: false,
            config_type: info.config_type,
            read_only: true,
            documentation: why,
        },
        Meaning::Honoured { key, values } => {
            let native = TOPIC_CONFIG_KEYS.iter().find(|native| native.key == key);
            let (default, documentation) = native.map_or(("", ""), |native| (native.default, native.help));
            let set = overrides.get(key);
            DescribedConfig {
                key: info.key,
                value: values.to_kafka(set.map_or(default, String::as_str)),
                default: values.to_kafka(default),
                overridden: set.is_some(),
                config_type: info.config_type,
                read_only: false,
                documentation,
            }
        }
    };
    KAFKA_TOPIC_CONFIGS.iter().map(one).collect()
}

/// Whether this is one of Highwater's own keys, and its value a list.
pub fn topic_config_is_list(key: &str) -> bool {
    let is_it = |info: &KafkaConfigInfo| {
        info.config_type == ConfigType::List && matches!(info.meaning, Meaning::Honoured { key: it, .. } if it == key)
    };
    KAFKA_TOPIC_CONFIGS.iter().any(is_it)
}

/// A list config with `items` added to or taken from it, each once and in order.
pub fn changed_list(current: &str, items: &str, add: bool) -> String {
    let split = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let (mut list, items) = (split(current), split(items));
    list.retain(|item| add || !items.contains(item));
    if add {
        for item in items {
            if !list.contains(&item) {
                list.push(item);
            }
        }
    }
    list.join(",")
}

impl Values {
    fn to_native(self, value: &str) -> Result<String, KafkaConfigError> {
        Ok(match (self, value) {
            (Self::LargestIsNone, LARGEST) => "-1".to_owned(),
            (Self::UncleanElection, "true") => "proactive".to_owned(),
            (Self::UncleanElection, "false") => "none".to_owned(),
            (Self::UncleanElection, _) => {
                let (key, allowed) = ("unclean.leader.election.enable", "true or false");
                return Err(ConfigError::BadValue { key, value: value.to_owned(), allowed }.into());
            }
            (Self::Alike | Self::LargestIsNone, value) => value.to_owned(),
        })
    }

    fn to_kafka(self, value: &str) -> String {
        match (self, value) {
            (Self::LargestIsNone, "-1") => LARGEST,
            (Self::UncleanElection, "none") => "false",
            (Self::UncleanElection, _) => "true",
            (Self::Alike | Self::LargestIsNone, value) => value,
        }
        .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(overrides: &[(&str, &str)], key: &str) -> DescribedConfig {
        let overrides = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        describe_topic_configs(&overrides).into_iter().find(|config| config.key == key).unwrap()
    }

    fn from_kafka(set: &[(&str, &str)]) -> Result<Vec<(String, String)>, KafkaConfigError> {
        topic_configs_from_kafka(set.iter().copied()).map(|configs| configs.into_iter().collect())
    }

    #[test]
    fn every_config_of_ours_has_its_row_and_rows_are_in_order() {
        for native in TOPIC_CONFIG_KEYS {
            assert!(kafka_topic_config(native.key).is_ok(), "{}", native.key);
        }
        assert!(KAFKA_TOPIC_CONFIGS.is_sorted_by(|one, next| one.key < next.key));
        for info in KAFKA_TOPIC_CONFIGS {
            match info.meaning {
                Meaning::Honoured { key, .. } => assert!(TOPIC_CONFIG_KEYS.iter().any(|native| native.key == key)),
                Meaning::Fixed { value, accepted, .. } => assert!(accepted.contains(&value), "{}", info.key),
            }
        }
    }

    /// Tools read all configs of one topic and set them on another.
    #[test]
    fn what_is_told_is_taken() {
        for election in ["none", "balanced", "proactive"] {
            let own = BTreeMap::from([("unclean.leader.election".to_owned(), election.to_owned())]);
            let told = describe_topic_configs(&own);
            let set: Vec<_> = told.iter().map(|config| (config.key, config.value.as_str())).collect();
            for set in [set.clone(), set.into_iter().rev().collect()] {
                let taken = topic_configs_from_kafka(set).unwrap();
                assert_eq!(TopicConfig::from_overrides(&taken), TopicConfig::from_overrides(&own));
            }
        }
    }

    #[test]
    fn the_page_of_the_documentation_has_every_row() {
        let page = include_str!("../../../../docs/topic-configs.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), KAFKA_TOPIC_CONFIGS.len());
        for (row, info) in rows.iter().zip(KAFKA_TOPIC_CONFIGS) {
            let expected = match info.meaning {
                Meaning::Honoured { .. } => format!("| `{}` | honoured |", info.key),
                Meaning::Fixed { accepted, why, .. } => {
                    let told = |value: &&str| if value.is_empty() { "empty".to_owned() } else { format!("`{value}`") };
                    let accepted: Vec<String> = accepted.iter().map(told).collect();
                    format!("| `{}` | fixed | {} | {why} |", info.key, accepted.join(" or "))
                }
            };
            assert!(row.starts_with(&expected), "{row} is not {expected}");
        }
    }

    #[test]
    fn values_are_translated_both_ways() {
        let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        assert_eq!(
            from_kafka(&[("unclean.leader.election.enable", "true")]),
            Ok(pair("unclean.leader.election", "proactive"))
        );
        assert_eq!(
            described(&[("unclean.leader.election", "balanced")], "unclean.leader.election.enable").value,
            "true"
        );
        assert_eq!(described(&[], "unclean.leader.election.enable").value, "false");
        assert_eq!(from_kafka(&[("max.compaction.lag.ms", LARGEST)]), Ok(pair("max.compaction.lag.ms", "-1")));
        assert_eq!(described(&[], "max.compaction.lag.ms").value, LARGEST);
        let set = described(&[("retention.ms", "5")], "retention.ms");
        assert_eq!((set.value.as_str(), set.overridden, set.default.as_str()), ("5", true, "604800000"));
        assert_eq!(topic_config_unset_by_kafka("unclean.leader.election.enable"), Ok(Some("unclean.leader.election")));
        assert_eq!(topic_config_unset_by_kafka("compression.type"), Ok(None));
    }

    #[test]
    fn what_highwater_does_not_do_is_refused_and_what_says_nothing_is_not_kept() {
        assert_eq!(from_kafka(&[("compression.type", "producer"), ("flush.ms", LARGEST)]), Ok(vec![]));
        let error = from_kafka(&[("compression.type", "zstd")]).unwrap_err().to_string();
        assert!(error.contains("compression.type can't be \"zstd\", only producer"), "{error}");
        let error = from_kafka(&[("flush.messages", "1")]).unwrap_err().to_string();
        assert!(error.contains("durability"), "{error}");
        assert!(matches!(from_kafka(&[("no.such", "1")]), Err(KafkaConfigError::UnknownKey { .. })));
        assert!(matches!(from_kafka(&[("retention.ms", "soon")]), Err(KafkaConfigError::Config(_))));
        assert!(matches!(from_kafka(&[("unclean.leader.election.enable", "maybe")]), Err(KafkaConfigError::Config(_))));
        let twice = [("unclean.leader.election.enable", "true"), ("unclean.leader.election", "none")];
        assert!(matches!(from_kafka(&twice), Err(KafkaConfigError::Twice { .. })));
    }

    #[test]
    fn lists_are_added_to_and_taken_from() {
        assert_eq!(changed_list("delete", "compact", true), "delete,compact");
        assert_eq!(changed_list("compact,delete", "delete", true), "compact,delete");
        assert_eq!(changed_list("compact, delete", "delete", false), "compact");
        assert_eq!(changed_list("", "compact", true), "compact");
    }
}
