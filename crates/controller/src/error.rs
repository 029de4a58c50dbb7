//! Why a controller does not start.

use highwater_types::ControllerId;

use crate::store::StoreError;

/// One clear line each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(String),
    #[error("port {port} on {host} is in use by another process; stop it, or choose another port")]
    PortInUse { host: String, port: u16 },
    #[error("can't listen on {host}:{port}: {reason}")]
    Listen { host: String, port: u16, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the data dir belongs to cluster {found}, and the configuration asks for cluster {asked}")]
    WrongCluster { asked: String, found: String },
    #[error("the data dir belongs to controller {found}, and this is configured as controller {asked}")]
    WrongController { asked: ControllerId, found: ControllerId },
    #[error("Raft does not start: {0}")]
    Raft(String),
}
