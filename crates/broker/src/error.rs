//! Why a broker does not start, or has to end.

use highwater_storage::DataDirError;

use crate::cluster::LinkFatal;

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the broker's configuration is wrong: {0}")]
    Config(String),
    #[error("no data dir can be used: {0}")]
    DataDir(#[from] DataDirError),
    #[error("the data dirs belong to different clusters: {0}")]
    MixedDataDirs(String),
    #[error("can't listen on {host}:{port}: {source}")]
    Listen { host: String, port: u16, source: std::io::Error },
}

/// Why a running broker must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    #[error(transparent)]
    Cluster(#[from] LinkFatal),
    #[error("all data dirs are offline; the last: {0}")]
    Storage(String),
    #[error("the data dirs don't belong to this cluster: {0}")]
    ForeignCluster(String),
}
