//! CreateTopics: with numbers or with replicas by hand, with configs, or only to see what would be.

use std::collections::BTreeMap;

use highwater_protocol::v1;
use highwater_protocol::v1::admin_server::Admin;
use highwater_types::{describe_topic_configs, topic_configs_from_kafka};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{ApiKey, BrokerId, CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;
use uuid::Uuid;

use super::configs::source;
use super::refusal::{Deadline, Refusal, each, once, told};
use super::{Broken, Call, Handler};
use crate::layout::{Layout, array, int8, int16, int32, int32s, text};

/// "The cluster's default" (KIP-464), and what is given with replicas by hand.
const DEFAULT: i32 = -1;

pub(super) struct CreateTopics;

impl Handler for CreateTopics {
    type Request = CreateTopicsRequest;
    type Response = CreateTopicsResponse;
    const KEY: ApiKey = ApiKey::CreateTopics;
    const VERSIONS: (i16, i16) = (2, 7);
    const LAYOUT: Layout = Layout {
        flexible: 5,
        fields: &[
            array(&[text(), int32(), int16(), array(&[int32(), int32s()]), array(&[text(), text()])]),
            int32(),
            int8(),
        ],
    };

    async fn handle(call: &Call, request: CreateTopicsRequest) -> Result<CreateTopicsResponse, Broken> {
        let deadline = Deadline::after_ms(request.timeout_ms);
        let topics = once(request.topics, |topic| topic.name.clone());
        let create = |(topic, is_twice): (CreatableTopic, bool)| async move {
            let name = topic.name.clone();
            let created = match is_twice {
                true => Err(Refusal::twice(&name)),
                false => create(call, deadline, &topic, request.validate_only).await,
            };
            result(created, request.validate_only).with_name(name)
        };
        let topics = each(topics.into_iter().map(create).collect()).await;
        Ok(CreateTopicsResponse::default().with_topics(topics))
    }
}

async fn create(
    call: &Call,
    deadline: Deadline,
    topic: &CreatableTopic,
    validate_only: bool,
) -> Result<v1::TopicInfo, Refusal> {
    let asked = asked(topic, validate_only)?;
    let created = deadline.answer(call.door.api.admin().create_topic(Request::new(asked))).await?;
    Ok(created.topic.unwrap_or_default())
}

fn asked(topic: &CreatableTopic, validate_only: bool) -> Result<v1::CreateTopicRequest, Refusal> {
    let mut asked = v1::CreateTopicRequest { name: topic.name.to_string(), validate_only, ..Default::default() };
    let (partitions, replicas) = (topic.num_partitions, i32::from(topic.replication_factor));
    if topic.assignments.is_empty() {
        let number = |number: i32, error, what| match number {
            DEFAULT => Ok(0),
            1.. => Ok(number.unsigned_abs()),
            _ => {
                Err(Refusal::new(error, format!("{what} is 1 or more, or -1 for the cluster's default, not {number}")))
            }
        };
        asked.partitions = number(partitions, ResponseError::InvalidPartitions, "the number of partitions")?;
        asked.replication_factor = number(replicas, ResponseError::InvalidReplicationFactor, "a replication factor")?;
    } else {
        if partitions != DEFAULT || replicas != DEFAULT {
            let message =
                "with the replicas of each partition, the number of partitions and the replication factor are -1";
            return Err(Refusal::invalid(message));
        }
        asked.assignments = assignments(&topic.assignments)?;
    }
    let set = topic.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((&*config.name, &**value)),
        None => {
            let message = format!("topic config {} has no value; leave it out for its default", &*config.name);
            Err(Refusal::new(ResponseError::InvalidConfig, message))
        }
    });
    asked.configs = topic_configs_from_kafka(set.collect::<Result<Vec<_>, _>>()?)?.into_iter().collect();
    Ok(asked)
}

/// By partition, of which each from 0 on is there.
fn assignments(given: &[CreatableReplicaAssignment]) -> Result<Vec<v1::ReplicaAssignment>, Refusal> {
    let by_partition: BTreeMap<i32, _> = given.iter().map(|one| (one.partition_index, &one.broker_ids)).collect();
    if by_partition.len() != given.len() || !by_partition.keys().copied().eq((0..).take(given.len())) {
        let message = "the replicas of each partition are given once, and of all partitions from 0 on";
        return Err(Refusal::new(ResponseError::InvalidReplicaAssignment, message));
    }
    by_partition.into_values().map(|brokers| assignment(brokers)).collect()
}

pub(super) fn assignment(brokers: &[BrokerId]) -> Result<v1::ReplicaAssignment, Refusal> {
    let id = |broker: &BrokerId| {
        let unknown =
            |_| Refusal::new(ResponseError::InvalidReplicaAssignment, format!("there is no broker {}", broker.0));
        u32::try_from(broker.0).map_err(unknown)
    };
    Ok(v1::ReplicaAssignment { replicas: brokers.iter().map(id).collect::<Result<_, _>>()? })
}

fn result(created: Result<v1::TopicInfo, Refusal>, validate_only: bool) -> CreatableTopicResult {
    let (error_code, message) = told(&created);
    let result = CreatableTopicResult::default().with_error_code(error_code).with_error_message(message);
    let Ok(topic) = created else { return result.with_num_partitions(-1).with_replication_factor(-1) };
    let overrides = topic.configs.into_iter().collect();
    let config = |config: highwater_types::DescribedConfig| {
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(config.key))
            .with_config_source(source(&config))
            .with_value(Some(StrBytes::from_string(config.value)))
            .with_read_only(config.read_only)
    };
    let replication_factor = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    result
        // What is only tried has no identity yet.
        .with_topic_id(if validate_only { Uuid::nil() } else { Uuid::from_slice(&topic.topic_id).unwrap_or_default() })
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(i16::try_from(replication_factor).unwrap_or(i16::MAX))
        .with_configs(Some(describe_topic_configs(&overrides).into_iter().map(config).collect()))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;

    use super::*;

    fn topic(partitions: i32, replicas: i16) -> CreatableTopic {
        let name = StrBytes::from_static_str("t").into();
        CreatableTopic::default().with_name(name).with_num_partitions(partitions).with_replication_factor(replicas)
    }

    fn by_hand(partitions: &[(i32, &[i32])]) -> CreatableTopic {
        let one = |(index, brokers): &(i32, &[i32])| {
            CreatableReplicaAssignment::default()
                .with_partition_index(*index)
                .with_broker_ids(brokers.iter().map(|broker| BrokerId(*broker)).collect())
        };
        topic(-1, -1).with_assignments(partitions.iter().map(one).collect())
    }

    fn refused(topic: &CreatableTopic) -> ResponseError {
        asked(topic, false).unwrap_err().error
    }

    #[test]
    fn numbers_are_given_or_left_to_the_cluster() {
        let numbers = |topic| asked(&topic, true).map(|asked| (asked.partitions, asked.replication_factor)).unwrap();
        assert_eq!(numbers(topic(3, 2)), (3, 2));
        assert_eq!(numbers(topic(-1, -1)), (0, 0));
        assert_eq!(refused(&topic(0, 1)), ResponseError::InvalidPartitions);
        assert_eq!(refused(&topic(-2, 1)), ResponseError::InvalidPartitions);
        assert_eq!(refused(&topic(1, 0)), ResponseError::InvalidReplicationFactor);
    }

    #[test]
    fn replicas_by_hand_name_each_partition_once_in_any_order() {
        let given = asked(&by_hand(&[(1, &[2, 3]), (0, &[1, 2])]), false).unwrap().assignments;
        assert_eq!(given.iter().map(|one| one.replicas.clone()).collect::<Vec<_>>(), [vec![1, 2], vec![2, 3]]);
        for wrong in [by_hand(&[(0, &[1]), (0, &[1])]), by_hand(&[(1, &[1])]), by_hand(&[(0, &[-1])])] {
            assert_eq!(refused(&wrong), ResponseError::InvalidReplicaAssignment);
        }
        assert_eq!(refused(&by_hand(&[(0, &[1])]).with_num_partitions(1)), ResponseError::InvalidRequest);
    }

    #[test]
    fn configs_are_honoured_or_refused() {
        let with = |name, value: Option<&'static str>| {
            let config = CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(value.map(StrBytes::from_static_str));
            topic(1, 1).with_configs(vec![config])
        };
        let set = asked(&with("unclean.leader.election.enable", Some("true")), false).unwrap().configs;
        assert_eq!(set.into_iter().collect::<Vec<_>>(), [("unclean.leader.election".into(), "proactive".into())]);
        assert!(asked(&with("compression.type", Some("producer")), false).unwrap().configs.is_empty());
        for wrong in [with("compression.type", Some("zstd")), with("retention.ms", None), with("no.such", Some("1"))] {
            assert_eq!(refused(&wrong), ResponseError::InvalidConfig);
        }
    }
}
