//! Metadata: brokers and topics, as clients of this listener reach them.

use std::collections::BTreeMap;

use highwater_metadata::{ClusterImage, PartitionState, TopicState};
use highwater_protocol::v1;
use highwater_protocol::v1::admin_server::Admin;
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, TopicId, TopicName, is_internal_topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{ApiKey, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::topics::uuid_of;
use super::{Broken, Call, Handler, operations};
use crate::door::Door;
use crate::error::{self, By};
use crate::layout::{Layout, array, int8, text, uuid};

/// Topics made on behalf of one request.
const CREATED_MAX: usize = 100;

pub(super) struct Metadata;

impl Handler for Metadata {
    type Request = MetadataRequest;
    type Response = MetadataResponse;
    const KEY: ApiKey = ApiKey::Metadata;
    const VERSIONS: (i16, i16) = (0, 13);
    const LAYOUT: Layout = Layout {
        flexible: 9,
        fields: &[array(&[uuid().since(10), text()]), int8().since(4), int8().since(8).until(10), int8().since(8)],
    };

    async fn handle(call: &Call, request: MetadataRequest) -> Result<MetadataResponse, Broken> {
        let link = &call.door.api.link;
        let topics = request.topics.filter(|topics| call.version > 0 || !topics.is_empty());
        let mut failed = BTreeMap::new();
        if let Some(topics) = &topics
            && request.allow_auto_topic_creation
            && call.door.config.auto_create_topics
        {
            failed = create_missing(&call.door, topics).await;
        }
        let image = link.image();
        let mut found: Vec<_> = match topics {
            None => image.topics.values().map(|topic| describe(&call.door, &image, topic)).collect(),
            Some(topics) => topics.into_iter().map(|topic| look_up(call, &image, topic, &failed)).collect(),
        };
        let of_topic = operations::told(request.include_topic_authorized_operations, operations::TOPIC);
        found.iter_mut().for_each(|topic| topic.topic_authorized_operations = of_topic);
        let of_cluster = operations::told(request.include_cluster_authorized_operations, operations::CLUSTER);
        Ok(MetadataResponse::default()
            .with_brokers(brokers(&call.door, &image))
            .with_cluster_id(Some(StrBytes::from_string(image.cluster_id.clone())))
            .with_controller_id(controller(&call.door, &image))
            .with_topics(found)
            .with_cluster_authorized_operations(of_cluster))
    }
}

pub(super) fn node(broker: BrokerId) -> kafka_protocol::messages::BrokerId {
    i32::try_from(broker.get()).unwrap_or(i32::MAX).into()
}

/// The broker that clients turn to for administration: any does; this one is known to be reached.
pub(super) fn controller(door: &Door, image: &ClusterImage) -> kafka_protocol::messages::BrokerId {
    let me = door.api.core.config.id;
    let is_there = |broker: &BrokerId| door.endpoint_of(image, *broker).is_some();
    let other = || image.brokers.keys().copied().find(is_there);
    Some(me).filter(is_there).or_else(other).map_or((-1).into(), node)
}

fn brokers(door: &Door, image: &ClusterImage) -> Vec<MetadataResponseBroker> {
    let up = image.brokers.values().filter_map(|broker| Some((broker, door.endpoint_of(image, broker.id)?)));
    let broker = |(broker, endpoint): (&highwater_metadata::BrokerState, &highwater_metadata::Endpoint)| {
        MetadataResponseBroker::default()
            .with_node_id(node(broker.id))
            .with_host(StrBytes::from_string(endpoint.host.clone()))
            .with_port(endpoint.port.into())
            .with_rack(broker.rack.clone().map(StrBytes::from_string))
    };
    up.map(broker).collect()
}

/// Makes the topics that are named and not there. Returns those that could not be made.
async fn create_missing(door: &Door, topics: &[MetadataRequestTopic]) -> BTreeMap<String, ResponseError> {
    let image = door.api.link.image();
    let is_missing =
        |name: &&str| image.topic_by_name(name).is_none() && TopicName::new(name).is_ok() && !is_internal_topic(name);
    let names = topics.iter().filter_map(|topic| topic.name.as_ref()).map(|name| name.as_str());
    let mut failed = BTreeMap::new();
    for name in names.filter(is_missing).take(CREATED_MAX) {
        let create = v1::CreateTopicRequest { name: name.to_owned(), ..v1::CreateTopicRequest::default() };
        if let Err(status) = door.api.admin().create_topic(Request::new(create)).await {
            let (error, said) = error::of_status(By::Controller, &status);
            let code = highwater_protocol::code_of(&said);
            // Somebody else was faster: it is there.
            if code != ErrorCode::TopicAlreadyExists {
                tracing::info!(
                    topic = name,
                    error = said.message,
                    "a topic that a Kafka client asked for was not made"
                );
                // Clients ask again as for a topic that is being made.
                failed.insert(
                    name.to_owned(),
                    if code.is_retriable() { ResponseError::LeaderNotAvailable } else { error },
                );
            }
        }
    }
    failed
}

fn refused(error: ResponseError) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_error_code(error.code())
}

fn look_up(
    call: &Call,
    image: &ClusterImage,
    topic: MetadataRequestTopic,
    failed: &BTreeMap<String, ResponseError>,
) -> MetadataResponseTopic {
    // Whoever has an id asks by that: with no name, or, as the Java client does, with an empty one.
    if let Some(id) = TopicId::from_slice(topic.topic_id.as_bytes()).filter(|id| !id.is_nil()) {
        return match image.topic(id) {
            Some(topic) => describe(&call.door, image, topic),
            // T48: without a name, which only newer versions allow, and not all clients survive: an empty one.
            None => refused(ResponseError::UnknownTopicId).with_topic_id(topic.topic_id),
        };
    }
    let Some(name) = topic.name else { return refused(ResponseError::InvalidRequest) };
    let error = match image.topic_by_name(&name) {
        Some(topic) => return describe(&call.door, image, topic),
        None if TopicName::new(name.as_str()).is_err() => ResponseError::InvalidTopicException,
        None => failed.get(name.as_str()).copied().unwrap_or(ResponseError::UnknownTopicOrPartition),
    };
    let is_internal = is_internal_topic(&name);
    refused(error).with_name(Some(name)).with_is_internal(is_internal)
}

fn describe(door: &Door, image: &ClusterImage, topic: &TopicState) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, state)| partition(door, image, index, state));
    MetadataResponseTopic::default()
        .with_name(Some(StrBytes::from_string(topic.name.as_str().to_owned()).into()))
        .with_topic_id(uuid_of(topic.id))
        .with_is_internal(is_internal_topic(topic.name.as_str()))
        .with_partitions(partitions.collect())
}

pub(super) fn partition(
    door: &Door,
    image: &ClusterImage,
    index: i32,
    state: &PartitionState,
) -> MetadataResponsePartition {
    let nodes = |brokers: &[BrokerId]| brokers.iter().map(|broker| node(*broker)).collect();
    let is_offline = |broker: &BrokerId| !image.is_unfenced(*broker) || state.unusable.contains(broker);
    let offline: Vec<_> = state.replicas.iter().copied().filter(is_offline).collect();
    let leader = state.leader.filter(|leader| door.endpoint_of(image, *leader).is_some());
    let error = match (state.leader, leader) {
        (_, Some(_)) => error::NONE,
        (Some(leader), None) if image.is_unfenced(leader) => ResponseError::ListenerNotFound.code(),
        _ => ResponseError::LeaderNotAvailable.code(),
    };
    MetadataResponsePartition::default()
        .with_error_code(error)
        .with_partition_index(index)
        .with_leader_id(leader.map_or((-1).into(), node))
        .with_leader_epoch(leader.map_or(LeaderEpoch::NONE, |_| state.leader_epoch).get())
        .with_replica_nodes(nodes(&state.replicas))
        .with_isr_nodes(nodes(&state.isr))
        .with_offline_replicas(nodes(&offline))
}
