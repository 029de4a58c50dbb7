//! Messages to and from the metadata crate's types.

use std::collections::BTreeSet;

use highwater_metadata::{
    AlterPartition, AlteredPartition, CommandError, Endpoint, IsrMember, NamedEndpoint, PartitionLogEnd, Registration,
};
use highwater_protocol::internal::{self, AlterPartitionResult, BrokerHeartbeat, RegisterBroker, TopicIdPartition};
use highwater_protocol::{PartitionKey, ProtocolError, v1};
use highwater_types::{
    BrokerEpoch, BrokerId, IncarnationId, LeaderEpoch, MetadataVersion, Offset, PartitionEpoch, TopicPartition,
};

use crate::active::{Heartbeat, StorageReport};

type Result<T> = std::result::Result<T, ProtocolError>;

/// Partitions named in one message; more are nobody's.
const PARTITIONS_MAX: usize = 200_000;
/// Listeners of one broker.
const LISTENERS_MAX: usize = 32;

pub(super) fn registration(message: RegisterBroker) -> Result<Registration> {
    let incarnation = IncarnationId::from_slice(&message.incarnation_id).filter(|id| !id.is_nil());
    let endpoint =
        |endpoint: Option<v1::Endpoint>, field| endpoint.ok_or(ProtocolError::Missing(field)).and_then(endpoint_of);
    Ok(Registration {
        broker: BrokerId::new(message.broker_id),
        incarnation: incarnation.ok_or(ProtocolError::Missing("incarnation_id (16 bytes, not all zero)"))?,
        cluster_id: Some(message.cluster_id).filter(|id| !id.is_empty()),
        client_endpoint: endpoint(message.client_endpoint, "client_endpoint")?,
        internal_endpoint: endpoint(message.internal_endpoint, "internal_endpoint")?,
        listeners: listeners(message.listeners)?,
        rack: Some(message.rack).filter(|rack| !rack.is_empty()),
        clean_shutdown: message.clean_shutdown,
        previous_broker_epoch: BrokerEpoch::new(message.previous_broker_epoch),
    })
}

fn listeners(named: Vec<internal::NamedEndpoint>) -> Result<Vec<NamedEndpoint>> {
    if named.len() > LISTENERS_MAX {
        return Err(ProtocolError::Value { field: "listeners", value: named.len() as i64 });
    }
    let mut listeners: Vec<NamedEndpoint> = Vec::with_capacity(named.len());
    for internal::NamedEndpoint { name, endpoint } in named {
        if name.is_empty() || listeners.iter().any(|other| other.name == name) {
            return Err(ProtocolError::Missing("listeners.name, another one for each"));
        }
        let endpoint = endpoint.ok_or(ProtocolError::Missing("listeners.endpoint")).and_then(endpoint_of)?;
        listeners.push(NamedEndpoint { name, endpoint });
    }
    Ok(listeners)
}

pub(super) fn endpoint_of(endpoint: v1::Endpoint) -> Result<Endpoint> {
    let port = u16::try_from(endpoint.port).ok().filter(|port| *port != 0);
    let port = port.ok_or(ProtocolError::Value { field: "endpoint.port", value: endpoint.port.into() })?;
    if endpoint.host.is_empty() {
        return Err(ProtocolError::Missing("endpoint.host"));
    }
    Ok(Endpoint::new(endpoint.host, port))
}

fn partition_of(partition: Option<TopicIdPartition>) -> Result<TopicPartition> {
    partition.ok_or(ProtocolError::Missing("partition"))?.topic_partition()
}

fn bounded<T>(field: &'static str, list: &[T]) -> Result<()> {
    if list.len() > PARTITIONS_MAX {
        return Err(ProtocolError::Value { field, value: list.len() as i64 });
    }
    Ok(())
}

pub(super) fn heartbeat(message: BrokerHeartbeat) -> Result<Heartbeat> {
    bounded("log_ends", &message.log_ends)?;
    bounded("unusable", &message.unusable)?;
    bounded("lost", &message.lost)?;
    bounded("doubtful", &message.doubtful)?;
    let log_ends = message.log_ends.into_iter().map(|end| {
        Ok(PartitionLogEnd {
            partition: partition_of(end.partition)?,
            last_epoch: LeaderEpoch::new(end.last_epoch),
            log_end_offset: Offset::new(end.log_end_offset),
        })
    });
    let partitions = |list: Vec<internal::TopicIdPartition>| {
        list.into_iter().map(|partition| partition.topic_partition()).collect::<Result<BTreeSet<_>>>()
    };
    let storage = StorageReport {
        unusable: partitions(message.unusable)?,
        lost: partitions(message.lost)?,
        doubtful: partitions(message.doubtful)?,
    };
    Ok(Heartbeat {
        metadata_version: MetadataVersion::new(message.metadata_version),
        wants_shutdown: message.wants_shutdown,
        log_ends: log_ends.collect::<Result<_>>()?,
        storage,
    })
}

pub(super) fn alter_partitions(message: Vec<internal::AlterPartition>) -> Result<Vec<AlterPartition>> {
    bounded("partitions", &message)?;
    let one = |alter: internal::AlterPartition| {
        bounded("new_isr", &alter.new_isr)?;
        let member = |m: &internal::IsrMember| IsrMember {
            broker: BrokerId::new(m.broker_id),
            broker_epoch: BrokerEpoch::new(m.broker_epoch),
        };
        Ok(AlterPartition {
            partition: partition_of(alter.partition)?,
            leader_epoch: LeaderEpoch::new(alter.leader_epoch),
            partition_epoch: PartitionEpoch::new(alter.partition_epoch),
            new_isr: alter.new_isr.iter().map(member).collect(),
            recovered: alter.recovered,
        })
    };
    message.into_iter().map(one).collect()
}

pub(super) fn altered(
    partition: TopicPartition,
    result: std::result::Result<AlteredPartition, CommandError>,
) -> AlterPartitionResult {
    let partition = Some(partition.into());
    match result {
        Ok(altered) => AlterPartitionResult {
            partition,
            error: None,
            leader_epoch: altered.leader_epoch.get(),
            partition_epoch: altered.partition_epoch.get(),
            isr: altered.isr.into_iter().map(BrokerId::get).collect(),
        },
        Err(error) => AlterPartitionResult {
            partition,
            error: Some(v1::Error::new(error.code(), error.to_string())),
            leader_epoch: LeaderEpoch::NONE.get(),
            partition_epoch: PartitionEpoch::NONE.get(),
            isr: Vec::new(),
        },
    }
}
