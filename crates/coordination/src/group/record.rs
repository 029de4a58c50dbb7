//! The records of `__consumer_offsets`: what outlives a coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_types::{
    GroupId, InstanceId, LeaderEpoch, MemberEpoch, MemberId, Offset, PartitionId, TimestampMs, TopicId, TopicPartition,
};
use prost::Message;

use super::classic;
use super::state::{ClassicFacts, Group, Member};
use super::{CommittedOffset, Subscription};
use crate::CoordinatorRecord;

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    group: String,
    #[prost(string, tag = "3")]
    member: String,
    #[prost(message, optional, tag = "4")]
    partition: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unknown = 0,
    Group = 1,
    Member = 2,
    Target = 3,
    Offset = 4,
    Classic = 5,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(bytes = "bytes", tag = "1")]
    topic: Bytes,
    #[prost(uint32, tag = "2")]
    partition: u32,
    /// Of an assigned one: since which epoch.
    #[prost(sint32, tag = "3")]
    since: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GroupValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(sint32, tag = "2")]
    epoch: i32,
    #[prost(sint64, optional, tag = "3")]
    empty_since: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, optional, tag = "2")]
    instance: Option<String>,
    #[prost(string, optional, tag = "3")]
    rack: Option<String>,
    #[prost(string, tag = "4")]
    client_id: String,
    #[prost(string, tag = "5")]
    client_host: String,
    #[prost(string, repeated, tag = "6")]
    topics: Vec<String>,
    #[prost(string, tag = "7")]
    pattern: String,
    #[prost(string, tag = "8")]
    assignor: String,
    #[prost(uint64, tag = "9")]
    rebalance_timeout_ms: u64,
    #[prost(sint32, tag = "10")]
    epoch: i32,
    #[prost(sint32, tag = "11")]
    previous_epoch: i32,
    #[prost(message, repeated, tag = "12")]
    assigned: Vec<Part>,
    #[prost(message, repeated, tag = "13")]
    revoking: Vec<Part>,
    /// Of one that speaks the classic protocol.
    #[prost(message, optional, tag = "14")]
    classic: Option<ClassicValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ClassicValue {
    #[prost(uint64, tag = "1")]
    session_timeout_ms: u64,
    #[prost(message, repeated, tag = "2")]
    protocols: Vec<classic::ProtocolValue>,
}

#[derive(Clone, PartialEq, Message)]
struct TargetValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<Part>,
}

#[derive(Clone, PartialEq, Message)]
struct OffsetValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int64, tag = "2")]
    offset: i64,
    #[prost(sint32, tag = "3")]
    leader_epoch: i32,
    #[prost(string, tag = "4")]
    metadata: String,
    #[prost(int64, tag = "5")]
    at: i64,
}

/// What a record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Epoch, and since when it has no members; `None`: there is no such group any more.
    Group(Option<(i32, Option<TimestampMs>)>),
    Member(MemberId, Option<Box<Member>>),
    Target(MemberId, Option<BTreeSet<TopicPartition>>),
    Offset(TopicPartition, Option<CommittedOffset>),
    Classic(Option<classic::Durable>),
}

fn part(tp: &TopicPartition, since: i32) -> Part {
    Part { topic: Bytes::copy_from_slice(tp.topic.as_bytes()), partition: tp.partition.get(), since }
}

fn whole(part: &Part) -> Result<TopicPartition, String> {
    let topic = TopicId::from_slice(&part.topic).ok_or_else(|| "a topic id is not 16 bytes long".to_owned())?;
    Ok(TopicPartition::new(topic, PartitionId::new(part.partition)))
}

fn record(key: &Key, value: Option<Vec<u8>>) -> CoordinatorRecord {
    CoordinatorRecord { key: key.encode_to_vec().into(), value: value.map(Bytes::from) }
}

fn key(kind: Kind, group: &GroupId) -> Key {
    Key { kind: kind.into(), group: group.as_str().to_owned(), member: String::new(), partition: None }
}

fn of_member(kind: Kind, group: &GroupId, member: &MemberId) -> Key {
    Key { member: member.as_str().to_owned(), ..key(kind, group) }
}

pub(super) fn offset(group: &GroupId, tp: &TopicPartition, committed: Option<&CommittedOffset>) -> CoordinatorRecord {
    let value = committed.map(|it| OffsetValue {
        version: VERSION,
        offset: it.offset.get(),
        leader_epoch: it.leader_epoch.get(),
        metadata: it.metadata.clone(),
        at: it.at.get(),
    });
    record(&Key { partition: Some(part(tp, 0)), ..key(Kind::Offset, group) }, value.map(|it| it.encode_to_vec()))
}

pub(super) fn group(id: &GroupId, epoch: i32, empty_since: Option<TimestampMs>) -> CoordinatorRecord {
    let value = GroupValue { version: VERSION, epoch, empty_since: empty_since.map(TimestampMs::get) };
    record(&key(Kind::Group, id), Some(value.encode_to_vec()))
}

/// `None`: it is no classic group any more.
pub(super) fn classic(id: &GroupId, group: Option<&classic::Durable>) -> CoordinatorRecord {
    record(&key(Kind::Classic, id), group.map(classic::value))
}

fn member_value(member: &Member) -> Vec<u8> {
    let classic = |it: &Arc<ClassicFacts>| ClassicValue {
        session_timeout_ms: u64::try_from(it.session_timeout.as_millis()).unwrap_or(u64::MAX),
        protocols: it.protocols.iter().map(Into::into).collect(),
    };
    let value = MemberValue {
        version: VERSION,
        instance: member.instance.as_ref().map(|it| it.as_str().to_owned()),
        rack: member.rack.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        topics: member.subscription.topics.iter().cloned().collect(),
        pattern: member.subscription.pattern.clone(),
        assignor: member.assignor.clone(),
        rebalance_timeout_ms: u64::try_from(member.rebalance_timeout.as_millis()).unwrap_or(u64::MAX),
        epoch: member.epoch.get(),
        previous_epoch: member.previous_epoch.get(),
        assigned: member.assigned.iter().map(|(tp, since)| part(tp, since.get())).collect(),
        revoking: member.revoking.iter().map(|(tp, since)| part(tp, since.get())).collect(),
        classic: member.classic.as_ref().map(classic),
    };
    value.encode_to_vec()
}

fn target_value(target: &BTreeSet<TopicPartition>) -> Vec<u8> {
    TargetValue { version: VERSION, partitions: target.iter().map(|tp| part(tp, 0)).collect() }.encode_to_vec()
}

/// The records that make `old` into `new`.
pub(super) fn changes(id: &GroupId, old: &Group, new: &Group) -> Vec<CoordinatorRecord> {
    let mut records = Vec::new();
    if (old.epoch, old.empty_since) != (new.epoch, new.empty_since) {
        let is_gone = *new == Group::default();
        let gone = || record(&key(Kind::Group, id), None);
        records.push(if is_gone { gone() } else { group(id, new.epoch, new.empty_since) });
    }
    let same = |a: Option<&Arc<Member>>, b: Option<&Arc<Member>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    };
    let members: BTreeSet<&MemberId> = old.members.keys().chain(new.members.keys()).collect();
    for member in members {
        let after = new.members.get(member);
        if !same(old.members.get(member), after) {
            records.push(record(&of_member(Kind::Member, id, member), after.map(|it| member_value(it))));
        }
    }
    let targets: BTreeSet<&MemberId> = old.target.keys().chain(new.target.keys()).collect();
    for member in targets {
        let after = new.target.get(member);
        if old.target.get(member) != after {
            records.push(record(&of_member(Kind::Target, id, member), after.map(|it| target_value(it))));
        }
    }
    records
}

/// `None` for a kind that only newer versions know.
pub(super) fn parse(found: &CoordinatorRecord) -> Result<Option<(GroupId, Change)>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let key = Key::decode(&*found.key).map_err(|error| text(&error))?;
    let kind = Kind::try_from(key.kind).unwrap_or(Kind::Unknown);
    if kind == Kind::Unknown {
        return Ok(None);
    }
    let group = GroupId::new(&key.group).map_err(|error| text(&error))?;
    let member = || MemberId::new(&key.member).map_err(|error| text(&error));
    let change = match kind {
        Kind::Unknown => return Ok(None),
        Kind::Group => {
            let value = found.value.as_deref().map(GroupValue::decode).transpose().map_err(|error| text(&error))?;
            Change::Group(value.map(|it| (it.epoch, it.empty_since.map(TimestampMs::new))))
        }
        Kind::Member => {
            let value = found.value.as_deref().map(MemberValue::decode).transpose().map_err(|error| text(&error))?;
            Change::Member(member()?, value.map(parse_member).transpose()?.map(Box::new))
        }
        Kind::Target => {
            let value = found.value.as_deref().map(TargetValue::decode).transpose().map_err(|error| text(&error))?;
            let target = value.map(|it| it.partitions.iter().map(whole).collect::<Result<_, String>>()).transpose()?;
            Change::Target(member()?, target)
        }
        Kind::Offset => {
            let tp = whole(&key.partition.ok_or("an offset has no partition")?)?;
            let value = found.value.as_deref().map(OffsetValue::decode).transpose().map_err(|error| text(&error))?;
            let committed = value.map(|it| CommittedOffset {
                offset: Offset::new(it.offset),
                leader_epoch: LeaderEpoch::new(it.leader_epoch),
                metadata: it.metadata,
                at: TimestampMs::new(it.at),
            });
            Change::Offset(tp, committed)
        }
        Kind::Classic => Change::Classic(found.value.as_deref().map(classic::parse).transpose()?),
    };
    Ok(Some((group, change)))
}

fn parse_member(value: MemberValue) -> Result<Member, String> {
    let since = |it: &Part| Ok((whole(it)?, MemberEpoch::new(it.since)));
    let classic = |it: ClassicValue| ClassicFacts {
        session_timeout: Duration::from_millis(it.session_timeout_ms),
        protocols: it.protocols.into_iter().map(Into::into).collect(),
    };
    Ok(Member {
        instance: value.instance.map(InstanceId::new).transpose().map_err(|error| error.to_string())?,
        rack: value.rack,
        client_id: value.client_id,
        client_host: value.client_host,
        subscription: Subscription { topics: value.topics.into_iter().collect(), pattern: value.pattern },
        assignor: value.assignor,
        rebalance_timeout: Duration::from_millis(value.rebalance_timeout_ms),
        epoch: MemberEpoch::new(value.epoch),
        previous_epoch: MemberEpoch::new(value.previous_epoch),
        assigned: value.assigned.iter().map(since).collect::<Result<BTreeMap<_, _>, String>>()?,
        revoking: value.revoking.iter().map(since).collect::<Result<BTreeMap<_, _>, String>>()?,
        classic: value.classic.map(classic).map(Arc::new),
    })
}
