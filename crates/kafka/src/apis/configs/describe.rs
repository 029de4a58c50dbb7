//! DescribeConfigs.

use highwater_types::describe_topic_configs;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::{BROKER, DEFAULT, FILE_OF_BROKER, SET_ON_TOPIC, TOPIC, broker, no_such_kind, overrides, source, type_code};
use crate::apis::refusal::{Refusal, told};
use crate::apis::{Broken, Call, Handler};
use crate::layout::{Layout, array, int8, text, texts};

pub(in crate::apis) struct DescribeConfigs;

impl Handler for DescribeConfigs {
    type Request = DescribeConfigsRequest;
    type Response = DescribeConfigsResponse;
    const KEY: ApiKey = ApiKey::DescribeConfigs;
    const VERSIONS: (i16, i16) = (1, 4);
    const LAYOUT: Layout =
        Layout { flexible: 4, fields: &[array(&[int8(), text(), texts()]), int8(), int8().since(3)] };

    async fn handle(call: &Call, request: DescribeConfigsRequest) -> Result<DescribeConfigsResponse, Broken> {
        let (synonyms, documentation) = (request.include_synonyms, request.include_documentation);
        let describe = |resource: DescribeConfigsResource| {
            let described = describe(call, &resource);
            let (code, message) = told(&described);
            // No list of keys, or an empty one: all.
            let keys = resource.configuration_keys.filter(|keys| !keys.is_empty());
            let is_asked =
                |config: &DescribeConfigsResourceResult| keys.as_ref().is_none_or(|keys| keys.contains(&config.name));
            let mut configs = described.unwrap_or_default();
            configs.retain(is_asked);
            for config in &mut configs {
                if !synonyms {
                    config.synonyms.clear();
                }
                if !documentation {
                    config.documentation = None;
                }
            }
            DescribeConfigsResult::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
                .with_configs(configs)
        };
        Ok(DescribeConfigsResponse::default().with_results(request.resources.into_iter().map(describe).collect()))
    }
}

/// With all that there is to tell.
fn describe(call: &Call, resource: &DescribeConfigsResource) -> Result<Vec<DescribeConfigsResourceResult>, Refusal> {
    match resource.resource_type {
        TOPIC => {
            let image = call.door.api.link.image();
            let configs = describe_topic_configs(overrides(&image, &resource.resource_name)?);
            Ok(configs.into_iter().map(of_topic).collect())
        }
        // What holds for all brokers and can be changed at run time: nothing.
        BROKER if resource.resource_name.is_empty() => Ok(Vec::new()),
        BROKER => {
            let me = call.door.api.core.config.id.get();
            if resource.resource_name.parse() != Ok(me) {
                let asked = &*resource.resource_name;
                return Err(Refusal::invalid(format!(
                    "this is broker {me}, and only broker {asked:?} knows its configs"
                )));
            }
            let defaults = call.door.api.link.status().borrow().topic_defaults;
            let settings = broker::describe(&call.door.api.core.config, &call.door.config, defaults);
            Ok(settings.into_iter().map(of_broker).collect())
        }
        kind => Err(no_such_kind(kind)),
    }
}

fn of_topic(config: highwater_types::DescribedConfig) -> DescribeConfigsResourceResult {
    let name = StrBytes::from_static_str(config.key);
    let synonym = |value: &str, source| {
        let value = Some(StrBytes::from_string(value.to_owned()));
        DescribeConfigsSynonym::default().with_name(name.clone()).with_value(value).with_source(source)
    };
    let set = config.overridden.then(|| synonym(&config.value, SET_ON_TOPIC));
    let synonyms = set.into_iter().chain([synonym(&config.default, DEFAULT)]).collect();
    DescribeConfigsResourceResult::default()
        .with_config_source(source(&config))
        .with_config_type(type_code(config.config_type))
        .with_read_only(config.read_only)
        .with_documentation(Some(StrBytes::from_static_str(config.documentation)))
        .with_synonyms(synonyms)
        .with_value(Some(StrBytes::from_string(config.value)))
        .with_name(name)
}

fn of_broker(setting: broker::Setting) -> DescribeConfigsResourceResult {
    let name = StrBytes::from_static_str(setting.key);
    let value = Some(StrBytes::from_string(setting.value));
    let source = if setting.is_default { DEFAULT } else { FILE_OF_BROKER };
    let synonym =
        DescribeConfigsSynonym::default().with_name(name.clone()).with_value(value.clone()).with_source(source);
    DescribeConfigsResourceResult::default()
        .with_name(name)
        .with_value(value)
        .with_config_source(source)
        .with_config_type(type_code(setting.config_type))
        .with_read_only(true)
        .with_documentation(Some(StrBytes::from_static_str(setting.documentation)))
        .with_synonyms(vec![synonym])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_topics_config_says_where_its_value_comes_from() {
        let own = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        let told: Vec<_> = describe_topic_configs(&own).into_iter().map(of_topic).collect();
        let of = |key: &str| told.iter().find(|config| &*config.name == key).unwrap();
        let values = |key: &str| {
            let synonyms = &of(key).synonyms;
            synonyms.iter().map(|one| (one.value.clone().unwrap().to_string(), one.source)).collect::<Vec<_>>()
        };
        assert_eq!((of("retention.ms").config_source, of("retention.ms").config_type), (SET_ON_TOPIC, 5));
        assert_eq!(values("retention.ms"), [("5".into(), SET_ON_TOPIC), ("604800000".into(), DEFAULT)]);
        assert_eq!((of("cleanup.policy").config_source, of("cleanup.policy").config_type), (DEFAULT, 7));
        assert_eq!(values("cleanup.policy"), [("delete".into(), DEFAULT)]);
        assert!(of("compression.type").read_only && !of("retention.ms").read_only);
    }
}
