//! Asks after the brokers that a new active controller has not heard of.
//!
//! A broker that died together with the controller before (a node with both roles, a machine) closes no stream to the new
//! one, which would wait the whole session timeout for it. But its port tells: a refused connection means that its host is
//! there and nobody listens, which is a dead process. Anything else says nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Endpoint};
use highwater_seams::Net;
use highwater_types::{BrokerEpoch, BrokerId};
use tokio::task::JoinSet;

/// Connections being tried; dropped with the term of office.
#[derive(Default)]
pub(super) struct Probes(JoinSet<Option<(BrokerId, BrokerEpoch)>>);

impl Probes {
    /// Tries the port of every broker that counts as alive, after they have had `delay` to come by themselves.
    pub(super) fn begin(image: &ClusterImage, net: &Arc<dyn Net>, delay: Duration) -> Self {
        let mut probes = JoinSet::new();
        for broker in image.brokers.values().filter(|broker| !broker.fenced) {
            let (id, epoch, endpoint) = (broker.id, broker.broker_epoch, broker.internal_endpoint.clone());
            let net = Arc::clone(net);
            probes.spawn(async move {
                tokio::time::sleep(delay).await;
                is_refused(&*net, &endpoint).await.then_some((id, epoch))
            });
        }
        Self(probes)
    }

    /// The next broker whose port is closed; never resolves once all are known. Can be dropped and called again.
    pub(super) async fn next_refused(&mut self) -> (BrokerId, BrokerEpoch) {
        loop {
            match self.0.join_next().await {
                Some(Ok(Some(found))) => return found,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

async fn is_refused(net: &dyn Net, endpoint: &Endpoint) -> bool {
    match net.connect(&endpoint.host, endpoint.port).await {
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    }
}
