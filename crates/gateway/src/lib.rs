//! The service of thin clients, `highwater.v1.Records`: plain records in and out, through any broker, for any language
//! from the .proto alone.
//!
//! It is a client of the cluster that happens to run inside a broker: it finds leaders by metadata like any other, and
//! holds no log and no decision of its own. Everything here is bounded: calls and streams open at once, records waiting
//! in producers, what a reader that does not read has ahead of it.
#![warn(missing_docs)]

mod error;
mod limits;
mod publish;
mod publisher;
mod read;
mod service;
mod state;
mod subscribe;
mod wire;

use std::sync::Arc;

use highwater_protocol::v1::records_server::RecordsServer;
use highwater_seams::Seams;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use limits::GatewayLimits;
use service::Service;
use state::State;

/// The service's full name, as health checks and reflection know it.
pub const SERVICE_NAME: &str = "highwater.v1.Records";

/// The service, to be mounted into a server.
pub struct Gateway {
    state: Arc<State>,
}

impl Gateway {
    /// `bootstrap` is where to reach the cluster, best the broker that this runs in; it is connected to with the first
    /// call. After `ending`, calls are refused and streams end, with UNAVAILABLE: clients go to another broker.
    pub fn new(bootstrap: String, limits: GatewayLimits, seams: Seams, ending: CancellationToken) -> Self {
        Self { state: Arc::new(State::new(bootstrap, limits, seams, ending)) }
    }

    /// `routes` and this service.
    pub fn mount(self, routes: Routes) -> Routes {
        let message_bytes_max = self.state.limits.message_bytes_max;
        let server = RecordsServer::new(Service::new(self.state)).max_decoding_message_size(message_bytes_max);
        routes.add_service(server)
    }
}
