//! A running cluster lets itself be told what to do with its nodes, over a socket in its folder: so the process that runs it
//! knows which of them are meant to be dead. One JSON document a line, each answered by one.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::{ClusterError, LocalCluster, NodeId};

const SOCKET: &str = "control.sock";
/// A line longer than this is none of ours.
const LINE_MAX: usize = 4096;

/// What can be done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// kill -9, and wait until it is gone.
    Kill,
    Start,
    /// SIGTERM.
    Stop,
    /// SIGSTOP.
    Pause,
    /// SIGCONT.
    Resume,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
enum Request {
    Describe,
    Act { node: String, action: Action },
    Ended,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default)]
    bootstrap: String,
    #[serde(default)]
    nodes: Vec<String>,
    /// Names of nodes, and how they ended.
    #[serde(default)]
    ended: Vec<(String, String)>,
}

/// The end of the process that runs the cluster.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Who is connected now; one at a time.
    peer: Option<(BufReader<OwnedReadHalf>, OwnedWriteHalf)>,
    line: Vec<u8>,
    /// Nodes that were told to end, and are not to be missed.
    excused: BTreeSet<NodeId>,
    ended: Vec<(String, String)>,
}

impl ControlSocket {
    /// In the cluster's folder. Of a process that was killed, the socket is left there, and replaced.
    pub fn open(cluster: &LocalCluster) -> io::Result<Self> {
        let path = cluster.dir().join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let (excused, ended) = (BTreeSet::new(), Vec::new());
        Ok(Self { listener, path, peer: None, line: Vec::new(), excused, ended })
    }

    /// Waits for the next request, and does what it asks for. Can be dropped at any point and called again.
    pub async fn serve_one(&mut self, cluster: &mut LocalCluster) -> io::Result<()> {
        let Some((from, _)) = &mut self.peer else {
            let (peer, _) = self.listener.accept().await?;
            let (from, to) = peer.into_split();
            self.peer = Some((BufReader::new(from), to));
            return Ok(());
        };
        let available = from.fill_buf().await?;
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        self.line.extend_from_slice(&available[..taken]);
        from.consume(taken);
        if taken == 0 || self.line.len() > LINE_MAX {
            self.peer = None;
            self.line.clear();
        } else if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let answer = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(cluster, request),
                Err(error) => Answer { error: Some(format!("not understood: {error}")), ..Answer::default() },
            };
            let mut text = serde_json::to_vec(&answer)?;
            text.push(b'\n');
            let told = match &mut self.peer {
                Some((_, to)) => to.write_all(&text).await,
                None => Ok(()),
            };
            if told.is_err() {
                self.peer = None;
            }
        }
        Ok(())
    }

    fn answer(&mut self, cluster: &mut LocalCluster, request: Request) -> Answer {
        match request {
            Request::Describe => {
                let nodes = cluster.nodes().map(|(id, _)| id.folder()).collect();
                Answer { bootstrap: cluster.bootstrap(), nodes, ..Answer::default() }
            }
            Request::Ended => Answer { ended: std::mem::take(&mut self.ended), ..Answer::default() },
            Request::Act { node, action } => {
                let done = node.parse().map_err(|_| format!("{node:?} is no node")).and_then(|node: NodeId| {
                    match action {
                        Action::Stop => _ = self.excused.insert(node),
                        Action::Start => _ = self.excused.remove(&node),
                        Action::Kill | Action::Pause | Action::Resume => {}
                    }
                    cluster.act(node, action).map_err(|error| error.to_string())
                });
                Answer { error: done.err(), ..Answer::default() }
            }
        }
    }

    /// As [`LocalCluster::check_alive`]; nodes that were told to end are not missed.
    pub fn check_alive(&mut self, cluster: &mut LocalCluster) -> Result<(), ClusterError> {
        for (node, status) in cluster.take_ended()? {
            if !self.excused.contains(&node) {
                let log = cluster.node(node)?.log_tail(20);
                return Err(ClusterError::Ended { node, status, log });
            }
            self.ended.push((node.folder(), status.to_string()));
        }
        Ok(())
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A socket that is left is replaced by the next one.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A cluster that another process runs.
#[derive(Debug)]
pub struct RemoteCluster {
    dir: PathBuf,
    connection: BufReader<UnixStream>,
    bootstrap: String,
    nodes: Vec<NodeId>,
}

impl RemoteCluster {
    /// The one that runs in `dir`.
    pub async fn connect(dir: &Path) -> Result<Self, ClusterError> {
        let not_there = |source| ClusterError::NotRunning { folder: dir.to_owned(), source };
        let connection = UnixStream::connect(dir.join(SOCKET)).await.map_err(not_there)?;
        let connection = BufReader::new(connection);
        let mut cluster = Self { dir: dir.to_owned(), connection, bootstrap: String::new(), nodes: Vec::new() };
        let found = cluster.ask(&Request::Describe).await?;
        cluster.bootstrap = found.bootstrap;
        cluster.nodes = found.nodes.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(cluster)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    pub async fn act(&mut self, node: NodeId, action: Action) -> Result<(), ClusterError> {
        self.ask(&Request::Act { node: node.folder(), action }).await.map(|_| ())
    }

    /// Nodes that have ended, as they were told to, since this was last asked.
    pub async fn ended(&mut self) -> Result<Vec<(NodeId, String)>, ClusterError> {
        let ended = self.ask(&Request::Ended).await?.ended;
        Ok(ended.into_iter().filter_map(|(name, how)| Some((name.parse().ok()?, how))).collect())
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, ClusterError> {
        let not_there = |source| ClusterError::NotRunning { folder: self.dir.clone(), source };
        let mut text = serde_json::to_vec(request).map_err(|error| not_there(error.into()))?;
        text.push(b'\n');
        self.connection.write_all(&text).await.map_err(not_there)?;
        let mut line = String::new();
        self.connection.read_line(&mut line).await.map_err(not_there)?;
        let answer: Answer = serde_json::from_str(&line).map_err(|error| not_there(error.into()))?;
        match answer.error {
            Some(message) => Err(ClusterError::Refused { folder: self.dir.clone(), message }),
            None => Ok(answer),
        }
    }
}
