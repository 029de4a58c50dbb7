//! Configs of topics, to see and to change, and of brokers, to see.

mod alter;
mod broker;
mod describe;

use highwater_metadata::ClusterImage;
use highwater_types::{ConfigType, DescribedConfig};
use kafka_protocol::error::ResponseError;

pub(super) use alter::{AlterConfigs, IncrementalAlterConfigs};
pub(super) use describe::DescribeConfigs;

use super::refusal::Refusal;

/// Kinds of things that have configs.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a value comes from.
const SET_ON_TOPIC: i8 = 1;
const FILE_OF_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

/// Where the value of a topic's config comes from.
pub(super) const fn source(config: &DescribedConfig) -> i8 {
    if config.overridden { SET_ON_TOPIC } else { DEFAULT }
}

const fn type_code(config_type: ConfigType) -> i8 {
    match config_type {
        ConfigType::Boolean => 1,
        ConfigType::String => 2,
        ConfigType::Int => 3,
        ConfigType::Long => 5,
        ConfigType::Double => 6,
        ConfigType::List => 7,
    }
}

/// Of a kind of things that have no configs here.
fn no_such_kind(kind: i8) -> Refusal {
    Refusal::invalid(format!(
        "topics ({TOPIC}) and brokers ({BROKER}) have configs here, and what is of kind {kind} has none"
    ))
}

/// The configs that are set on a topic.
fn overrides<'a>(
    image: &'a ClusterImage,
    name: &str,
) -> Result<&'a std::collections::BTreeMap<String, String>, Refusal> {
    if let Err(wrong) = highwater_types::TopicName::new(name) {
        return Err(Refusal::new(ResponseError::InvalidTopicException, wrong.to_string()));
    }
    image.topic_by_name(name).map(|topic| &topic.configs).ok_or_else(|| Refusal::unknown_topic(name))
}
