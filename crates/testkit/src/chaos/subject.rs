//! The cluster that is broken: one of our own, or one that another process runs and lets itself be told what to do.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::local_cluster::{Action, ClusterError, LocalCluster, NodeId, RemoteCluster, SmallDisk};
use crate::proxy::Network;

pub enum Subject {
    Own(Box<LocalCluster>),
    Remote(RemoteCluster),
}

impl Subject {
    /// The cluster that `highwater cluster up` runs in `dir`.
    pub async fn in_folder(dir: &Path) -> Result<Self, ClusterError> {
        Ok(Self::Remote(RemoteCluster::connect(dir).await?))
    }

    pub fn bootstrap(&self) -> String {
        match self {
            Self::Own(cluster) => cluster.bootstrap(),
            Self::Remote(cluster) => cluster.bootstrap().to_owned(),
        }
    }

    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Self::Own(cluster) => cluster.nodes().map(|(id, _)| id).collect(),
            Self::Remote(cluster) => cluster.nodes().to_vec(),
        }
    }

    /// `None`: nothing stands between its nodes.
    pub fn network(&self) -> Option<&Network> {
        match self {
            Self::Own(cluster) => cluster.network(),
            Self::Remote(_) => None,
        }
    }

    pub fn disk(&self, broker: NodeId) -> Option<&SmallDisk> {
        match self {
            Self::Own(cluster) => cluster.disk(broker),
            Self::Remote(_) => None,
        }
    }

    pub async fn act(&mut self, node: NodeId, action: Action) -> Result<(), ClusterError> {
        match self {
            Self::Own(cluster) => cluster.act(node, action),
            Self::Remote(cluster) => cluster.act(node, action).await,
        }
    }

    /// Nodes that have ended since this was last asked, told to or not, but for those that were killed.
    pub async fn ended(&mut self) -> Result<Vec<(NodeId, String)>, ClusterError> {
        match self {
            Self::Own(cluster) => {
                let said = |(node, status): (NodeId, ExitStatus)| (node, status.to_string());
                Ok(cluster.take_ended()?.into_iter().map(said).collect())
            }
            Self::Remote(cluster) => cluster.ended().await,
        }
    }

    /// The last lines of a node's log.
    pub fn log_tail(&self, node: NodeId) -> String {
        match self {
            Self::Own(cluster) => cluster.node(node).map(|it| it.log_tail(20)).unwrap_or_default(),
            Self::Remote(cluster) => format!("(see {})", cluster.dir().display()),
        }
    }

    pub async fn end(self) -> Result<(), ClusterError> {
        match self {
            Self::Own(cluster) => cluster.shutdown(Duration::from_secs(20)).await,
            Self::Remote(_) => Ok(()),
        }
    }
}
