//! `highwater health`: asks one node whether it serves. For container health checks and scripts.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use highwater_seams::{Net, TcpNet, channel};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::args::{block_on, parse_seconds};
use crate::config::HostPort;
use crate::failure::{Failure, Outcome};

/// Ask one node, broker or controller, whether it serves; exit with 0 if so.
///
/// A broker serves once it has recovered its logs, is registered, and may lead. It is the standard gRPC health check, so
/// that other tools can ask the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater health
  highwater health controller-1:9093 --timeout 2")]
pub struct Health {
    /// The node.
    #[arg(default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    address: HostPort,
    /// How long it may take to answer, in seconds.
    #[arg(long, default_value = "3", value_parser = parse_seconds, value_name = "SECONDS")]
    timeout: Duration,
}

impl Health {
    pub fn run(self) -> Outcome {
        block_on(self.check())
    }

    async fn check(self) -> Outcome {
        let Self { address, timeout } = self;
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let mut client = HealthClient::new(channel(&net, &address.host, address.port));
        let asked = client.check(HealthCheckRequest::default());
        let answer = tokio::time::timeout(timeout, asked).await;
        let answer =
            answer.map_err(|_| Failure::unreachable(format!("{address} did not answer within {timeout:?}")))?;
        let answer = answer.map_err(|status| Failure::unreachable(format!("{address}: {}", status.message())))?;
        match answer.into_inner().status() {
            ServingStatus::Serving => Ok(()),
            _ => Err(Failure::failed(format!("{address} does not serve yet, or no more"))),
        }
    }
}
