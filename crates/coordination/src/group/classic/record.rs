//! The value of a classic group's record in `__consumer_offsets`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{InstanceId, MemberId};
use prost::Message;

use super::Protocol;
use super::state::{Durable, Member};

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct GroupValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    protocol_type: String,
    #[prost(string, tag = "3")]
    protocol: String,
    #[prost(string, optional, tag = "4")]
    leader: Option<String>,
    #[prost(bool, tag = "5")]
    is_assigned: bool,
    #[prost(message, repeated, tag = "6")]
    members: Vec<MemberValue>,
    #[prost(bool, tag = "7")]
    is_over: bool,
}

#[derive(Clone, PartialEq, Message)]
struct MemberValue {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(string, optional, tag = "2")]
    instance: Option<String>,
    #[prost(string, tag = "3")]
    client_id: String,
    #[prost(string, tag = "4")]
    client_host: String,
    #[prost(uint64, tag = "5")]
    session_timeout_ms: u64,
    #[prost(uint64, tag = "6")]
    rebalance_timeout_ms: u64,
    #[prost(message, repeated, tag = "7")]
    protocols: Vec<ProtocolValue>,
    #[prost(bytes = "bytes", tag = "8")]
    assignment: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(in super::super) struct ProtocolValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    metadata: Bytes,
}

impl From<&Protocol> for ProtocolValue {
    fn from(it: &Protocol) -> Self {
        Self { name: it.name.clone(), metadata: it.metadata.clone() }
    }
}

impl From<ProtocolValue> for Protocol {
    fn from(it: ProtocolValue) -> Self {
        Self { name: it.name, metadata: it.metadata }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(in super::super) fn value(group: &Durable) -> Vec<u8> {
    let member = |(id, it): (&MemberId, &Arc<Member>)| MemberValue {
        member: id.as_str().to_owned(),
        instance: it.instance.as_ref().map(|it| it.as_str().to_owned()),
        client_id: it.client_id.clone(),
        client_host: it.client_host.clone(),
        session_timeout_ms: millis(it.session_timeout),
        rebalance_timeout_ms: millis(it.rebalance_timeout),
        protocols: it.protocols.iter().map(Into::into).collect(),
        assignment: it.assignment.clone(),
    };
    let value = GroupValue {
        version: VERSION,
        protocol_type: group.protocol_type.clone(),
        protocol: group.protocol.clone(),
        leader: group.leader.as_ref().map(|it| it.as_str().to_owned()),
        is_assigned: group.is_assigned,
        members: group.members.iter().map(member).collect(),
        is_over: group.is_over,
    };
    value.encode_to_vec()
}

pub(in super::super) fn parse(bytes: &[u8]) -> Result<Durable, String> {
    let value = GroupValue::decode(bytes).map_err(|error| error.to_string())?;
    Ok(Durable {
        protocol_type: value.protocol_type,
        protocol: value.protocol,
        leader: value.leader.map(MemberId::new).transpose().map_err(|error| error.to_string())?,
        is_assigned: value.is_assigned,
        is_over: value.is_over,
        members: value.members.into_iter().map(parse_member).collect::<Result<_, String>>()?,
    })
}

fn parse_member(value: MemberValue) -> Result<(MemberId, Arc<Member>), String> {
    let member = Member {
        instance: value.instance.map(InstanceId::new).transpose().map_err(|error| error.to_string())?,
        client_id: value.client_id,
        client_host: value.client_host,
        session_timeout: Duration::from_millis(value.session_timeout_ms),
        rebalance_timeout: Duration::from_millis(value.rebalance_timeout_ms),
        protocols: value.protocols.into_iter().map(Into::into).collect(),
        assignment: value.assignment,
    };
    Ok((MemberId::new(value.member).map_err(|error| error.to_string())?, Arc::new(member)))
}
