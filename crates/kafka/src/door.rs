//! The listeners, and what their connections share.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use highwater_broker::{BrokerApi, DoorListener};
use highwater_metadata::{BrokerState, ClusterImage, Endpoint};
use highwater_types::BrokerId;
use tokio::task::JoinSet;

use crate::apis::fetch::session::Sessions;
use crate::connection;
use crate::frame::HANDSHAKE_BYTES;
use crate::metrics::Metrics;
use crate::seldom::Seldom;

/// Settings of the door.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// Whether a client's question about a topic that is not there makes it, if the client allows it.
    pub auto_create_topics: bool,
    /// The largest request.
    pub request_bytes_max: usize,
    /// A connection on which nothing comes or goes for so long is closed.
    pub idle: Duration,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self { auto_create_topics: false, request_bytes_max: 100 << 20, idle: Duration::from_secs(600) }
    }
}

/// What the connections of one listener share.
pub(crate) struct Door {
    pub api: BrokerApi,
    pub config: KafkaConfig,
    /// Of all listeners.
    pub sessions: Arc<Sessions>,
    /// Of all listeners.
    pub metrics: Arc<Metrics>,
    /// About clients of this listener.
    pub complaints: Seldom,
    /// The listener's name: clients are told of the endpoints of that name.
    pub listener: String,
}

impl Door {
    /// Where clients of this listener reach a broker.
    pub(crate) fn endpoint<'a>(&self, broker: &'a BrokerState) -> Option<&'a Endpoint> {
        broker.listener(&self.listener)
    }

    /// The same, of a broker that is up.
    pub(crate) fn endpoint_of<'a>(&self, image: &'a ClusterImage, broker: BrokerId) -> Option<&'a Endpoint> {
        image.broker(broker).filter(|broker| !broker.fenced).and_then(|broker| self.endpoint(broker))
    }
}

/// The door, for [`ExtraServices::with_door`](highwater_broker::ExtraServices::with_door): runs until the broker stops and
/// what its clients are owed is answered.
pub fn serve(config: KafkaConfig, api: BrokerApi, listeners: Vec<DoorListener>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let sessions = Arc::default();
        let metrics = Arc::new(Metrics::of(listeners.iter().map(|listener| listener.name.as_str())));
        let scraped = Arc::clone(&metrics);
        // A broker opens one such door.
        let _ = api.core.partitions.metrics().door.set(Box::new(move |page| scraped.write(page)));
        let mut listening = JoinSet::new();
        for DoorListener { name, listener, advertised } in listeners {
            // As a Kafka client's setting is called: of a container, its log is where to find it.
            tracing::info!(listener = name, bootstrap.servers = %advertised, "listening for Kafka clients");
            let door = Arc::new(Door {
                api: api.clone(),
                config: config.clone(),
                sessions: Arc::clone(&sessions),
                metrics: Arc::clone(&metrics),
                complaints: Seldom::default(),
                listener: name,
            });
            let connections = api.connections(listener, HANDSHAKE_BYTES);
            listening.spawn(accept(door, connections));
        }
        while listening.join_next().await.is_some() {}
    })
}

async fn accept(
    door: Arc<Door>,
    connections: impl futures::Stream<Item = std::io::Result<highwater_broker::GuardedIo>> + Send,
) {
    let mut connections = std::pin::pin!(connections);
    let mut open = JoinSet::new();
    loop {
        door.metrics.connections(&door.listener, open.len());
        tokio::select! {
            biased;
            () = door.api.core.stopping.cancelled() => break,
            // Those that ended make room.
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = connections.next() => match accepted {
                Some(Ok(io)) => _ = open.spawn(connection::serve(io, Arc::clone(&door))),
                Some(Err(error)) => tracing::debug!(%error, "a connection was not accepted"),
                None => break,
            },
        }
    }
    while open.join_next().await.is_some() {
        door.metrics.connections(&door.listener, open.len());
    }
}
