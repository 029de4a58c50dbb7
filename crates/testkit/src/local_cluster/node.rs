//! One child process of a local cluster.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;

use highwater_types::{BrokerId, ControllerId};
use rustix::process::{Pid, Signal};

/// A node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    Controller(ControllerId),
    Broker(BrokerId),
}

impl NodeId {
    pub const fn controller(id: u64) -> Self {
        Self::Controller(ControllerId::new(id))
    }
    pub const fn broker(id: u32) -> Self {
        Self::Broker(BrokerId::new(id))
    }
    pub const fn is_broker(self) -> bool {
        matches!(self, Self::Broker(_))
    }
    /// The name of its folder.
    pub(super) fn folder(self) -> String {
        match self {
            Self::Controller(id) => format!("controller-{id}"),
            Self::Broker(id) => format!("broker-{id}"),
        }
    }
}

/// As its folder is named: `broker-1`.
impl FromStr for NodeId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be broker-ID or controller-ID, not {text:?}");
        match text.split_once('-') {
            Some(("controller", id)) => id.parse().map(Self::controller).map_err(|_| wrong()),
            Some(("broker", id)) => id.parse().map(Self::broker).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(id) => write!(f, "controller {id}"),
            Self::Broker(id) => write!(f, "broker {id}"),
        }
    }
}

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    pub(super) id: NodeId,
    pub(super) port: u16,
    /// Where others reach it: a proxy's port, or the same.
    pub(super) advertised: u16,
    /// Where it listens for Kafka clients.
    pub(super) kafka_port: Option<u16>,
    pub(super) dir: PathBuf,
    /// Whether its data is on a file system of its own, mounted in its folder.
    pub(super) has_small_disk: bool,
    /// Holding its standard input open is what keeps the child alive: it ends when that closes, so also when this
    /// process is killed.
    child: Option<Child>,
}

impl Node {
    pub(super) fn new(id: NodeId, port: u16, advertised: u16, cluster_dir: &Path) -> Self {
        let dir = cluster_dir.join(id.folder());
        Self { id, port, advertised, kafka_port: None, dir, has_small_disk: false, child: None }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
    /// Where others reach it.
    pub fn advertised_port(&self) -> u16 {
        self.advertised
    }
    /// Where it listens for Kafka clients; a controller does not.
    pub fn kafka_port(&self) -> Option<u16> {
        self.kafka_port
    }
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("highwater.toml")
    }
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("node.log")
    }
    pub fn data_dir(&self) -> PathBuf {
        if self.has_small_disk { self.disk().join("data") } else { self.dir.join("data") }
    }
    /// Where its small disk is mounted.
    pub(super) fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }
    /// The process id, if it was started and not yet ended by the runner.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
    pub(super) fn was_started(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn start(&mut self, binary: &Path) -> io::Result<()> {
        let log: File = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let child = Command::new(binary)
            .args(["server", "--end-with-stdin", "--config"])
            .arg(self.config_path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the runner alone, which ends its nodes in good order.
            .process_group(0)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let Some(pid) = pid else { return Ok(()) };
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// How it ended, if it has; it can then be started again.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// SIGKILL, and wait until it is gone. Of a node that doesn't run: nothing.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits for its end after a signal; `None` if it outlives `deadline`.
    pub(super) async fn wait_end(&mut self, deadline: Duration) -> io::Result<Option<ExitStatus>> {
        let until = tokio::time::Instant::now() + deadline;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The last lines of its log, for messages about a node that failed.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}
