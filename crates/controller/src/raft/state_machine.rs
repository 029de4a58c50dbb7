//! Raft's state machine: the cluster image, and nothing that decides.
//!
//! The image is in memory; on disk are its last snapshot and the log since. So applying costs no write.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use highwater_metadata::{ClusterImage, Record};
use highwater_types::MetadataVersion;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::{
    Change, Entry, LogId, Outcome, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoreError, StoredMembership,
    TypeConfig, decode,
};
use crate::store::{MetaKey, MetaOp, MetaStore};

/// Records kept so that brokers which are a little behind get a delta; beyond, a snapshot.
const HISTORY_RECORDS_MAX: usize = 16 << 10;
const HISTORY_BYTES_MAX: usize = 8 << 20;

/// What this controller has applied: for readers outside of Raft.
#[derive(Clone)]
pub(crate) struct Applied {
    image: watch::Receiver<Arc<ClusterImage>>,
    history: Arc<Mutex<History>>,
}

impl Applied {
    pub(crate) fn image(&self) -> Arc<ClusterImage> {
        self.image.borrow().clone()
    }

    /// Changes whenever records have been applied.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.image.clone()
    }

    /// The records, as JSON, that lead from `from` to the version returned; `None` if some are not kept any more, or if
    /// `from` lies in a future that this controller does not know. At most `limit` bytes of them, but at least one.
    pub(crate) fn since(&self, from: MetadataVersion, limit: usize) -> Option<(Vec<Bytes>, MetadataVersion)> {
        lock(&self.history).since(from, limit)
    }
}

#[derive(Default)]
struct History {
    /// The version before the first record.
    from: MetadataVersion,
    records: VecDeque<Bytes>,
    bytes: usize,
}

impl History {
    fn push(&mut self, record: &Record) {
        let record = Bytes::from(record.to_json());
        self.bytes += record.len();
        self.records.push_back(record);
        while self.records.len() > HISTORY_RECORDS_MAX || self.bytes > HISTORY_BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= oldest.len();
            self.from = self.from.plus(1);
        }
    }

    fn since(&self, from: MetadataVersion, limit: usize) -> Option<(Vec<Bytes>, MetadataVersion)> {
        let skip = usize::try_from(from.get().checked_sub(self.from.get())?).ok()?;
        if skip > self.records.len() {
            return None;
        }
        let mut bytes = 0;
        let mut taken = Vec::new();
        for record in self.records.iter().skip(skip) {
            bytes += record.len();
            if bytes > limit && !taken.is_empty() {
                break;
            }
            taken.push(record.clone());
        }
        let to = from.plus(taken.len() as u64);
        Some((taken, to))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replays committed records on the image.
pub struct StateMachine {
    store: Arc<dyn MetaStore>,
    image: Arc<ClusterImage>,
    position: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Arc<ClusterImage>>,
    history: Arc<Mutex<History>>,
    snapshot: CurrentSnapshot,
}

/// Locked while a snapshot is written, so that an older one never replaces a newer one, for which the log may be purged
/// already.
type CurrentSnapshot = Arc<tokio::sync::Mutex<Option<StoredSnapshot>>>;

#[derive(Clone)]
struct StoredSnapshot {
    meta: SnapshotMeta,
    image: Bytes,
}

impl StoredSnapshot {
    fn to_raft(&self) -> Snapshot {
        Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(self.image.to_vec())) }
    }

    /// The meta data as one line of JSON, then the image.
    fn to_bytes(&self) -> Result<Bytes, AnyError> {
        let mut bytes = serde_json::to_vec(&self.meta).map_err(|error| AnyError::new(&error))?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.image);
        Ok(bytes.into())
    }

    fn from_bytes(bytes: &Bytes) -> Result<Self, StoreError> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| StoreError::Damaged("a snapshot without its first line".to_owned()))?;
        Ok(Self { meta: decode("a snapshot's first line", &bytes[..end])?, image: bytes.slice(end + 1..) })
    }
}

impl StateMachine {
    pub(super) fn open(store: Arc<dyn MetaStore>, snapshot: Option<&Bytes>) -> Result<Self, StoreError> {
        let snapshot = snapshot.map(StoredSnapshot::from_bytes).transpose()?;
        let image = match &snapshot {
            Some(snapshot) => {
                ClusterImage::from_json(&snapshot.image).map_err(|error| StoreError::Damaged(error.to_string()))?
            }
            None => ClusterImage::default(),
        };
        let image = Arc::new(image);
        let history = History { from: image.version, ..History::default() };
        Ok(Self {
            store,
            published: watch::Sender::new(Arc::clone(&image)),
            image,
            position: snapshot.as_ref().and_then(|s| s.meta.last_log_id),
            membership: snapshot.as_ref().map(|s| s.meta.last_membership.clone()).unwrap_or_default(),
            history: Arc::new(Mutex::new(history)),
            snapshot: Arc::new(tokio::sync::Mutex::new(snapshot)),
        })
    }

    pub(crate) fn applied(&self) -> Applied {
        Applied { image: self.published.subscribe(), history: Arc::clone(&self.history) }
    }

    pub(super) fn position(&self) -> Option<LogId> {
        self.position
    }

    fn change(&mut self, change: &Change) -> Outcome {
        let accepted = change.records.is_empty() || change.expected == self.image.version;
        if accepted && !change.records.is_empty() {
            // Replayed on a copy: records that do not fit leave no half-changed image behind.
            let mut image = ClusterImage::clone(&self.image);
            match image.replay_all(change.records.iter()) {
                Ok(()) => {
                    let mut history = lock(&self.history);
                    change.records.iter().for_each(|record| history.push(record));
                    self.image = Arc::new(image);
                }
                // Every controller finds the same, so the images stay the same.
                Err(error) => {
                    tracing::error!(%error, "committed metadata records do not fit the image; they are passed over");
                    return Outcome { accepted: false, version: self.image.version };
                }
            }
        }
        Outcome { accepted, version: self.image.version }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.position, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.position = Some(entry.log_id);
            outcomes.push(match entry.payload {
                EntryPayload::Normal(change) => self.change(&change),
                EntryPayload::Blank => Outcome { accepted: true, version: self.image.version },
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Outcome { accepted: true, version: self.image.version }
                }
            });
        }
        if self.published.borrow().version != self.image.version {
            self.published.send_replace(Arc::clone(&self.image));
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            store: Arc::clone(&self.store),
            image: Arc::clone(&self.image),
            position: self.position,
            membership: self.membership.clone(),
            snapshot: Arc::clone(&self.snapshot),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed = |error: AnyError| StorageIOError::read_snapshot(Some(meta.signature()), error);
        let received = StoredSnapshot { meta: meta.clone(), image: snapshot.into_inner().into() };
        // Read before anything is written: a bad snapshot must not replace a good one (TRAPS T43).
        let image = ClusterImage::from_json(&received.image).map_err(|error| failed(AnyError::new(&error)))?;
        let mut current = self.snapshot.lock().await;
        let ops = vec![MetaOp::Put(MetaKey::Snapshot, received.to_bytes().map_err(failed)?)];
        self.store.write(ops).await.map_err(|error| failed(AnyError::new(&error)))?;
        *lock(&self.history) = History { from: image.version, ..History::default() };
        self.image = Arc::new(image);
        self.position = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *current = Some(received);
        self.published.send_replace(Arc::clone(&self.image));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.snapshot.lock().await.as_ref().map(StoredSnapshot::to_raft))
    }
}

/// One consistent state, to be written as a snapshot while the state machine goes on.
pub struct SnapshotBuilder {
    store: Arc<dyn MetaStore>,
    image: Arc<ClusterImage>,
    position: Option<LogId>,
    membership: StoredMembership,
    snapshot: CurrentSnapshot,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let position = self.position.map_or_else(|| "empty".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
        let meta = SnapshotMeta {
            last_log_id: self.position,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{position}-{}", self.image.version),
        };
        let mut current = self.snapshot.lock().await;
        if let Some(newer) = current.as_ref().filter(|current| current.meta.last_log_id > self.position) {
            return Ok(newer.to_raft());
        }
        let built = StoredSnapshot { meta, image: self.image.to_json().into() };
        let ops = vec![MetaOp::Put(MetaKey::Snapshot, built.to_bytes().map_err(StorageIOError::write)?)];
        let written = self.store.write(ops).await;
        written.map_err(|error| StorageIOError::write_snapshot(Some(built.meta.signature()), AnyError::new(&error)))?;
        let snapshot = built.to_raft();
        *current = Some(built);
        Ok(snapshot)
    }
}
