//! Where a controller keeps what Raft must not forget: vote, log, committed position and snapshot.
//!
//! **Invariant**: writes take effect in the order in which they were submitted, vote and log alike (TRAPS T45); a crash
//! keeps a prefix of them, and that prefix holds every write whose [`MetaStore::write`] returned.
//!
//! **Invariant**: after one failed write or sync the store accepts nothing more: what the page cache then holds is not
//! known (TRAPS T44).

mod memory;
mod sled;

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;

pub use memory::MemStore;
pub use sled::SledStore;

/// What a store has under one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetaKey {
    /// Whose store this is.
    Identity,
    /// The last vote given.
    Vote,
    /// The last log position known to be committed; a hint that saves time at start.
    Committed,
    /// The last log position that was purged.
    Purged,
    /// The last snapshot, with the position it stands for.
    Snapshot,
    /// An entry of the log, by index.
    Log(u64),
}

/// One change to a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaOp {
    Put(MetaKey, Bytes),
    /// Removes the entries from this index on.
    TruncateLog(u64),
    /// Removes the entries up to this index, inclusive.
    PurgeLog(u64),
}

/// All that a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    pub identity: Option<Bytes>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<Bytes>,
    pub snapshot: Option<Bytes>,
    pub log: BTreeMap<u64, Bytes>,
}

impl Stored {
    /// The effect of `op`, as every store must have it.
    pub fn apply(&mut self, op: MetaOp) {
        match op {
            MetaOp::Put(MetaKey::Identity, value) => self.identity = Some(value),
            MetaOp::Put(MetaKey::Vote, value) => self.vote = Some(value),
            MetaOp::Put(MetaKey::Committed, value) => self.committed = Some(value),
            MetaOp::Put(MetaKey::Purged, value) => self.purged = Some(value),
            MetaOp::Put(MetaKey::Snapshot, value) => self.snapshot = Some(value),
            MetaOp::Put(MetaKey::Log(index), value) => {
                self.log.insert(index, value);
            }
            MetaOp::TruncateLog(from) => {
                self.log.split_off(&from);
            }
            MetaOp::PurgeLog(upto) => {
                let doomed: Vec<u64> =
                    self.log.range((Bound::Unbounded, Bound::Included(upto))).map(|e| *e.0).collect();
                for index in doomed {
                    self.log.remove(&index);
                }
            }
        }
    }
}

/// Why a store can't be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the metadata folder {path} is in use by another process; stop it, or choose another data dir")]
    Locked { path: String },
    #[error("the metadata folder {path} can't be opened: {reason}")]
    Open { path: String, reason: String },
    #[error(
        "the metadata store holds damaged data: {0}; replace this controller (remove it, wipe its data dir, add it)"
    )]
    Damaged(String),
    #[error("the metadata store failed and accepts nothing more until restarted: {0}")]
    Failed(String),
    #[error("the metadata store is closed")]
    Closed,
}

/// Vote, log and snapshot of one controller, in order and durable.
#[async_trait]
pub trait MetaStore: Send + Sync + 'static {
    /// Everything the store holds.
    async fn load(&self) -> Result<Stored, StoreError>;

    /// Applies `ops`, all or nothing, after everything submitted before; returns once they are on disk.
    async fn write(&self, ops: Vec<MetaOp>) -> Result<(), StoreError>;

    /// Applies `ops` in order like [`MetaStore::write`], but nobody waits: a crash may lose them, and then also what
    /// came after and was not awaited.
    fn write_lazily(&self, ops: Vec<MetaOp>);
}
