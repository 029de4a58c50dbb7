//! DescribeGroups, ConsumerGroupDescribe, ListGroups and DeleteGroups: what administrators see of groups.

use highwater_metadata::ClusterImage;
use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use highwater_types::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_describe_response as consumers;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tonic::{Request, Status};

use super::super::topics::uuid_of;
use super::super::{Broken, Call, Handler, operations};
use super::{answered, text, text_or_none};
use crate::error::{self, By};
use crate::layout::{Layout, int8, texts};

/// Of a group that is not there, as the protocol has it.
const DEAD: &str = "Dead";

async fn describe(call: &Call, group: &GroupId) -> Result<v1::DescribeGroupResponse, (ResponseError, String)> {
    let asked = v1::DescribeGroupRequest { group_id: group.to_string() };
    let answer = call.door.api.coordinator().describe_group(Request::new(asked)).await;
    let refused = |status: Status| {
        let (error, said) = error::of_status(By::Coordinator, &status);
        (error, said.message)
    };
    answer.map(tonic::Response::into_inner).map_err(refused)
}

/// Fails if it is not of this kind.
fn of_kind(
    found: v1::DescribeGroupResponse,
    kind: v1::GroupKind,
) -> Result<(v1::ListedGroup, v1::DescribeGroupResponse), (ResponseError, String)> {
    let listed = found.group.clone().unwrap_or_default();
    if listed.kind() == kind {
        return Ok((listed, found));
    }
    let other = match kind {
        v1::GroupKind::Consumer => "is not of the consumer group protocol",
        _ => "is not of the classic group protocol",
    };
    Err((ResponseError::GroupIdNotFound, format!("group {:?} {other}", listed.group_id)))
}

pub(crate) struct DescribeGroups;

/// A group that is not there is an error, with a message.
const WITH_MESSAGE: i16 = 6;

impl Handler for DescribeGroups {
    type Request = DescribeGroupsRequest;
    type Response = DescribeGroupsResponse;
    const KEY: ApiKey = ApiKey::DescribeGroups;
    const VERSIONS: (i16, i16) = (0, 6);
    const LAYOUT: Layout = Layout { flexible: 5, fields: &[texts(), int8().since(3)] };

    async fn handle(call: &Call, request: DescribeGroupsRequest) -> Result<DescribeGroupsResponse, Broken> {
        let operations = operations::told(request.include_authorized_operations, operations::GROUP);
        let mut groups = Vec::with_capacity(request.groups.len());
        for id in request.groups {
            let found = describe(call, &id).await.and_then(|found| of_kind(found, v1::GroupKind::Classic));
            let group = match found {
                Ok((listed, found)) => classic(id, listed, found, call.version),
                Err((error, message)) => not_described(id, error, message, call.version),
            };
            groups.push(group.with_authorized_operations(operations));
        }
        Ok(DescribeGroupsResponse::default().with_groups(groups))
    }
}

fn not_described(id: GroupId, error: ResponseError, message: String, version: i16) -> DescribedGroup {
    let group = DescribedGroup::default().with_group_id(id);
    if error != ResponseError::GroupIdNotFound {
        return group
            .with_error_code(error.code())
            .with_error_message((version >= WITH_MESSAGE).then(|| text(message)));
    }
    let group = group.with_group_state(StrBytes::from_static_str(DEAD));
    match version {
        ..WITH_MESSAGE => group,
        _ => group.with_error_code(error.code()).with_error_message(Some(text(message))),
    }
}

fn classic(id: GroupId, listed: v1::ListedGroup, found: v1::DescribeGroupResponse, version: i16) -> DescribedGroup {
    let member = |it: v1::DescribedMember| {
        DescribedGroupMember::default()
            .with_member_id(text(it.member_id))
            .with_group_instance_id(text_or_none(it.instance_id).filter(|_| version >= 4))
            .with_client_id(text(it.client_id))
            .with_client_host(text(it.client_host))
            .with_member_metadata(it.protocol_metadata)
            .with_member_assignment(it.protocol_assignment)
    };
    DescribedGroup::default()
        .with_group_id(id)
        .with_group_state(text(listed.state))
        .with_protocol_type(text(listed.protocol_type))
        .with_protocol_data(text(found.assignor))
        .with_members(found.members.into_iter().map(member).collect())
}

pub(crate) struct ConsumerGroupDescribe;

impl Handler for ConsumerGroupDescribe {
    type Request = ConsumerGroupDescribeRequest;
    type Response = ConsumerGroupDescribeResponse;
    const KEY: ApiKey = ApiKey::ConsumerGroupDescribe;
    const VERSIONS: (i16, i16) = (0, 1);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[texts(), int8()] };

    async fn handle(
        call: &Call,
        request: ConsumerGroupDescribeRequest,
    ) -> Result<ConsumerGroupDescribeResponse, Broken> {
        let operations = operations::told(request.include_authorized_operations, operations::GROUP);
        let mut groups = Vec::with_capacity(request.group_ids.len());
        for id in request.group_ids {
            let found = describe(call, &id).await.and_then(|found| of_kind(found, v1::GroupKind::Consumer));
            let image = call.door.api.image();
            let group = match found {
                Ok((listed, found)) => consumer(&image, id, listed, found, call.version),
                Err((error, message)) => consumers::DescribedGroup::default()
                    .with_group_id(id)
                    .with_error_code(error.code())
                    .with_error_message(Some(text(message))),
            };
            groups.push(group.with_authorized_operations(operations));
        }
        Ok(ConsumerGroupDescribeResponse::default().with_groups(groups))
    }
}

fn consumer(
    image: &ClusterImage,
    id: GroupId,
    listed: v1::ListedGroup,
    found: v1::DescribeGroupResponse,
    version: i16,
) -> consumers::DescribedGroup {
    let assignment = |of: Option<v1::GroupAssignment>| {
        let topic = |of: v1::TopicPartitions| {
            let topic = TopicId::from_slice(&of.topic_id).and_then(|id| image.topic(id))?;
            let partitions = of.partitions.into_iter().filter_map(|it| i32::try_from(it).ok());
            let named = consumers::TopicPartitions::default().with_topic_id(uuid_of(topic.id));
            let named = named.with_topic_name(TopicName::from(text(topic.name.to_string())));
            Some(named.with_partitions(partitions.collect()))
        };
        let topics = of.unwrap_or_default().partitions.into_iter().filter_map(topic);
        consumers::Assignment::default().with_topic_partitions(topics.collect())
    };
    let member = |it: v1::DescribedMember| {
        let subscription = it.subscription.unwrap_or_default();
        let names = subscription.topics.into_iter().map(|name| TopicName::from(text(name)));
        let is_consumer = !it.is_classic;
        let member = consumers::Member::default()
            .with_member_id(text(it.member_id))
            .with_instance_id(text_or_none(it.instance_id))
            .with_rack_id(text_or_none(it.rack_id))
            .with_member_epoch(it.member_epoch)
            .with_client_id(text(it.client_id))
            .with_client_host(text(it.client_host))
            .with_subscribed_topic_names(names.collect())
            .with_subscribed_topic_regex(text_or_none(subscription.topic_pattern))
            .with_assignment(assignment(it.assignment))
            .with_target_assignment(assignment(it.target));
        if version >= 1 { member.with_member_type(is_consumer.into()) } else { member }
    };
    consumers::DescribedGroup::default()
        .with_group_id(id)
        .with_group_state(text(listed.state))
        .with_group_epoch(found.epoch)
        .with_assignment_epoch(found.assignment_epoch)
        .with_assignor_name(text(found.assignor))
        .with_members(found.members.into_iter().map(member).collect())
}

pub(crate) struct ListGroups;

impl Handler for ListGroups {
    type Request = ListGroupsRequest;
    type Response = ListGroupsResponse;
    const KEY: ApiKey = ApiKey::ListGroups;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout { flexible: 3, fields: &[texts().since(4), texts().since(5)] };

    async fn handle(call: &Call, request: ListGroupsRequest) -> Result<ListGroupsResponse, Broken> {
        let response = ListGroupsResponse::default();
        let answer = answered(call.door.api.coordinator().list_groups(Request::new(v1::ListGroupsRequest {})).await);
        Ok(match answer {
            Ok(found) => {
                let wanted = found.groups.into_iter().filter(|group| is_wanted(&request, group));
                response.with_groups(wanted.map(|group| listed(group, call.version)).collect())
            }
            Err(error) => response.with_error_code(error.code()),
        })
    }
}

const fn kind_name(kind: v1::GroupKind) -> &'static str {
    match kind {
        v1::GroupKind::Consumer => "consumer",
        v1::GroupKind::Classic | v1::GroupKind::Unspecified => "classic",
    }
}

/// Of either filter, none is all.
fn is_wanted(request: &ListGroupsRequest, group: &v1::ListedGroup) -> bool {
    let fits = |filter: &[StrBytes], it: &str| filter.is_empty() || filter.iter().any(|of| of.eq_ignore_ascii_case(it));
    fits(&request.states_filter, &group.state) && fits(&request.types_filter, kind_name(group.kind()))
}

fn listed(group: v1::ListedGroup, version: i16) -> ListedGroup {
    let kind = kind_name(group.kind());
    let listed = ListedGroup::default()
        .with_group_id(GroupId::from(text(group.group_id)))
        .with_protocol_type(text(group.protocol_type));
    let listed = if version >= 4 { listed.with_group_state(text(group.state)) } else { listed };
    if version >= 5 { listed.with_group_type(StrBytes::from_static_str(kind)) } else { listed }
}

pub(crate) struct DeleteGroups;

impl Handler for DeleteGroups {
    type Request = DeleteGroupsRequest;
    type Response = DeleteGroupsResponse;
    const KEY: ApiKey = ApiKey::DeleteGroups;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout = Layout { flexible: 2, fields: &[texts()] };

    async fn handle(call: &Call, request: DeleteGroupsRequest) -> Result<DeleteGroupsResponse, Broken> {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for id in request.groups_names {
            let asked = v1::DeleteGroupRequest { group_id: id.to_string() };
            let answer = answered(call.door.api.coordinator().delete_group(Request::new(asked)).await);
            let code = answer.err().map_or(error::NONE, |error| error.code());
            results.push(DeletableGroupResult::default().with_group_id(id).with_error_code(code));
        }
        Ok(DeleteGroupsResponse::default().with_results(results))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn group(kind: v1::GroupKind) -> v1::ListedGroup {
        let (group_id, state, protocol_type) = ("g".into(), "Stable".into(), "consumer".into());
        v1::ListedGroup { group_id, kind: kind.into(), state, protocol_type }
    }

    fn described(kind: v1::GroupKind) -> v1::DescribeGroupResponse {
        let member = v1::DescribedMember { instance_id: "i".into(), is_classic: true, ..Default::default() };
        v1::DescribeGroupResponse { group: Some(group(kind)), members: vec![member], ..Default::default() }
    }

    #[test]
    fn every_version_can_describe_and_list() {
        let mut out = BytesMut::new();
        for version in 0..=6 {
            let found =
                classic(GroupId::default(), group(v1::GroupKind::Classic), described(v1::GroupKind::Classic), version);
            let gone = not_described(GroupId::default(), ResponseError::GroupIdNotFound, "m".into(), version);
            let moved = not_described(GroupId::default(), ResponseError::NotCoordinator, "m".into(), version);
            let answer = DescribeGroupsResponse::default().with_groups(vec![found, gone, moved]);
            answer.encode(&mut out, version).unwrap();
        }
        for version in 0..=5 {
            let answer =
                ListGroupsResponse::default().with_groups(vec![listed(group(v1::GroupKind::Consumer), version)]);
            answer.encode(&mut out, version).unwrap();
        }
        for version in 0..=1 {
            let image = ClusterImage::default();
            let kind = v1::GroupKind::Consumer;
            let found = consumer(&image, GroupId::default(), group(kind), described(kind), version);
            ConsumerGroupDescribeResponse::default().with_groups(vec![found]).encode(&mut out, version).unwrap();
        }
    }

    #[test]
    fn a_group_that_is_not_there_is_dead_and_an_error_only_where_clients_expect_one() {
        let of = |version| not_described(GroupId::default(), ResponseError::GroupIdNotFound, String::new(), version);
        assert_eq!((of(5).error_code, &*of(5).group_state), (0, DEAD));
        assert_eq!((of(6).error_code, &*of(6).group_state), (ResponseError::GroupIdNotFound.code(), DEAD));
    }

    #[test]
    fn each_kind_is_described_by_its_own_request() {
        let error = of_kind(described(v1::GroupKind::Consumer), v1::GroupKind::Classic).unwrap_err().0;
        assert_eq!(error, ResponseError::GroupIdNotFound);
        assert!(of_kind(described(v1::GroupKind::Consumer), v1::GroupKind::Consumer).is_ok());
    }

    #[test]
    fn groups_are_listed_by_state_and_type_in_any_case() {
        let filters = |states: &[&'static str], types: &[&'static str]| {
            let all = |them: &[&'static str]| them.iter().map(|it| StrBytes::from_static_str(it)).collect();
            ListGroupsRequest::default().with_states_filter(all(states)).with_types_filter(all(types))
        };
        let consumer = group(v1::GroupKind::Consumer);
        assert!(is_wanted(&filters(&[], &[]), &consumer));
        assert!(is_wanted(&filters(&["empty", "STABLE"], &["Consumer"]), &consumer));
        assert!(!is_wanted(&filters(&["Empty"], &[]), &consumer));
        assert!(!is_wanted(&filters(&[], &["classic"]), &consumer));
    }
}
