//! Waiting for states of the cluster, as its brokers see them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::v1;
use highwater_protocol::v1::admin_client::AdminClient;
use highwater_protocol::v1::metadata_client::MetadataClient;
use highwater_seams::{Net, TcpNet};
use tokio::time::{Instant, sleep, timeout};

use super::{ClusterError, LocalCluster, NodeId};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(10);
/// The deadline of one call.
const CALL: Duration = Duration::from_secs(1);

impl LocalCluster {
    /// Waits until every running controller accepts connections, and every running broker serves and knows every
    /// other running one as not fenced.
    pub async fn wait_ready(&mut self, deadline: Duration) -> Result<(), ClusterError> {
        let until = Instant::now() + deadline;
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let mut waiting: BTreeMap<NodeId, u16> =
            self.nodes.iter().filter(|(_, node)| node.was_started()).map(|(id, node)| (*id, node.port)).collect();
        let brokers: Vec<u32> = waiting.keys().filter_map(|id| broker_number(*id)).collect();
        let mut last_seen = String::new();
        loop {
            self.check_alive()?;
            for (id, port) in waiting.clone() {
                let ready = if id.is_broker() {
                    serves_with(&net, port, &brokers).await
                } else {
                    net.connect("127.0.0.1", port).await.map(drop).map_err(|error| error.to_string())
                };
                match ready {
                    Ok(()) => {
                        waiting.remove(&id);
                    }
                    Err(seen) => last_seen = format!("; {id}: {seen}"),
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let names: Vec<String> = waiting.keys().map(NodeId::to_string).collect();
                let what = format!("the start of {}", names.join(", "));
                return Err(ClusterError::TimedOut { what, deadline, detail: last_seen });
            }
            sleep(EVERY).await;
        }
    }

    /// What the cluster says of itself, asked of the first running broker that answers.
    pub async fn describe(&self, deadline: Duration) -> Result<v1::DescribeClusterResponse, ClusterError> {
        let until = Instant::now() + deadline;
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let mut detail = String::new();
        loop {
            for (id, node) in self.nodes.iter().filter(|(id, node)| id.is_broker() && node.was_started()) {
                let mut admin = AdminClient::new(highwater_seams::channel(&net, "127.0.0.1", node.port));
                match timeout(CALL, admin.describe_cluster(v1::DescribeClusterRequest {})).await {
                    Ok(Ok(answer)) => return Ok(answer.into_inner()),
                    Ok(Err(status)) => detail = format!("; {id}: {}", status.message()),
                    Err(_) => detail = format!("; {id} does not answer"),
                }
            }
            if Instant::now() >= until {
                return Err(ClusterError::TimedOut { what: "describing the cluster".to_owned(), deadline, detail });
            }
            sleep(EVERY).await;
        }
    }

    /// The active controller, once there is one other than `not`.
    pub async fn active_controller(&self, not: Option<NodeId>, deadline: Duration) -> Result<NodeId, ClusterError> {
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let active = self.describe(left).await?.active_controller.map(NodeId::controller);
            match active.filter(|active| Some(*active) != not) {
                Some(active) => return Ok(active),
                None if left.is_zero() => {
                    let what = "the election of an active controller".to_owned();
                    return Err(ClusterError::TimedOut { what, deadline, detail: String::new() });
                }
                None => sleep(EVERY).await,
            }
        }
    }
}

fn broker_number(id: NodeId) -> Option<u32> {
    match id {
        NodeId::Broker(id) => Some(id.get()),
        NodeId::Controller(_) => None,
    }
}

/// Whether the broker at `port` answers and sees all of `brokers` as not fenced; else what it said.
async fn serves_with(net: &Arc<dyn Net>, port: u16, brokers: &[u32]) -> Result<(), String> {
    let mut metadata = MetadataClient::new(highwater_seams::channel(net, "127.0.0.1", port));
    let answer = match timeout(CALL, metadata.get_metadata(v1::GetMetadataRequest { topics: Vec::new() })).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err("it does not answer".to_owned()),
    };
    let serving = |id: &u32| answer.brokers.iter().any(|broker| broker.broker_id == *id && !broker.fenced);
    match brokers.iter().find(|id| !serving(id)) {
        None => Ok(()),
        Some(missing) => Err(format!("it does not see broker {missing} in service")),
    }
}
