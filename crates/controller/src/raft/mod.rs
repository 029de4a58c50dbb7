//! Consensus: openraft over gRPC, its storage adapters, and what it lacks (pre-vote, handing over).

pub(crate) mod election;
mod log_store;
pub(crate) mod network;
mod runtime;
pub(crate) mod service;
mod state_machine;

use std::sync::Arc;

use highwater_metadata::Record;
use highwater_types::MetadataVersion;
use serde::{Deserialize, Serialize};

pub(crate) use log_store::LogStore;
pub(crate) use runtime::SeededRuntime;
pub(crate) use state_machine::{Applied, StateMachine};

use crate::store::{MetaStore, StoreError};

/// What the log carries: metadata records, decided on one version of the image.
///
/// **Invariant**: they are applied only if the image is at `expected` when their turn comes. So what a controller decided
/// on a state that was not the last one changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub expected: MetadataVersion,
    pub records: Arc<Vec<Record>>,
}

/// What became of a [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether its records were applied.
    pub accepted: bool,
    /// The image's version afterwards.
    pub version: MetadataVersion,
}

/// Where a controller listens for its peers, as the membership of the quorum states it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerNode {
    pub host: String,
    pub port: u16,
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Change,
        R = Outcome,
        NodeId = u64,
        Node = ControllerNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
        Responder = openraft::impls::OneshotResponder<TypeConfig>,
        AsyncRuntime = SeededRuntime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, ControllerNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIOError = openraft::StorageIOError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, ControllerNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, ControllerNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;

/// The two halves of Raft's storage, as `store` has them.
pub(crate) async fn open(store: Arc<dyn MetaStore>) -> Result<(LogStore, StateMachine), StoreError> {
    let stored = store.load().await?;
    let machine = StateMachine::open(Arc::clone(&store), stored.snapshot.as_ref())?;
    let log = LogStore::open(store, stored)?;
    // What is purged must be in the snapshot: otherwise applied state would be missing without anybody noticing.
    if log.purged().map(|id| id.index) > machine.position().map(|id| id.index) {
        return Err(StoreError::Damaged("the Raft log was purged beyond the snapshot".to_owned()));
    }
    Ok((log, machine))
}

fn decode<T: for<'a> Deserialize<'a>>(what: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Damaged(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests;
