//! The calls of the classic group protocol: decode, one call of a coordinator, encode. Joins and syncs are answered once the
//! group has come so far; until then nothing of them is here but the waiting call.

use std::time::Duration;

use highwater_coordination::group::{
    JoinAnswer, JoinRequest, LeavingMember, LeftMember, Protocol, Request, Response, SyncRequest,
};
use highwater_protocol::v1::*;
use highwater_types::{ErrorCode, Generation, InstanceId, MemberId};
use tonic::Status;

use super::groups::{given, unexpected};
use super::{Answered, CoordinatorService, WireError, convert};

/// The empty text is none.
fn member_id(text: &str) -> Result<Option<MemberId>, Status> {
    if text.is_empty() { Ok(None) } else { convert::member_id(text).map(Some) }
}

fn stated(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn joined(answer: JoinAnswer) -> JoinGroupResponse {
    let one = |it: highwater_coordination::group::JoinedMember| JoinedMember {
        member_id: it.member.to_string(),
        instance_id: it.instance.map(|it| it.to_string()).unwrap_or_default(),
        metadata: it.metadata,
    };
    JoinGroupResponse {
        error: None,
        generation: answer.generation.get(),
        protocol_type: answer.protocol_type,
        protocol_name: answer.protocol,
        leader: answer.leader.to_string(),
        member_id: answer.member.to_string(),
        skip_assignment: answer.skip_assignment,
        members: answer.members.into_iter().map(one).collect(),
    }
}

fn left(it: LeftMember) -> LeftMemberOnWire {
    LeftMemberOnWire {
        member_id: it.asked.member.map(|it| it.to_string()).unwrap_or_default(),
        instance_id: it.asked.instance.map(|it| it.to_string()).unwrap_or_default(),
        error: it.result.err().map(|error| convert::group_error(&error)),
    }
}

type LeftMemberOnWire = highwater_protocol::v1::LeftMember;

impl CoordinatorService {
    /// An id that nobody else has, and that says whose it is.
    fn fresh_member(&self, client: &str, instance: Option<&InstanceId>) -> Result<MemberId, Status> {
        let random = self.entropy.next_u128();
        let name = instance.map_or(client, InstanceId::as_str);
        let id = MemberId::new(format!("{name}-{random:032x}"));
        id.or_else(|_| convert::member_id(&format!("{random:032x}")))
    }

    pub(super) async fn join(&self, asked: JoinGroupRequest) -> Answered<JoinGroupResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let instance = convert::instance_id(&asked.instance_id)?;
        let protocols = asked.protocols.into_iter();
        let request = JoinRequest {
            group: group.clone(),
            member: member_id(&asked.member_id)?,
            fresh: self.fresh_member(&asked.client_id, instance.as_ref())?,
            instance,
            session_timeout: Duration::from_millis(asked.session_timeout_ms.into()),
            rebalance_timeout: Duration::from_millis(asked.rebalance_timeout_ms.into()),
            protocol_type: asked.protocol_type,
            protocols: protocols.map(|it| Protocol { name: it.name, metadata: it.metadata }).collect(),
            require_known_member: asked.require_known_member_id,
            client_id: asked.client_id,
            client_host: asked.client_host,
        };
        match self.ask_group(&group, Request::Join(request)).await? {
            Response::Joined(answer) => given(joined(answer)),
            Response::MemberIdRequired(member) => {
                let error = WireError::new(ErrorCode::MemberIdRequired, "join again with the member id of this answer");
                let (error, member_id) = (Some(error), member.to_string());
                given(JoinGroupResponse { error, member_id, generation: Generation::NONE.get(), ..Default::default() })
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn sync(&self, asked: SyncGroupRequest) -> Answered<SyncGroupResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let one = |it: MemberAssignment| Ok((convert::member_id(&it.member_id)?, it.assignment));
        let request = SyncRequest {
            group: group.clone(),
            member: convert::member_id(&asked.member_id)?,
            generation: Generation::new(asked.generation),
            instance: convert::instance_id(&asked.instance_id)?,
            protocol_type: stated(asked.protocol_type),
            protocol: stated(asked.protocol_name),
            assignments: asked.assignments.into_iter().map(one).collect::<Result<_, Status>>()?,
        };
        match self.ask_group(&group, Request::Sync(request)).await? {
            Response::Synced(answer) => given(SyncGroupResponse {
                protocol_type: answer.protocol_type,
                protocol_name: answer.protocol,
                assignment: answer.assignment,
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn heartbeat_of_classic(&self, asked: HeartbeatRequest) -> Answered<HeartbeatResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let request = Request::ClassicHeartbeat {
            group: group.clone(),
            member: convert::member_id(&asked.member_id)?,
            generation: Generation::new(asked.generation),
            instance: convert::instance_id(&asked.instance_id)?,
        };
        match self.ask_group(&group, request).await? {
            Response::Alive => given(HeartbeatResponse {}),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn leave(&self, asked: LeaveGroupRequest) -> Answered<LeaveGroupResponse> {
        let group = convert::group_id(&asked.group_id)?;
        let one = |it: highwater_protocol::v1::LeavingMember| {
            Ok(LeavingMember { member: member_id(&it.member_id)?, instance: convert::instance_id(&it.instance_id)? })
        };
        let members = asked.members.into_iter().map(one).collect::<Result<_, Status>>()?;
        match self.ask_group(&group, Request::Leave { group: group.clone(), members }).await? {
            Response::Left(them) => given(LeaveGroupResponse { members: them.into_iter().map(left).collect() }),
            other => Err(unexpected(&other)),
        }
    }
}
