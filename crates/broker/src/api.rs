//! What a front door in another crate has of the broker: the same methods that the gRPC services call, in the process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use highwater_metadata::ClusterImage;
use highwater_protocol::v1::admin_server::Admin;
use highwater_protocol::v1::coordinator_server::Coordinator;
use highwater_seams::{Listener, Seams};
use tokio_util::sync::CancellationToken;

use crate::cluster::ClusterLink;
use crate::connections::{GuardedIo, guarded};
use crate::core::Core;
use crate::services::admin::AdminService;
use crate::services::coordinator::CoordinatorService;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct BrokerApi {
    /// Partitions (produce, fetch, offsets), budgets, configuration, and whether the broker stops.
    pub core: Arc<Core>,
    /// Registration and metadata.
    pub link: ClusterLink,
    pub(crate) admin: Arc<AdminService>,
    pub(crate) coordinator: Arc<CoordinatorService>,
    pub seams: Seams,
    /// Cancelled as the first step of a shutdown, while the broker still leads and serves.
    pub ending: CancellationToken,
}

impl BrokerApi {
    /// Topics, configurations and the cluster. What it is asked goes on to who can answer, as for a gRPC client.
    pub fn admin(&self) -> &(impl Admin + use<>) {
        &*self.admin
    }

    /// Groups and transactions that are coordinated here.
    pub fn coordinator(&self) -> &(impl Coordinator + use<>) {
        &*self.coordinator
    }

    /// The newest that this broker knows of the cluster, and tells its clients. Its partitions take it up a little later.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.link.image()
    }

    /// The connections of `listener`, within the broker's bounds. Each has to say its first `handshake_bytes` in time.
    pub fn connections(
        &self,
        listener: Box<dyn Listener>,
        handshake_bytes: usize,
    ) -> impl Stream<Item = io::Result<GuardedIo>> + Send + use<> {
        let handshake = Duration::from_millis(self.core.config.limits.handshake_ms);
        let (room, metrics) = (Arc::clone(&self.core.connections), Arc::clone(self.core.partitions.metrics()));
        guarded(listener, room, handshake, handshake_bytes, metrics)
    }
}
