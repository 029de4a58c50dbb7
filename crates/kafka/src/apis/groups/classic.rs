//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup: the classic group protocol.

use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tonic::Request;

use super::super::{Broken, Call, Handler};
use super::{answered, client_id, code_of, milliseconds, stated, text, text_or_none};
use crate::error::{self, By};
use crate::layout::{Layout, array, blob, int32, text as string};

pub(crate) struct JoinGroup;

/// Members without an id get one, and join again with it (KIP-394).
const KNOWN_MEMBERS_ONLY: i16 = 4;
/// Protocols are told with the type, and may be null.
const WITH_PROTOCOL_TYPE: i16 = 7;
/// A leader can be told that it need not assign (KIP-814).
const SKIPS_ASSIGNMENT: i16 = 9;

impl Handler for JoinGroup {
    type Request = JoinGroupRequest;
    type Response = JoinGroupResponse;
    const KEY: ApiKey = ApiKey::JoinGroup;
    const VERSIONS: (i16, i16) = (0, 9);
    const LAYOUT: Layout = Layout {
        flexible: 6,
        fields: &[
            string(),
            int32(),
            int32().since(1),
            string(),
            string().since(5),
            string(),
            array(&[string(), blob()]),
            string().since(8),
        ],
    };

    async fn handle(call: &Call, request: JoinGroupRequest) -> Result<JoinGroupResponse, Broken> {
        let protocols = request.protocols.into_iter();
        let asked = v1::JoinGroupRequest {
            group_id: request.group_id.to_string(),
            session_timeout_ms: milliseconds(request.session_timeout_ms),
            rebalance_timeout_ms: milliseconds(request.rebalance_timeout_ms),
            member_id: request.member_id.to_string(),
            instance_id: stated(request.group_instance_id.as_ref()),
            protocol_type: request.protocol_type.to_string(),
            protocols: protocols
                .map(|it| v1::GroupProtocol { name: it.name.to_string(), metadata: it.metadata })
                .collect(),
            reason: stated(request.reason.as_ref()),
            require_known_member_id: call.version >= KNOWN_MEMBERS_ONLY,
            client_id: client_id(call),
            client_host: call.client.host(),
        };
        let answer = answered(call.door.api.coordinator().join_group(Request::new(asked)).await);
        Ok(match answer {
            Ok(answer) => joined(answer, call.version),
            Err(error) => refused(error, request.member_id, call.version),
        })
    }
}

fn refused(error: ResponseError, member_id: StrBytes, version: i16) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name((version < WITH_PROTOCOL_TYPE).then(StrBytes::default))
        .with_member_id(member_id)
}

fn joined(answer: v1::JoinGroupResponse, version: i16) -> JoinGroupResponse {
    let member_id = text(answer.member_id);
    if let Some(error) = answer.error {
        return refused(error::of(By::Coordinator, highwater_protocol::code_of(&error)), member_id, version);
    }
    // An older one would assign anew if it knew that it leads: as a follower it is given what it had.
    let must_follow = answer.skip_assignment && version < SKIPS_ASSIGNMENT;
    let member = |it: v1::JoinedMember| {
        JoinGroupResponseMember::default()
            .with_member_id(text(it.member_id))
            .with_group_instance_id(text_or_none(it.instance_id).filter(|_| version >= 5))
            .with_metadata(it.metadata)
    };
    let members = if must_follow { Vec::new() } else { answer.members };
    JoinGroupResponse::default()
        .with_generation_id(answer.generation)
        .with_protocol_type((version >= WITH_PROTOCOL_TYPE).then(|| text(answer.protocol_type)))
        .with_protocol_name(Some(text(answer.protocol_name)))
        .with_leader(if must_follow { StrBytes::default() } else { text(answer.leader) })
        .with_skip_assignment(answer.skip_assignment && version >= SKIPS_ASSIGNMENT)
        .with_member_id(member_id)
        .with_members(members.into_iter().map(member).collect())
}

pub(crate) struct SyncGroup;

impl Handler for SyncGroup {
    type Request = SyncGroupRequest;
    type Response = SyncGroupResponse;
    const KEY: ApiKey = ApiKey::SyncGroup;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout {
        flexible: 4,
        fields: &[
            string(),
            int32(),
            string(),
            string().since(3),
            string().since(5),
            string().since(5),
            array(&[string(), blob()]),
        ],
    };

    async fn handle(call: &Call, request: SyncGroupRequest) -> Result<SyncGroupResponse, Broken> {
        let assignments = request.assignments.into_iter();
        let asked = v1::SyncGroupRequest {
            group_id: request.group_id.to_string(),
            generation: request.generation_id,
            member_id: request.member_id.to_string(),
            instance_id: stated(request.group_instance_id.as_ref()),
            protocol_type: stated(request.protocol_type.as_ref()),
            protocol_name: stated(request.protocol_name.as_ref()),
            assignments: assignments
                .map(|it| v1::MemberAssignment { member_id: it.member_id.to_string(), assignment: it.assignment })
                .collect(),
        };
        let answer = answered(call.door.api.coordinator().sync_group(Request::new(asked)).await);
        Ok(match answer {
            Ok(answer) => {
                let named = |name: String| (call.version >= 5).then(|| text(name));
                SyncGroupResponse::default()
                    .with_protocol_type(named(answer.protocol_type))
                    .with_protocol_name(named(answer.protocol_name))
                    .with_assignment(answer.assignment)
            }
            Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
        })
    }
}

pub(crate) struct Heartbeat;

impl Handler for Heartbeat {
    type Request = HeartbeatRequest;
    type Response = HeartbeatResponse;
    const KEY: ApiKey = ApiKey::Heartbeat;
    const VERSIONS: (i16, i16) = (0, 4);
    const LAYOUT: Layout = Layout { flexible: 4, fields: &[string(), int32(), string(), string().since(3)] };

    async fn handle(call: &Call, request: HeartbeatRequest) -> Result<HeartbeatResponse, Broken> {
        let asked = v1::HeartbeatRequest {
            group_id: request.group_id.to_string(),
            generation: request.generation_id,
            member_id: request.member_id.to_string(),
            instance_id: stated(request.group_instance_id.as_ref()),
        };
        let answer = answered(call.door.api.coordinator().heartbeat(Request::new(asked)).await);
        let code = answer.err().map_or(error::NONE, |error| error.code());
        Ok(HeartbeatResponse::default().with_error_code(code))
    }
}

pub(crate) struct LeaveGroup;

/// Which versions let many leave at a time.
const MANY: i16 = 3;

impl Handler for LeaveGroup {
    type Request = LeaveGroupRequest;
    type Response = LeaveGroupResponse;
    const KEY: ApiKey = ApiKey::LeaveGroup;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout {
        flexible: 4,
        fields: &[string(), string().until(2), array(&[string(), string(), string().since(5)]).since(3)],
    };

    async fn handle(call: &Call, request: LeaveGroupRequest) -> Result<LeaveGroupResponse, Broken> {
        let one = |member_id: &StrBytes, instance: Option<&StrBytes>, reason: Option<&StrBytes>| v1::LeavingMember {
            member_id: member_id.to_string(),
            instance_id: stated(instance),
            reason: stated(reason),
        };
        let members = match call.version {
            ..MANY => vec![one(&request.member_id, None, None)],
            _ => {
                let all = request.members.iter();
                all.map(|it| one(&it.member_id, it.group_instance_id.as_ref(), it.reason.as_ref())).collect()
            }
        };
        let asked = v1::LeaveGroupRequest { group_id: request.group_id.to_string(), members };
        let left = match answered(call.door.api.coordinator().leave_group(Request::new(asked)).await) {
            Ok(answer) => answer.members,
            Err(error) => return Ok(LeaveGroupResponse::default().with_error_code(error.code())),
        };
        if call.version < MANY {
            let code = code_of(left.first().and_then(|it| it.error.as_ref()));
            return Ok(LeaveGroupResponse::default().with_error_code(code));
        }
        let member = |it: v1::LeftMember| {
            MemberResponse::default()
                .with_error_code(code_of(it.error.as_ref()))
                .with_member_id(text(it.member_id))
                .with_group_instance_id(text_or_none(it.instance_id))
        };
        Ok(LeaveGroupResponse::default().with_members(left.into_iter().map(member).collect()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn leader(skip_assignment: bool) -> v1::JoinGroupResponse {
        v1::JoinGroupResponse {
            generation: 3,
            protocol_type: "consumer".into(),
            protocol_name: "range".into(),
            leader: "m".into(),
            member_id: "m".into(),
            skip_assignment,
            members: vec![v1::JoinedMember {
                member_id: "m".into(),
                instance_id: "i".into(),
                metadata: bytes::Bytes::from_static(b"x"),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn every_version_can_say_what_came_of_a_join() {
        for version in 0..=9 {
            let mut out = BytesMut::new();
            joined(leader(version >= 9), version).encode(&mut out, version).unwrap();
            refused(ResponseError::UnknownMemberId, StrBytes::default(), version).encode(&mut out, version).unwrap();
        }
    }

    #[test]
    fn a_leader_that_need_not_assign_follows_if_it_does_not_know_of_that() {
        let old = joined(leader(true), 8);
        assert_eq!((&*old.leader, old.members.len(), old.skip_assignment), ("", 0, false));
        let new = joined(leader(true), 9);
        assert_eq!((&*new.leader, new.members.len(), new.skip_assignment), ("m", 1, true));
        assert_eq!(joined(leader(false), 5).members.len(), 1);
    }

    #[test]
    fn an_id_to_join_with_is_told_with_the_error() {
        let error = Some(v1::Error::new(highwater_types::ErrorCode::MemberIdRequired, ""));
        let told = joined(v1::JoinGroupResponse { error, ..leader(false) }, 5);
        assert_eq!((told.error_code, &*told.member_id), (ResponseError::MemberIdRequired.code(), "m"));
        assert_eq!(told.generation_id, -1);
    }
}
