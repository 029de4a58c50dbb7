//! The metadata crate's types to and from the controller's messages.

use highwater_metadata::{AlterPartition, AlteredPartition, Endpoint, NamedEndpoint};
use highwater_protocol::internal::{self, AlterPartitionResult, RegisterBroker};
use highwater_protocol::v1;
use highwater_types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};

use super::Shared;

pub(crate) fn endpoint(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint { host: endpoint.host.clone(), port: endpoint.port.into() }
}

fn listener(listener: &NamedEndpoint) -> internal::NamedEndpoint {
    internal::NamedEndpoint { name: listener.name.clone(), endpoint: Some(endpoint(&listener.endpoint)) }
}

/// The endpoint that an error names as the right one to ask.
pub(super) fn hinted(error: &v1::Error) -> Option<Endpoint> {
    let leader = error.leader.as_ref().filter(|leader| !leader.host.is_empty())?;
    Some(Endpoint::new(leader.host.clone(), u16::try_from(leader.port).ok().filter(|port| *port != 0)?))
}

pub(super) fn registration(shared: &Shared, from_snapshot: bool) -> RegisterBroker {
    let config = &shared.config;
    let cluster_id = shared.status.borrow().cluster_id.clone().unwrap_or_default();
    let version = if from_snapshot { 0 } else { shared.image.borrow().version.get() };
    RegisterBroker {
        broker_id: config.broker.get(),
        incarnation_id: bytes::Bytes::copy_from_slice(shared.incarnation.as_bytes()),
        cluster_id,
        client_endpoint: Some(endpoint(&config.client_endpoint)),
        internal_endpoint: Some(endpoint(&config.internal_endpoint)),
        listeners: config.listeners.iter().map(listener).collect(),
        rack: config.rack.clone().unwrap_or_default(),
        clean_shutdown: config.clean_shutdown.is_some(),
        previous_broker_epoch: config.clean_shutdown.unwrap_or(BrokerEpoch::NONE).get(),
        metadata_version: version,
    }
}

pub(super) fn proposal(proposal: &AlterPartition) -> internal::AlterPartition {
    let member = |member: &highwater_metadata::IsrMember| internal::IsrMember {
        broker_id: member.broker.get(),
        broker_epoch: member.broker_epoch.get(),
    };
    internal::AlterPartition {
        partition: Some(proposal.partition.into()),
        leader_epoch: proposal.leader_epoch.get(),
        partition_epoch: proposal.partition_epoch.get(),
        new_isr: proposal.new_isr.iter().map(member).collect(),
        recovered: proposal.recovered,
    }
}

pub(super) fn altered(result: AlterPartitionResult) -> Result<AlteredPartition, v1::Error> {
    match result.error {
        Some(error) => Err(error),
        None => Ok(AlteredPartition {
            leader_epoch: LeaderEpoch::new(result.leader_epoch),
            partition_epoch: PartitionEpoch::new(result.partition_epoch),
            isr: result.isr.into_iter().map(BrokerId::new).collect(),
        }),
    }
}
