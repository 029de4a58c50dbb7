//! AlterConfigs, which replaces all that is set on a topic, and IncrementalAlterConfigs, which changes what it names (KIP-339).

use std::borrow::Cow;

use highwater_protocol::v1;
use highwater_protocol::v1::admin_server::Admin;
use highwater_types::{
    ConfigType, Meaning, TOPIC_CONFIG_KEYS, changed_list, kafka_topic_config, topic_config_unset_by_kafka,
    topic_configs_from_kafka,
};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource as ChangedResource, AlterableConfig as Change,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as ChangedResponse;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, ApiKey, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::{BROKER, TOPIC, no_such_kind};
use crate::apis::refusal::{Refusal, duplicates, each, told};
use crate::apis::{Broken, Call, Handler};
use crate::layout::{Layout, array, int8, text};

/// What is done to a config.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub(in crate::apis) struct AlterConfigs;

impl Handler for AlterConfigs {
    type Request = AlterConfigsRequest;
    type Response = AlterConfigsResponse;
    const KEY: ApiKey = ApiKey::AlterConfigs;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout =
        Layout { flexible: 2, fields: &[array(&[int8(), text(), array(&[text(), text()])]), int8()] };

    async fn handle(call: &Call, request: AlterConfigsRequest) -> Result<AlterConfigsResponse, Broken> {
        let asked = request.resources.into_iter().map(|resource| {
            let AlterConfigsResource { resource_type, resource_name, configs, .. } = resource;
            (resource_type, resource_name, configs)
        });
        let plan = |name: &str, configs: &Vec<AlterableConfig>| replacement(name, configs, request.validate_only);
        let altered = alter(call, asked.collect(), plan).await.into_iter().map(|(kind, name, outcome)| {
            let (code, message) = told(&outcome);
            AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(kind)
                .with_resource_name(name)
        });
        Ok(AlterConfigsResponse::default().with_responses(altered.collect()))
    }
}

pub(in crate::apis) struct IncrementalAlterConfigs;

impl Handler for IncrementalAlterConfigs {
    type Request = IncrementalAlterConfigsRequest;
    type Response = IncrementalAlterConfigsResponse;
    const KEY: ApiKey = ApiKey::IncrementalAlterConfigs;
    const VERSIONS: (i16, i16) = (0, 1);
    const LAYOUT: Layout =
        Layout { flexible: 1, fields: &[array(&[int8(), text(), array(&[text(), int8(), text()])]), int8()] };

    async fn handle(
        call: &Call,
        request: IncrementalAlterConfigsRequest,
    ) -> Result<IncrementalAlterConfigsResponse, Broken> {
        let asked = request.resources.into_iter().map(|resource| {
            let ChangedResource { resource_type, resource_name, configs, .. } = resource;
            (resource_type, resource_name, configs)
        });
        let plan = |name: &str, changes: &Vec<Change>| changed(name, changes, request.validate_only);
        let altered = alter(call, asked.collect(), plan).await.into_iter().map(|(kind, name, outcome)| {
            let (code, message) = told(&outcome);
            ChangedResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(kind)
                .with_resource_name(name)
        });
        Ok(IncrementalAlterConfigsResponse::default().with_responses(altered.collect()))
    }
}

/// Carries out what `plan` makes of each resource.
async fn alter<C>(
    call: &Call,
    asked: Vec<(i8, StrBytes, C)>,
    plan: impl Fn(&str, &C) -> Result<v1::AlterTopicRequest, Refusal>,
) -> Vec<(i8, StrBytes, Result<(), Refusal>)> {
    let twice = duplicates(asked.iter().map(|(kind, name, _)| (*kind, name.clone())));
    let one = |(kind, name, configs): (i8, StrBytes, C)| {
        let planned = match kind {
            _ if twice.contains(&(kind, name.clone())) => {
                Err(Refusal::invalid(format!("the configs of {:?} are in the request more than once", &*name)))
            }
            TOPIC => plan(&name, &configs),
            BROKER => {
                Err(Refusal::invalid("a broker's configs are in its file or its environment, and change by a restart"))
            }
            kind => Err(no_such_kind(kind)),
        };
        async move {
            let done = match planned {
                Ok(planned) => call.door.api.admin().alter_topic(Request::new(planned)).await,
                Err(refusal) => return (kind, name, Err(refusal)),
            };
            (kind, name, done.map(|_| ()).map_err(Refusal::from))
        }
    };
    each(asked.into_iter().map(one).collect()).await
}

/// Sets these, and puts all others back to their defaults.
fn replacement(name: &str, configs: &[AlterableConfig], validate_only: bool) -> Result<v1::AlterTopicRequest, Refusal> {
    check_once(configs.iter().map(|config| &*config.name))?;
    let set = configs.iter().map(|config| Ok((&*config.name, value_of(&config.name, config.value.as_ref())?)));
    let set = topic_configs_from_kafka(set.collect::<Result<Vec<_>, Refusal>>()?)?;
    let others = TOPIC_CONFIG_KEYS.iter().filter(|info| !set.contains_key(info.key));
    let unset_configs = others.map(|info| info.key.to_owned()).collect();
    let (name, set_configs) = (name.to_owned(), set.into_iter().collect());
    Ok(v1::AlterTopicRequest { name, set_configs, unset_configs, validate_only, ..v1::AlterTopicRequest::default() })
}

fn changed(name: &str, changes: &[Change], validate_only: bool) -> Result<v1::AlterTopicRequest, Refusal> {
    check_once(changes.iter().map(|change| &*change.name))?;
    let (mut set, mut unset_configs, mut list_changes) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        let (key, operation) = (&*change.name, change.config_operation);
        let info = kafka_topic_config(key)?;
        match operation {
            SET => set.push((key, Cow::from(value_of(key, change.value.as_ref())?))),
            DELETE => unset_configs.extend(topic_config_unset_by_kafka(key)?.map(str::to_owned)),
            APPEND | SUBTRACT if info.config_type == ConfigType::List => {
                let items = value_of(key, change.value.as_ref())?;
                match info.meaning {
                    Meaning::Honoured { key, .. } => list_changes.push(v1::ConfigListChange {
                        key: key.to_owned(),
                        items: items.to_owned(),
                        remove: operation == SUBTRACT,
                    }),
                    // As it would be set.
                    Meaning::Fixed { value, .. } => {
                        set.push((key, changed_list(value, items, operation == APPEND).into()));
                    }
                }
            }
            APPEND | SUBTRACT => {
                let message =
                    format!("topic config {key} is not a list, to which something could be added, or taken from");
                return Err(Refusal::new(ResponseError::InvalidConfig, message));
            }
            other => {
                let message = format!(
                    "operation {other} on topic config {key} is not known: set {SET}, delete {DELETE}, \
                     append {APPEND}, subtract {SUBTRACT}"
                );
                return Err(Refusal::invalid(message));
            }
        }
    }
    let set_configs = topic_configs_from_kafka(set.iter().map(|(key, value)| (*key, &**value)))?;
    let (name, set_configs) = (name.to_owned(), set_configs.into_iter().collect());
    Ok(v1::AlterTopicRequest {
        name,
        set_configs,
        unset_configs,
        list_changes,
        validate_only,
        ..v1::AlterTopicRequest::default()
    })
}

fn check_once<'a>(keys: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    match duplicates(keys).first() {
        None => Ok(()),
        Some(key) => Err(Refusal::invalid(format!("topic config {key} is in the request more than once"))),
    }
}

fn value_of<'a>(key: &str, value: Option<&'a StrBytes>) -> Result<&'a str, Refusal> {
    value
        .map(|value| &**value)
        .ok_or_else(|| Refusal::invalid(format!("topic config {key} has no value in the request")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> StrBytes {
        StrBytes::from_string(text.to_owned())
    }

    fn change(operation: i8, key: &str, value: Option<&str>) -> Change {
        Change::default().with_name(text(key)).with_config_operation(operation).with_value(value.map(text))
    }

    fn pairs(asked: v1::AlterTopicRequest) -> (Vec<(String, String)>, Vec<String>) {
        let mut set: Vec<_> = asked.set_configs.into_iter().collect();
        set.sort();
        (set, asked.unset_configs)
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn a_replacement_puts_all_else_back() {
        let config =
            |key, value: Option<&str>| AlterableConfig::default().with_name(text(key)).with_value(value.map(text));
        let (set, unset) = pairs(replacement("t", &[config("retention.ms", Some("5"))], false).unwrap());
        assert_eq!(set, [pair("retention.ms", "5")]);
        assert_eq!(unset.len(), TOPIC_CONFIG_KEYS.len() - 1);
        assert!(!unset.contains(&"retention.ms".to_owned()) && unset.contains(&"cleanup.policy".to_owned()));
        let error = |configs: &[AlterableConfig]| replacement("t", configs, false).unwrap_err().error;
        assert_eq!(error(&[config("retention.ms", None)]), ResponseError::InvalidRequest);
        assert_eq!(
            error(&[config("retention.ms", Some("5")), config("retention.ms", Some("6"))]),
            ResponseError::InvalidRequest
        );
        assert_eq!(error(&[config("flush.ms", Some("6"))]), ResponseError::InvalidConfig);
    }

    #[test]
    fn changes_set_delete_add_and_take_away() {
        let changes = [
            change(APPEND, "cleanup.policy", Some("delete")),
            change(SET, "max.compaction.lag.ms", Some("9223372036854775807")),
            change(DELETE, "unclean.leader.election.enable", None),
            change(DELETE, "compression.type", None),
        ];
        let planned = changed("t", &changes, false).unwrap();
        let list = |remove, items: &str| v1::ConfigListChange {
            key: "cleanup.policy".to_owned(),
            items: items.to_owned(),
            remove,
        };
        assert_eq!(planned.list_changes, [list(false, "delete")]);
        let (set, unset) = pairs(planned);
        assert_eq!(set, [pair("max.compaction.lag.ms", "-1")]);
        assert_eq!(unset, ["unclean.leader.election"]);
        let planned = changed("t", &[change(SUBTRACT, "cleanup.policy", Some("compact"))], true).unwrap();
        assert!(planned.validate_only && planned.set_configs.is_empty());
        assert_eq!(planned.list_changes, [list(true, "compact")]);
    }

    #[test]
    fn what_can_not_be_done_to_a_config_is_refused() {
        let error = |change: Change| changed("t", &[change], false).unwrap_err().error;
        assert_eq!(error(change(APPEND, "retention.ms", Some("5"))), ResponseError::InvalidConfig);
        assert_eq!(
            error(change(APPEND, "leader.replication.throttled.replicas", Some("0:1"))),
            ResponseError::InvalidConfig
        );
        assert_eq!(error(change(SET, "retention.ms", None)), ResponseError::InvalidRequest);
        assert_eq!(error(change(4, "retention.ms", Some("5"))), ResponseError::InvalidRequest);
        assert_eq!(error(change(DELETE, "no.such", None)), ResponseError::InvalidConfig);
        let twice = [change(SET, "retention.ms", Some("5")), change(DELETE, "retention.ms", None)];
        assert_eq!(changed("t", &twice, false).unwrap_err().error, ResponseError::InvalidRequest);
    }
}
