//! ConsumerGroupHeartbeat: the group protocol of KIP-848.

use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as Owned;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ApiKey, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::super::topics::uuid_of;
use super::super::{Broken, Call, Handler};
use super::{client_id, milliseconds, stated, text};
use crate::error::{self, By};
use crate::layout::{Layout, array, int32, int32s, text as string, texts, uuid};

pub(crate) struct ConsumerGroupHeartbeat;

/// Members choose their ids themselves.
const OWN_MEMBER_IDS: i16 = 1;
/// The epoch of a member that joins.
const JOINS: i32 = 0;

impl Handler for ConsumerGroupHeartbeat {
    type Request = ConsumerGroupHeartbeatRequest;
    type Response = ConsumerGroupHeartbeatResponse;
    const KEY: ApiKey = ApiKey::ConsumerGroupHeartbeat;
    // librdkafka needs version 1 (T49).
    const VERSIONS: (i16, i16) = (0, 1);
    const LAYOUT: Layout = Layout {
        flexible: 0,
        fields: &[
            string(),
            string(),
            int32(),
            string(),
            string(),
            int32(),
            texts(),
            string().since(1),
            string(),
            array(&[uuid(), int32s()]),
        ],
    };

    async fn handle(
        call: &Call,
        request: ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse, Broken> {
        let asked = match asked(call, request) {
            Ok(asked) => asked,
            Err(why) => return Ok(refused(ResponseError::InvalidRequest, why.to_owned())),
        };
        Ok(match call.door.api.coordinator().group_heartbeat(Request::new(asked)).await {
            Ok(answer) => taken(answer.into_inner()),
            Err(status) => {
                let (error, said) = error::of_status(By::Coordinator, &status);
                let error = match error {
                    // Classic members are still joining: of the errors that members of this kind know, the one that says "soon".
                    ResponseError::RebalanceInProgress => ResponseError::CoordinatorLoadInProgress,
                    // Classic members that are no consumers.
                    ResponseError::InconsistentGroupProtocol => ResponseError::GroupIdNotFound,
                    error => error,
                };
                refused(error, said.message)
            }
        })
    }
}

fn asked(call: &Call, request: ConsumerGroupHeartbeatRequest) -> Result<v1::GroupHeartbeatRequest, &'static str> {
    let joins = request.member_epoch == JOINS;
    let member_id = match request.member_id.to_string() {
        id if id.is_empty() && joins && call.version < OWN_MEMBER_IDS => {
            uuid::Uuid::from_u128(call.door.api.seams.entropy.next_u128()).to_string()
        }
        id if id.is_empty() => return Err("a member has an id"),
        id => id,
    };
    if joins && request.rebalance_timeout_ms <= 0 {
        return Err("a member that joins states its rebalance timeout");
    }
    if joins && request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
        return Err("a member that joins owns no partitions, and says so");
    }
    let (keeps_topics, keeps_pattern) =
        (request.subscribed_topic_names.is_none(), request.subscribed_topic_regex.is_none());
    if joins && keeps_topics && keeps_pattern {
        return Err("a member that joins states what it subscribes to");
    }
    let names = request.subscribed_topic_names.unwrap_or_default();
    let subscription = v1::GroupSubscription {
        topics: names.iter().map(|name| name.to_string()).collect(),
        topic_pattern: stated(request.subscribed_topic_regex.as_ref()),
    };
    let owned = request.topic_partitions.map(owned).transpose()?;
    Ok(v1::GroupHeartbeatRequest {
        group_id: request.group_id.to_string(),
        member_id,
        member_epoch: request.member_epoch,
        instance_id: stated(request.instance_id.as_ref()),
        rack_id: stated(request.rack_id.as_ref()),
        rebalance_timeout_ms: milliseconds(request.rebalance_timeout_ms),
        subscription: (!keeps_topics || !keeps_pattern).then_some(subscription),
        assignor: stated(request.server_assignor.as_ref()),
        owned,
        client_id: client_id(call),
        client_host: call.client.host(),
        number: 0,
        keeps_topics,
        keeps_pattern,
    })
}

fn owned(topics: Vec<Owned>) -> Result<v1::GroupAssignment, &'static str> {
    let one = |topic: Owned| {
        let topic_id = bytes::Bytes::copy_from_slice(topic.topic_id.as_bytes());
        let partitions = topic.partitions.into_iter().map(u32::try_from).collect::<Result<_, _>>();
        partitions.map(|partitions| v1::TopicPartitions { topic_id, partitions })
    };
    let partitions = topics.into_iter().map(one).collect::<Result<_, _>>();
    let partitions = partitions.map_err(|_| "a partition can't have a negative number")?;
    Ok(v1::GroupAssignment { partitions })
}

fn refused(error: ResponseError, message: String) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse::default().with_error_code(error.code()).with_error_message(Some(text(message)))
}

fn taken(answer: v1::GroupHeartbeatResponse) -> ConsumerGroupHeartbeatResponse {
    let topic = |of: v1::TopicPartitions| {
        let id = highwater_types::TopicId::from_slice(&of.topic_id)?;
        let partitions = of.partitions.into_iter().filter_map(|it| i32::try_from(it).ok());
        Some(TopicPartitions::default().with_topic_id(uuid_of(id)).with_partitions(partitions.collect()))
    };
    let assignment = |of: v1::GroupAssignment| {
        Assignment::default().with_topic_partitions(of.partitions.into_iter().filter_map(topic).collect())
    };
    ConsumerGroupHeartbeatResponse::default()
        .with_member_id(Some(StrBytes::from_string(answer.member_id)))
        .with_member_epoch(answer.member_epoch)
        .with_heartbeat_interval_ms(i32::try_from(answer.heartbeat_interval_ms).unwrap_or(i32::MAX))
        .with_assignment(answer.assignment.map(assignment))
}
