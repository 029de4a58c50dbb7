//! A cluster of real processes on loopback: controllers and brokers, each the `highwater` binary with its own folder,
//! configuration and log. Its nodes can be killed, stopped, paused and started again; all end with the runner, whatever
//! its own end is.

mod control;
mod files;
mod node;
mod ports;
mod ready;
mod small_disk;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use highwater_types::BrokerId;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::proxy::{Network, Processes};
pub use control::{Action, ControlSocket, RemoteCluster};
use files::Layout;
pub use node::{Node, NodeId};
pub use small_disk::SmallDisk;

/// Where the nodes keep their files.
#[derive(Debug, Clone, Default)]
pub enum Folder {
    /// A temporary folder, removed with the cluster.
    #[default]
    Temporary,
    /// This folder, which stays. A cluster that was in it before goes on, at its old ports.
    At(PathBuf),
}

/// What cluster to run.
#[derive(Debug, Clone)]
pub struct LocalClusterConfig {
    /// The `highwater` binary.
    pub binary: PathBuf,
    pub controllers: u32,
    pub brokers: u32,
    pub folder: Folder,
    /// Brokers take ports from here on where they are free; any free ones otherwise.
    pub first_port: Option<u16>,
    /// Settings over the runner's, by name, as TOML: `("broker.replica_lag_time_max_ms", "1000")`.
    pub settings: Vec<(String, String)>,
    /// The racks of the brokers, in turn; empty: none.
    pub racks: Vec<String>,
    /// Everybody reaches each node through a proxy, so that the network can be broken: [`LocalCluster::network`].
    pub proxied: bool,
    /// Brokers whose data is on a file system of so many bytes in memory, which can be filled: [`LocalCluster::disk`]. Only where
    /// the process may mount one.
    pub small_disks: BTreeMap<NodeId, u64>,
}

impl LocalClusterConfig {
    /// Three controllers and three brokers in a temporary folder.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            controllers: 3,
            brokers: 3,
            folder: Folder::Temporary,
            first_port: None,
            settings: Vec::new(),
            racks: Vec::new(),
            proxied: false,
            small_disks: BTreeMap::new(),
        }
    }

    /// With one setting more.
    #[must_use]
    pub fn setting(mut self, name: &str, toml: impl ToString) -> Self {
        self.settings.push((name.to_owned(), toml.to_string()));
        self
    }
}

/// Why a local cluster could not be started or handled.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("can't {what} {path}: {source}", path = path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    #[error("can't find free ports: {0}")]
    Ports(io::Error),
    #[error("can't {what} {node}: {source}")]
    Process { node: NodeId, what: &'static str, source: io::Error },
    #[error("{folder} holds a cluster of {controllers} controllers and {brokers} brokers: {asked}", folder = folder.display())]
    OtherCluster { folder: PathBuf, controllers: usize, brokers: usize, asked: String },
    #[error("{node} ended by itself ({status}); its log says:\n{log}")]
    Ended { node: NodeId, status: ExitStatus, log: String },
    #[error("{what} did not happen within {deadline:?}{detail}")]
    TimedOut { what: String, deadline: Duration, detail: String },
    #[error("this cluster has no {0}")]
    NoSuchNode(NodeId),
    #[error("no cluster runs in {folder} ({source}); `highwater cluster up --data-dir {folder}` starts it", folder = folder.display())]
    NotRunning { folder: PathBuf, source: io::Error },
    #[error("the cluster in {folder} refuses: {message}", folder = folder.display())]
    Refused { folder: PathBuf, message: String },
}

/// A running cluster. Dropping it kills every node at once and, in a temporary folder, removes their files.
pub struct LocalCluster {
    config: LocalClusterConfig,
    nodes: BTreeMap<NodeId, Node>,
    dir: PathBuf,
    processes: Processes,
    network: Option<Network>,
    proxies: Vec<JoinHandle<()>>,
    /// Unmounted on drop, after the nodes are gone.
    disks: BTreeMap<NodeId, SmallDisk>,
    /// Removed on drop, after that.
    temporary: Option<TempDir>,
}

impl LocalCluster {
    /// Starts all nodes and waits until every broker serves and knows of every other.
    pub async fn start(config: LocalClusterConfig) -> Result<Self, ClusterError> {
        let mut cluster = Self::prepare(config)?;
        cluster.serve_proxies().await?;
        cluster.start_all()?;
        cluster.wait_ready(Duration::from_secs(30)).await?;
        Ok(cluster)
    }

    /// Folders, ports and configuration files, with no node started yet.
    pub fn prepare(config: LocalClusterConfig) -> Result<Self, ClusterError> {
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ClusterError::File { what, path, source }
        };
        let (dir, temporary) = match &config.folder {
            Folder::At(dir) => (dir.clone(), None),
            Folder::Temporary => {
                let temporary = tempfile::Builder::new().prefix("highwater-").tempdir();
                let temporary = temporary.map_err(file("create a folder in", &std::env::temp_dir()))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&dir).map_err(file("create", &dir))?;
        // The nodes' configurations hold absolute paths, so that one can be started by hand from anywhere.
        let dir = dir.canonicalize().map_err(file("find", &dir))?;
        let layout = Layout::of(&dir, &config)?;
        layout.write(&dir, &config)?;
        let node = |(id, port)| (id, layout.node(id, port, &dir, &config));
        let nodes: BTreeMap<NodeId, Node> = layout.nodes().map(node).collect();
        let mut disks = BTreeMap::new();
        for (id, bytes) in &config.small_disks {
            let node = nodes.get(id).ok_or(ClusterError::NoSuchNode(*id))?;
            let disk = node.disk();
            disks.insert(*id, SmallDisk::mount(&disk, *bytes).map_err(file("mount a small file system at", &disk))?);
        }
        let processes = Processes::default();
        let network = layout.is_proxied().then(|| Network::new(processes.clone()));
        Ok(Self { config, nodes, dir, processes, network, proxies: Vec::new(), disks, temporary })
    }

    async fn serve_proxies(&mut self) -> Result<(), ClusterError> {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.serve_proxy(id).await?;
        }
        Ok(())
    }

    async fn serve_proxy(&mut self, id: NodeId) -> Result<(), ClusterError> {
        let (Some(network), Some(node)) = (&self.network, self.nodes.get(&id)) else { return Ok(()) };
        let listener = crate::proxy::listen(node.advertised).await.map_err(ClusterError::Ports)?;
        self.proxies.push(network.serve(id, listener, node.port));
        Ok(())
    }

    /// The network between the nodes, if they are reached through proxies.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The disk of a broker that was given a small one.
    pub fn disk(&self, id: NodeId) -> Option<&SmallDisk> {
        self.disks.get(&id)
    }

    /// The folder with the nodes' folders.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the files in place when the cluster ends.
    pub fn keep_files(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Its path is `self.dir` already.
            let _ = temporary.keep();
        }
    }

    pub fn node(&self, id: NodeId) -> Result<&Node, ClusterError> {
        self.nodes.get(&id).ok_or(ClusterError::NoSuchNode(id))
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, ClusterError> {
        self.nodes.get_mut(&id).ok_or(ClusterError::NoSuchNode(id))
    }

    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    pub fn broker_ids(&self) -> Vec<BrokerId> {
        let broker = |id: &NodeId| match id {
            NodeId::Broker(id) => Some(*id),
            NodeId::Controller(_) => None,
        };
        self.nodes.keys().filter_map(broker).collect()
    }

    /// Where clients connect: every broker, separated by commas.
    pub fn bootstrap(&self) -> String {
        let brokers = self.nodes.iter().filter(|(id, _)| id.is_broker());
        brokers.map(|(_, node)| format!("127.0.0.1:{}", node.advertised)).collect::<Vec<_>>().join(",")
    }

    /// Where Kafka clients connect: every broker, separated by commas.
    pub fn kafka_bootstrap(&self) -> String {
        let ports = self.nodes.values().filter_map(Node::kafka_port);
        ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Starts every node that doesn't run; controllers first, which saves the brokers a retry.
    pub fn start_all(&mut self) -> Result<(), ClusterError> {
        for (id, node) in self.nodes.iter_mut().filter(|(_, node)| !node.was_started()) {
            let process = |source| ClusterError::Process { node: *id, what: "start", source };
            node.start(&self.config.binary).map_err(process)?;
            node.pid().into_iter().for_each(|pid| self.processes.insert(pid, *id));
        }
        Ok(())
    }

    /// Starts a node that was killed or stopped, on its old files. Does not wait until it serves.
    pub fn start_node(&mut self, id: NodeId) -> Result<(), ClusterError> {
        let binary = self.config.binary.clone();
        let node = self.node_mut(id)?;
        if node.was_started() {
            return Ok(());
        }
        node.start(&binary).map_err(|source| ClusterError::Process { node: id, what: "start", source })?;
        let pid = node.pid();
        pid.into_iter().for_each(|pid| self.processes.insert(pid, id));
        Ok(())
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self, id: NodeId) -> Result<(), ClusterError> {
        let process = |source| ClusterError::Process { node: id, what: "kill", source };
        self.node_mut(id)?.kill().map_err(process)
    }

    /// SIGTERM, without waiting: [`LocalCluster::take_ended`] tells when it is over.
    pub fn ask_to_stop(&self, id: NodeId) -> Result<(), ClusterError> {
        let process = |source| ClusterError::Process { node: id, what: "stop", source };
        self.node(id)?.signal(Signal::TERM).map_err(process)
    }

    /// Does one thing to one node, and does not wait for what comes of it.
    pub fn act(&mut self, id: NodeId, action: Action) -> Result<(), ClusterError> {
        match action {
            Action::Kill => self.kill(id),
            Action::Start => self.start_node(id),
            Action::Stop => self.ask_to_stop(id),
            Action::Pause => self.pause(id),
            Action::Resume => self.resume(id),
        }
    }

    /// Nodes that have ended by themselves or after [`LocalCluster::ask_to_stop`], each once.
    pub fn take_ended(&mut self) -> Result<Vec<(NodeId, ExitStatus)>, ClusterError> {
        let mut ended = Vec::new();
        for (id, node) in &mut self.nodes {
            let process = |source| ClusterError::Process { node: *id, what: "watch", source };
            ended.extend(node.ended().map_err(process)?.map(|status| (*id, status)));
        }
        Ok(ended)
    }

    /// SIGTERM, and waits for the end of a shutdown in good order.
    pub async fn stop(&mut self, id: NodeId, deadline: Duration) -> Result<ExitStatus, ClusterError> {
        let process = |source| ClusterError::Process { node: id, what: "stop", source };
        let node = self.node_mut(id)?;
        node.signal(Signal::TERM).map_err(process)?;
        let status = node.wait_end(deadline).await.map_err(process)?;
        status.ok_or_else(|| ClusterError::TimedOut {
            what: format!("the shutdown of {id}"),
            deadline,
            detail: format!("; its log says:\n{}", node.log_tail(20)),
        })
    }

    /// SIGSTOP: the node stands still, its connections stay open.
    pub fn pause(&self, id: NodeId) -> Result<(), ClusterError> {
        let process = |source| ClusterError::Process { node: id, what: "pause", source };
        self.node(id)?.signal(Signal::STOP).map_err(process)
    }

    /// SIGCONT.
    pub fn resume(&self, id: NodeId) -> Result<(), ClusterError> {
        let process = |source| ClusterError::Process { node: id, what: "resume", source };
        self.node(id)?.signal(Signal::CONT).map_err(process)
    }

    /// A new controller that waits to be added to the quorum; the node is started, not yet added.
    pub async fn start_new_controller(&mut self) -> Result<NodeId, ClusterError> {
        let mut layout = Layout::read(&self.dir)?.unwrap_or_default();
        let id = layout.add_controller(&self.config)?;
        layout.write(&self.dir, &self.config)?;
        let port = layout.nodes().find(|(node, _)| *node == id).map(|(_, port)| port).unwrap_or_default();
        self.nodes.insert(id, layout.node(id, port, &self.dir, &self.config));
        self.serve_proxy(id).await?;
        self.start_node(id)?;
        Ok(id)
    }

    /// The first node found that ended without having been told to.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        match self.take_ended()?.first() {
            Some((node, status)) => {
                Err(ClusterError::Ended { node: *node, status: *status, log: self.node(*node)?.log_tail(20) })
            }
            None => Ok(()),
        }
    }

    /// The nodes that run.
    pub fn running(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.was_started()).map(|(id, _)| *id).collect()
    }

    /// Ends all nodes in good order: brokers, then controllers. What does not end within `deadline` is killed.
    pub async fn shutdown(mut self, deadline: Duration) -> Result<(), ClusterError> {
        for brokers in [true, false] {
            let those = || self.nodes.iter().filter(move |(id, _)| id.is_broker() == brokers);
            for (id, node) in those() {
                let process = |source| ClusterError::Process { node: *id, what: "stop", source };
                node.signal(Signal::TERM).map_err(process)?;
            }
            let until = tokio::time::Instant::now() + deadline;
            for (id, node) in self.nodes.iter_mut().filter(|(id, _)| id.is_broker() == brokers) {
                let process = |source| ClusterError::Process { node: *id, what: "stop", source };
                let left = until.saturating_duration_since(tokio::time::Instant::now());
                if node.was_started() && node.wait_end(left).await.map_err(process)?.is_none() {
                    node.kill().map_err(process)?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            // Nothing better can be done here; the child also ends when its standard input closes.
            let _ = node.kill();
        }
        self.proxies.iter().for_each(JoinHandle::abort);
    }
}
