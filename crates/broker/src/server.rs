//! A broker's start and end.
//!
//! Start: data dirs and recovery, then the port, then registration; the controller unfences the broker once its partitions
//! have taken the metadata. End: leadership moves away first, then streams end, then every log is synced and closed and the
//! clean-shutdown marker written, and the link to the controllers goes last.

use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{Endpoint, NamedEndpoint};
use highwater_protocol::internal::transaction_markers_server::TransactionMarkersServer;
use highwater_protocol::v1::admin_server::AdminServer;
use highwater_protocol::v1::coordinator_server::CoordinatorServer;
use highwater_protocol::v1::metadata_server::MetadataServer;
use highwater_protocol::{CLIENT_DESCRIPTORS, MESSAGE_SIZE_MAX};
use highwater_seams::{Listener, Seams};
use highwater_storage::Disk;
use highwater_types::BrokerEpoch;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::BrokerApi;
use crate::clock::Clock;
use crate::cluster::{ClusterLink, LinkConfig};
use crate::config::{BrokerConfig, advertised};
use crate::connections::{HTTP2_HANDSHAKE_BYTES, guarded};
use crate::coordinator::Coordinators;
use crate::core::Core;
use crate::error::{Fatal, StartError};
use crate::extra::{DoorListener, ExtraServices, Surroundings};
use crate::metrics::BrokerScrape;
use crate::partition::{FollowChange, IsrProposal, PartitionEnv};
use crate::partitions::{LastRun, Partitions};
use crate::replication::{self, ReplicationService};
use crate::services::admin::{AdminService, LocalPartitions};
use crate::services::coordinator::CoordinatorService;
use crate::services::data::DataService;
use crate::services::metadata::MetadataService;
use crate::tasks;
use crate::transaction::complete;
use crate::transaction::driver::ClusterLeaders;
use crate::transaction::markers::MarkersService;
use crate::transaction::verify::{ClusterVerifier, Verifier};

/// HTTP/2 flow control: what a peer may send ahead on a stream and on a connection.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// For producers to hear what became of their last records.
const OUTCOMES_TIMEOUT: Duration = Duration::from_millis(500);
/// For connections to end once everything that they wait for has.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// What health checks may ask for by name; the empty name is the broker as a whole.
const SERVICES: [&str; 5] =
    ["", "highwater.v1.Data", "highwater.v1.Metadata", "highwater.v1.Admin", "highwater.v1.Coordinator"];

/// Starts brokers.
pub struct Broker;

/// A running broker.
pub struct BrokerHandle {
    core: Arc<Core>,
    link: ClusterLink,
    port: u16,
    tasks: TaskTracker,
    server: JoinHandle<()>,
    door: JoinHandle<()>,
    stop_accepting: CancellationToken,
    ending: CancellationToken,
    health: HealthReporter,
    services: Vec<&'static str>,
    scrape: BrokerScrape,
}

impl Broker {
    /// Returns once it listens and its logs are recovered; [`BrokerHandle::ready`] says when it takes part.
    pub async fn start(config: BrokerConfig, seams: Seams, disk: Arc<dyn Disk>) -> Result<BrokerHandle, StartError> {
        Self::start_with(config, seams, disk, ExtraServices::default()).await
    }

    /// As [`start`](Self::start), with more services on the same port.
    pub async fn start_with(
        config: BrokerConfig,
        seams: Seams,
        disk: Arc<dyn Disk>,
        extra: ExtraServices,
    ) -> Result<BrokerHandle, StartError> {
        config.check()?;
        let (core, last_run, proposals, following) = open(config, &seams, &disk).await?;
        let config = &core.config;
        let listener = bind(&seams, &config.listen_host, config.listen_port).await?;
        let port = listener.port();
        let endpoint = advertised(&config.listen_host, config.advertised.as_ref(), port);
        let mut door_listeners = Vec::with_capacity(config.listeners.len());
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for named in &config.listeners {
            let listener = bind(&seams, &named.host, named.port).await?;
            let told = named.endpoint(listener.port());
            let (name, advertised) = (told.name.clone(), told.endpoint.clone());
            door_listeners.push(DoorListener { name, listener, advertised });
            listeners.push(told);
        }
        let link = ClusterLink::start(link_config(config, endpoint, listeners, last_run), seams.clone());

        let tasks = TaskTracker::new();
        tasks::start(&tasks, &core, &link, proposals);
        let verifier = ClusterVerifier::new(
            Arc::clone(&core),
            link.peers().clone(),
            Arc::clone(&seams.entropy),
            highwater_types::TRANSACTIONS_TOPIC,
        );
        let verifier: Arc<dyn Verifier> = Arc::new(verifier);
        core.partitions.set_verifier(Arc::clone(&verifier));
        let (registered, outside) = (link.clone(), link.peers().clone());
        let outside = Arc::new(replication::Outside {
            peers: outside,
            entropy: Arc::clone(&seams.entropy),
            broker_epoch: Box::new(move || registered.broker_epoch()),
        });
        replication::start(&tasks, &core, outside, following);
        let (health, health_service) = tonic_health::server::health_reporter();
        let services: Vec<_> = SERVICES.iter().copied().chain(extra.names.iter().copied()).collect();
        set_health(&health, &services, ServingStatus::NotServing).await;
        let local: Arc<dyn LocalPartitions> = core.clone();
        let admin = Arc::new(AdminService::new(link.clone(), local));
        let coordinators = Coordinators::start(&tasks, &core, &link);
        let scrape = BrokerScrape::new(Arc::clone(&core), link.clone(), Arc::clone(&coordinators));
        if let Some(actions) = coordinators.take_transaction_actions() {
            let leaders = Arc::new(ClusterLeaders::new(Arc::clone(&core), link.peers().clone()));
            let (runtime, entropy) = (Arc::clone(&coordinators.transactions), Arc::clone(&seams.entropy));
            let (stopping, metrics) = (core.stopping.clone(), Arc::clone(core.partitions.metrics()));
            tasks.spawn(complete::run(actions, runtime, leaders, entropy, metrics, tasks.clone(), stopping));
        }
        let markers = MarkersService::new(Arc::clone(&coordinators));
        let coordinator =
            Arc::new(CoordinatorService::new(core.clone(), coordinators, verifier, Arc::clone(&seams.entropy)));
        let ending = CancellationToken::new();
        let api = BrokerApi {
            core: Arc::clone(&core),
            link: link.clone(),
            admin: Arc::clone(&admin),
            coordinator: Arc::clone(&coordinator),
            seams: seams.clone(),
            ending: ending.clone(),
        };
        let routes = Routes::new(DataService::new(core.clone()))
            .add_service(ReplicationService::new(core.clone(), tasks.clone()))
            .add_service(TransactionMarkersServer::new(markers))
            .add_service(MetadataServer::new(MetadataService::new(link.clone())))
            .add_service(AdminServer::from_arc(admin).max_decoding_message_size(MESSAGE_SIZE_MAX))
            .add_service(CoordinatorServer::from_arc(coordinator).max_decoding_message_size(MESSAGE_SIZE_MAX))
            .add_service(health_service);
        let (routes, door) = extra.mount(routes, Surroundings { port, ending: ending.clone() }, api, door_listeners);
        let stop_accepting = CancellationToken::new();
        let server = serve(listener, routes, &core, stop_accepting.clone());
        let door = tokio::spawn(door);
        tasks.spawn(tell_when_ready(link.clone(), health.clone(), services.clone(), core.stopping.clone()));
        tracing::info!(broker = %core.config.id, port, "listening");
        Ok(BrokerHandle { core, link, port, tasks, server, door, stop_accepting, ending, health, services, scrape })
    }
}

impl BrokerHandle {
    /// The port listened on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resolves once it is registered and unfenced; false: it ended before.
    pub async fn ready(&self) -> bool {
        tokio::select! {
            biased;
            _ = self.fatal() => false,
            unfenced = self.link.unfenced() => unfenced,
        }
    }

    /// Resolves if it can't go on: the process should end, after [`BrokerHandle::shutdown`].
    pub async fn fatal(&self) -> Fatal {
        tokio::select! {
            biased;
            fatal = self.link.fatal() => Fatal::Cluster(fatal),
            fatal = self.core.fatal() => fatal,
        }
    }

    /// The partitions here.
    pub fn partitions(&self) -> &Arc<Partitions> {
        &self.core.partitions
    }

    /// The link to the controllers.
    pub fn link(&self) -> &ClusterLink {
        &self.link
    }

    /// What it measures. While it is held, so are the data dirs.
    pub fn scrape(&self) -> BrokerScrape {
        self.scrape.clone()
    }

    /// Ends it in order; see the module. Waits for leadership to move no longer than the configuration says.
    pub async fn shutdown(self) {
        set_health(&self.health, &self.services, ServingStatus::NotServing).await;
        self.ending.cancel();
        let was_registered = self.link.status().borrow().broker_epoch.is_some();
        let mut is_fatal = false;
        if was_registered {
            let moved = async {
                tokio::select! {
                    biased;
                    _ = self.fatal() => true,
                    () = self.link.request_shutdown() => false,
                }
            };
            match tokio::time::timeout(self.core.config.shutdown_timeout(), moved).await {
                Ok(fatal) => is_fatal = fatal,
                Err(_) => tracing::warn!("leadership has not moved away in time; stopping all the same"),
            }
        }
        if was_registered && !is_fatal {
            // Leading no more, this broker may soon hear that what it appended is committed.
            let _ = tokio::time::timeout(OUTCOMES_TIMEOUT, self.core.partitions.outcomes_known()).await;
        }
        self.stop_accepting.cancel();
        self.core.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Whose place another process has taken has no end in order to claim.
        let epoch = if is_fatal { BrokerEpoch::NONE } else { self.link.broker_epoch() };
        self.core.partitions.close(epoch).await;
        self.link.close().await;
        let (mut server, mut door) = (self.server, self.door);
        let drained = async { tokio::join!(&mut server, &mut door) };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            server.abort();
            door.abort();
        }
        tracing::info!(broker = %self.core.config.id, "stopped");
    }
}

type Opened = (Arc<Core>, LastRun, mpsc::UnboundedReceiver<IsrProposal>, mpsc::UnboundedReceiver<FollowChange>);

/// The part that needs no network.
pub(crate) async fn open(config: BrokerConfig, seams: &Seams, disk: &Arc<dyn Disk>) -> Result<Opened, StartError> {
    let clock = Clock::new(Arc::clone(&seams.clock));
    let (proposals, proposals_to_carry) = mpsc::unbounded_channel();
    let (following, to_follow) = mpsc::unbounded_channel();
    let env = PartitionEnv {
        me: config.id,
        clock: clock.clone(),
        replica_lag_time_max: config.replica_lag_time_max(),
        cache_bytes: config.cache_bytes,
        proposals,
        following,
        unusable: Notify::new(),
        verifier: std::sync::OnceLock::new(),
        metrics: Arc::default(),
    };
    let (partitions, last_run) = Partitions::open(&config, disk, Arc::new(env)).await?;
    Ok((Core::new(config, clock, Arc::new(partitions)), last_run, proposals_to_carry, to_follow))
}

async fn bind(seams: &Seams, host: &str, port: u16) -> Result<Box<dyn Listener>, StartError> {
    let bound = seams.net.bind(host, port).await;
    bound.map_err(|source| StartError::Listen { host: host.to_owned(), port, source })
}

fn link_config(
    config: &BrokerConfig,
    endpoint: Endpoint,
    listeners: Vec<NamedEndpoint>,
    last_run: LastRun,
) -> LinkConfig {
    LinkConfig {
        broker: config.id,
        controllers: config.controllers.iter().map(|(host, port)| Endpoint::new(host.clone(), *port)).collect(),
        client_endpoint: endpoint.clone(),
        internal_endpoint: endpoint,
        listeners,
        rack: config.rack.clone(),
        cluster_id: last_run.cluster_id,
        clean_shutdown: last_run.clean_shutdown,
    }
}

pub(crate) fn serve(
    listener: Box<dyn Listener>,
    routes: Routes,
    core: &Core,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let limits = &core.config.limits;
    let handshake = Duration::from_millis(limits.handshake_ms);
    let (room, metrics) = (Arc::clone(&core.connections), Arc::clone(core.partitions.metrics()));
    let connections = guarded(listener, room, handshake, HTTP2_HANDSHAKE_BYTES, metrics);
    let keepalive = Duration::from_millis(limits.keepalive_ms);
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive));
    let router = server.add_routes(with_reflection(routes));
    tokio::spawn(async move {
        let stopped = stop.cancelled_owned();
        if let Err(error) = router.serve_with_incoming_shutdown(connections, stopped).await {
            tracing::error!(%error, "the server ended");
        }
    })
}

/// Both versions: tools speak the one or the other.
fn with_reflection(routes: Routes) -> Routes {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(CLIENT_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (builder().build_v1(), builder().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes.add_service(v1).add_service(v1alpha),
        // The descriptors are compiled in.
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "no gRPC reflection");
            routes
        }
    }
}

async fn tell_when_ready(
    link: ClusterLink,
    health: HealthReporter,
    services: Vec<&'static str>,
    stopping: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stopping.cancelled() => {}
        unfenced = link.unfenced() => {
            if unfenced {
                set_health(&health, &services, ServingStatus::Serving).await;
            }
        }
    }
}

async fn set_health(health: &HealthReporter, services: &[&'static str], status: ServingStatus) {
    for service in services {
        health.set_service_status(*service, status).await;
    }
}
