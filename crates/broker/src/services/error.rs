//! Failures of this broker as the wire has them: the one mapping of the gRPC door.

use highwater_metadata::ClusterImage;
use highwater_protocol::v1;
use highwater_types::{ErrorCode, Outcome};

use crate::partition::PartitionError;

/// With everything that the asker can use: who leads, which offsets are there, whether the outcome is known.
pub(crate) fn to_wire(error: &PartitionError, image: &ClusterImage) -> v1::Error {
    let mut wire = v1::Error::new(error.code(), error.to_string());
    wire.outcome_unknown = error.outcome() == Outcome::Unknown;
    if let Some((leader, leader_epoch)) = error.leader() {
        let endpoint = image.broker(leader).map(|broker| &broker.client_endpoint);
        wire = wire.with_leader(v1::LeaderHint {
            node_id: leader.get().into(),
            host: endpoint.map(|endpoint| endpoint.host.clone()).unwrap_or_default(),
            port: endpoint.map_or(0, |endpoint| endpoint.port.into()),
            leader_epoch: leader_epoch.get(),
        });
    }
    if let Some((start, end)) = error.valid_offsets() {
        wire = wire.with_valid_offsets(start.get(), end.get());
    }
    wire
}

/// A request that is not what it should be.
pub(crate) fn invalid(message: impl Into<String>) -> v1::Error {
    v1::Error::new(ErrorCode::InvalidRequest, message)
}
