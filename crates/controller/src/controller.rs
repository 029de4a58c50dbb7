//! Start and stop of a controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use highwater_metadata::ClusterImage;
use highwater_protocol::MESSAGE_SIZE_MAX;
use highwater_protocol::internal::controller_server::ControllerServer;
use highwater_protocol::internal::raft_server::RaftServer;
use highwater_seams::{Listener, Seams};
use highwater_types::ControllerId;
use openraft::error::{InitializeError, RaftError};
use openraft::{ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;

use crate::active::{ActiveLoop, Proposals, Role};
use crate::config::ControllerConfig;
use crate::error::StartError;
use crate::membership::Membership;
use crate::raft::election::{Elections, LeaderContact, hand_over};
use crate::raft::network::{Network, Peers};
use crate::raft::service::RaftCalls;
use crate::raft::{self, Applied, ControllerNode, Raft, SeededRuntime};
use crate::scrape::ControllerScrape;
use crate::services::{ControllerCalls, Seen};
use crate::store::{MetaKey, MetaOp, MetaStore, SledStore};

/// A snapshot's part in one message. As JSON it is up to four times as long.
const SNAPSHOT_CHUNK_BYTES: u64 = 512 << 10;
const SNAPSHOT_TIMEOUT_MS: u64 = 5000;
/// Kept after a snapshot, so that a controller which was away shortly needs no snapshot.
const ENTRIES_KEPT: u64 = 500;
/// What an orderly stop may take in all is about three times this.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Whose store this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    controller: ControllerId,
    /// Empty until it is known.
    #[serde(default)]
    cluster_id: String,
}

/// A member of the quorum that decides about the cluster.
pub struct Controller;

impl Controller {
    /// Opens the store in the configured data dir. Blocking: for the start of a process.
    pub fn open_store(config: &ControllerConfig) -> Result<Arc<dyn MetaStore>, StartError> {
        Ok(Arc::new(SledStore::open(&config.data_dir.join("metadata"))?))
    }

    /// Starts a controller on a port of its own. It serves once this returns; whether it is active is for the quorum.
    pub async fn start(
        config: ControllerConfig,
        seams: Seams,
        store: Arc<dyn MetaStore>,
    ) -> Result<ControllerHandle, StartError> {
        config.check()?;
        let (host, port) = (config.listen_host.clone(), config.listen_port);
        let listener = seams.net.bind(&host, port).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => StartError::PortInUse { host, port },
            _ => StartError::Listen { host, port, reason: error.to_string() },
        })?;
        Self::start_on(listener, config, seams, store).await
    }

    /// As [`Controller::start`], on a port that is bound already.
    pub async fn start_on(
        listener: Box<dyn Listener>,
        config: ControllerConfig,
        seams: Seams,
        store: Arc<dyn MetaStore>,
    ) -> Result<ControllerHandle, StartError> {
        config.check()?;
        let mut config = config;
        if config.advertised.1 == 0 {
            config.advertised.1 = listener.port();
        }
        let config = Arc::new(config);
        let me = config.id;
        let identity = identify(&config, store.as_ref()).await?;
        let (log, machine) = raft::open(Arc::clone(&store)).await?;
        let applied = machine.applied();
        let peers = Arc::new(Peers::new(me.get(), Arc::clone(&seams.net), applied.clone()));
        let network = Network::new(Arc::clone(&peers), Duration::from_millis(config.heartbeat_ms));
        SeededRuntime::seed(seams.entropy.next_u64());
        let raft = Raft::new(me.get(), Arc::new(raft_config(&config)?), network, log, machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;
        // Raft has replayed what it knows as committed.
        if let Err(error) = check_cluster(&config, &applied.image().cluster_id) {
            let _ = raft.shutdown().await;
            return Err(error);
        }

        let contact = LeaderContact::new();
        let (stop, stopping) = watch::channel(false);
        let (role, role_seen) = watch::channel(Role::Standby);
        let (proposals, commands, events) = Proposals::new();
        let raft_calls = RaftCalls {
            me: me.get(),
            raft: raft.clone(),
            applied: applied.clone(),
            contact: contact.clone(),
            lease: config.lease(),
            cluster_id: config.cluster_id.clone().or(identity.cluster_id()),
        };
        let controller_calls = ControllerCalls {
            me,
            config: Arc::clone(&config),
            raft: raft.clone(),
            applied: applied.clone(),
            proposals: proposals.clone(),
            role: role_seen.clone(),
            membership: Membership::new(me, raft.clone(), proposals),
            connections: AtomicU64::new(0),
            seen: Seen::default(),
        };
        let port = listener.port();
        let server = tokio::spawn(serve(listener, raft_calls, controller_calls, stopping.clone()));

        let span = config.election_timeout_max_ms - config.election_timeout_min_ms;
        let elections = Elections {
            me: me.get(),
            raft: raft.clone(),
            peers: Arc::clone(&peers),
            contact,
            entropy: Arc::clone(&seams.entropy),
            timeout_min: config.lease(),
            timeout_max: config.lease() + Duration::from_millis(span),
            check_interval: Duration::from_millis((config.heartbeat_ms / 2).max(1)),
            call_timeout: Duration::from_millis(config.election_timeout_min_ms),
        };
        let active = ActiveLoop {
            me,
            config: Arc::clone(&config),
            raft: raft.clone(),
            applied: applied.clone(),
            entropy: Arc::clone(&seams.entropy),
            net: Arc::clone(&seams.net),
            commands,
            events,
            role,
            stopping,
        };
        let founding = tokio::spawn(found(Arc::clone(&config), raft.clone()));
        let identity = tokio::spawn(remember_cluster(identity, store, applied.clone()));
        Ok(ControllerHandle {
            id: me,
            port,
            raft,
            peers,
            applied,
            role: role_seen,
            stop,
            active: Some(tokio::spawn(active.run())),
            server: Some(server),
            others: vec![tokio::spawn(elections.run()), founding, identity],
        })
    }
}

impl Identity {
    fn cluster_id(&self) -> Option<String> {
        Some(self.cluster_id.clone()).filter(|id| !id.is_empty())
    }
}

fn check_cluster(config: &ControllerConfig, found: &str) -> Result<(), StartError> {
    match &config.cluster_id {
        Some(asked) if !found.is_empty() && asked != found => {
            Err(StartError::WrongCluster { asked: asked.clone(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Checks whose store this is, and marks a new one: a vote of one controller must not be taken for another's.
async fn identify(config: &ControllerConfig, store: &dyn MetaStore) -> Result<Identity, StartError> {
    let stored = store.load().await?.identity;
    let identity = match stored {
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| crate::store::StoreError::Damaged(format!("the identity: {error}")))?,
        None => {
            let identity = Identity { controller: config.id, cluster_id: String::new() };
            store.write(vec![put_identity(&identity)]).await?;
            identity
        }
    };
    if identity.controller != config.id {
        return Err(StartError::WrongController { asked: config.id, found: identity.controller });
    }
    check_cluster(config, &identity.cluster_id)?;
    Ok(identity)
}

fn put_identity(identity: &Identity) -> MetaOp {
    // Two plain fields: serialization into memory can't fail.
    MetaOp::Put(MetaKey::Identity, serde_json::to_vec(identity).unwrap_or_default().into())
}

/// Notes the cluster id as soon as it is known.
async fn remember_cluster(mut identity: Identity, store: Arc<dyn MetaStore>, applied: Applied) {
    let mut images = applied.watch();
    let Ok(image) = images.wait_for(|image| !image.cluster_id.is_empty()).await.map(|image| image.clone()) else {
        return;
    };
    if identity.cluster_id != image.cluster_id {
        identity.cluster_id.clone_from(&image.cluster_id);
        // If it fails, Raft's writes fail too, and are heard.
        let _ = store.write(vec![put_identity(&identity)]).await;
    }
}

fn raft_config(config: &ControllerConfig) -> Result<openraft::Config, StartError> {
    let raft = openraft::Config {
        cluster_name: "highwater".to_owned(),
        election_timeout_min: config.election_timeout_min_ms,
        election_timeout_max: config.election_timeout_max_ms,
        heartbeat_interval: config.heartbeat_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        max_payload_entries: 64,
        replication_lag_threshold: config.snapshot_interval_entries + ENTRIES_KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_interval_entries),
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        max_in_snapshot_log_to_keep: ENTRIES_KEPT.min(config.snapshot_interval_entries),
        // See `raft::election`.
        enable_elect: false,
        ..openraft::Config::default()
    };
    raft.validate().map_err(|error| StartError::Config(error.to_string()))
}

/// Founds the cluster, unless it exists. Every initial voter may do this with the same members, which is safe: the first
/// entry is the same everywhere. One after the other, so that normally the first one does it and is elected, and the
/// others hear of it in time.
async fn found(config: Arc<ControllerConfig>, raft: Raft) {
    if config.join {
        return;
    }
    let rank = config.initial_voters.keys().filter(|id| **id < config.id).count();
    tokio::time::sleep(config.lease() * u32::try_from(rank).unwrap_or(u32::MAX)).await;
    let voters = config.initial_voters.iter().map(|(id, (host, port))| {
        let port = if *id == config.id && *port == 0 { config.advertised.1 } else { *port };
        (id.get(), ControllerNode { host: host.clone(), port })
    });
    let voters: BTreeMap<u64, ControllerNode> = voters.collect();
    match raft.initialize(voters).await {
        Ok(()) => tracing::info!(controller = %config.id, voters = config.initial_voters.len(), "founded the quorum"),
        // It exists.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        // Of a Raft that has stopped; [`ControllerHandle::failed`] says so.
        Err(error) => tracing::error!(controller = %config.id, %error, "the quorum can't be founded"),
    }
}

async fn serve(
    listener: Box<dyn Listener>,
    raft: RaftCalls,
    controller: ControllerCalls,
    mut stopping: watch::Receiver<bool>,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControllerServer<ControllerCalls>>().await;
    let raft =
        RaftServer::new(raft).max_decoding_message_size(MESSAGE_SIZE_MAX).max_encoding_message_size(MESSAGE_SIZE_MAX);
    let controller = ControllerServer::new(controller)
        .max_decoding_message_size(MESSAGE_SIZE_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_MAX);
    let served = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(3)))
        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
        .http2_max_header_list_size(16 << 10)
        .max_concurrent_streams(1024)
        .add_service(health_service)
        .add_service(raft)
        .add_service(controller)
        .serve_with_incoming_shutdown(highwater_seams::incoming(listener), async move {
            // An end of the sender is a stop as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        });
    if let Err(error) = served.await {
        tracing::error!(%error, "the controller's server ended");
    }
}

/// A running controller. Dropped, it stops at once, as if killed; [`ControllerHandle::shutdown`] is the orderly way.
pub struct ControllerHandle {
    id: ControllerId,
    port: u16,
    raft: Raft,
    peers: Arc<Peers>,
    applied: Applied,
    role: watch::Receiver<Role>,
    stop: watch::Sender<bool>,
    active: Option<JoinHandle<()>>,
    server: Option<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl ControllerHandle {
    pub fn id(&self) -> ControllerId {
        self.id
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is the one that decides now.
    pub fn is_active(&self) -> bool {
        matches!(*self.role.borrow(), Role::Active { .. })
    }

    /// Waits until [`ControllerHandle::is_active`] is `active`; false if the controller stopped meanwhile.
    pub async fn wait_active(&self, active: bool) -> bool {
        let mut role = self.role.clone();
        role.wait_for(|role| matches!(role, Role::Active { .. }) == active).await.is_ok()
    }

    /// The controller that leads, as far as this one knows.
    pub fn active_controller(&self) -> Option<ControllerId> {
        self.raft.metrics().borrow().current_leader.map(ControllerId::new)
    }

    /// What this controller has applied.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.applied.image()
    }

    /// Changes with every change of [`ControllerHandle::image`].
    pub fn watch_image(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.applied.watch()
    }

    /// Returns, with the reason, when this controller can't go on: its process must end.
    pub async fn failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        let stopped = "the controller has stopped".to_owned();
        match metrics.wait_for(|metrics| metrics.running_state.is_err()).await {
            Ok(metrics) => metrics.running_state.as_ref().err().map_or(stopped, ToString::to_string),
            Err(_) => stopped,
        }
    }

    /// The Raft term, and the first log index that is not purged: for tests and diagnosis.
    pub fn raft_position(&self) -> RaftPosition {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        RaftPosition {
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            purged_index: metrics.purged.map(|id| id.index),
        }
    }

    /// What it measures.
    pub fn scrape(&self) -> ControllerScrape {
        ControllerScrape { raft: self.raft.metrics(), role: self.role.clone(), applied: self.applied.clone() }
    }

    /// Finishes what was taken on, hands the active role over, and stops.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(mut active) = self.active.take()
            && tokio::time::timeout(STOP_TIMEOUT, &mut active).await.is_err()
        {
            active.abort();
        }
        if self.raft.metrics().borrow().state == ServerState::Leader {
            // Without it the others wait for the election timeout, and that is all.
            let _ =
                tokio::time::timeout(STOP_TIMEOUT, hand_over(self.id.get(), &self.raft, &self.peers, STOP_TIMEOUT / 4))
                    .await;
        }
        self.others.iter().for_each(JoinHandle::abort);
        let _ = self.raft.shutdown().await;
        if let Some(mut server) = self.server.take()
            && tokio::time::timeout(STOP_TIMEOUT, &mut server).await.is_err()
        {
            server.abort();
        }
    }

    /// Stops at once, as if killed.
    pub async fn abort(mut self) {
        let server = self.server.take();
        self.abort_tasks();
        let _ = self.raft.shutdown().await;
        // Connections are tasks of their own, and end by the stop.
        self.stop.send_replace(true);
        if let Some(mut server) = server
            && tokio::time::timeout(STOP_TIMEOUT / 10, &mut server).await.is_err()
        {
            server.abort();
        }
    }

    fn abort_tasks(&mut self) {
        let tasks = self.active.take().into_iter().chain(self.server.take()).chain(self.others.drain(..));
        tasks.for_each(|task| task.abort());
    }
}

impl Drop for ControllerHandle {
    fn drop(&mut self) {
        self.abort_tasks();
        self.stop.send_replace(true);
    }
}

/// Where a controller's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftPosition {
    pub term: u64,
    pub last_index: u64,
    pub snapshot_index: Option<u64>,
    pub purged_index: Option<u64>,
}
