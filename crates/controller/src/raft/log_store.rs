//! Raft's log and vote on a [`MetaStore`].
//!
//! The whole log is also kept in memory: it is short (snapshots purge it), replication reads it all the time, and a read
//! that can't fail can't make a leader send a log with a hole (openraft #1795).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use highwater_types::mutation::{self, Mutation};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};
use serde::Serialize;

use super::{Entry, LogId, StorageError, StorageIOError, StoreError, TypeConfig, Vote, decode};
use crate::store::{MetaKey, MetaOp, MetaStore, Stored};

/// Entries sent to a follower in one message; their JSON must stay far below the message limit.
const READ_BYTES_MAX: usize = 4 << 20;

/// Raft's log and vote. Clones share one log.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<dyn MetaStore>,
    state: Arc<Mutex<Log>>,
}

struct Log {
    /// With the size of each entry as stored.
    entries: BTreeMap<u64, (Entry, usize)>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Log {
    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, (entry, _))| entry.log_id).or(self.purged)
    }
}

impl LogStore {
    pub(super) fn open(store: Arc<dyn MetaStore>, stored: Stored) -> Result<Self, StoreError> {
        let mut entries = BTreeMap::new();
        let mut expected = None;
        for (index, bytes) in stored.log {
            if expected.is_some_and(|expected| expected != index) {
                return Err(StoreError::Damaged(format!("the Raft log has a hole before index {index}")));
            }
            expected = Some(index + 1);
            let entry: Entry = decode("a Raft log entry", &bytes)?;
            entries.insert(index, (entry, bytes.len()));
        }
        let position = |bytes: Option<Bytes>| match bytes {
            Some(bytes) => decode::<Option<LogId>>("a Raft log position", &bytes),
            None => Ok(None),
        };
        let log = Log {
            entries,
            purged: position(stored.purged)?,
            vote: stored.vote.map(|bytes| decode("the Raft vote", &bytes)).transpose()?,
            committed: position(stored.committed)?,
        };
        Ok(Self { store, state: Arc::new(Mutex::new(log)) })
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.log().purged
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes, AnyError> {
    Ok(serde_json::to_vec(value).map_err(|error| AnyError::new(&error))?.into())
}

fn failed(error: &StoreError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.log().entries.range(bounds).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let log = self.log();
        let mut bytes = 0;
        let mut entries = Vec::new();
        for (_, (entry, size)) in log.entries.range(start..end) {
            bytes += size;
            if bytes > READ_BYTES_MAX && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        // Nothing rather than a log with a hole, which openraft would send as it is (its issue #1795).
        if entries.first().is_some_and(|first| first.log_id.index != start) {
            entries.clear();
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.log();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let bytes = encode(vote).map_err(StorageIOError::write)?;
        let ops = vec![MetaOp::Put(MetaKey::Vote, bytes)];
        match mutation::is_on(Mutation::VoteNotSynced) {
            true => self.store.write_lazily(ops),
            false => {
                let written = self.store.write(ops).await;
                written.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
            }
        }
        self.log().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.log().vote)
    }

    /// Not awaited: if it is lost, the next start applies less of the log and learns the rest from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.store
            .write_lazily(vec![MetaOp::Put(MetaKey::Committed, encode(&committed).map_err(StorageIOError::write)?)]);
        self.log().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let log = self.log();
        Ok(log.committed.min(log.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut ops, mut added) = (Vec::new(), Vec::new());
        for entry in entries {
            let bytes = encode(&entry).map_err(StorageIOError::write)?;
            added.push((entry, bytes.len()));
            ops.push(MetaOp::Put(MetaKey::Log(added[added.len() - 1].0.log_id.index), bytes));
        }
        match mutation::is_on(Mutation::EntriesNotSynced) {
            true => self.store.write_lazily(ops),
            false => self.store.write(ops).await.map_err(|error| failed(&error))?,
        }
        self.log().entries.extend(added.into_iter().map(|entry| (entry.0.log_id.index, entry)));
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.store.write(vec![MetaOp::TruncateLog(since.index)]).await.map_err(|error| failed(&error))?;
        self.log().entries.split_off(&since.index);
        Ok(())
    }

    /// One atomic write: a crash never leaves a log that begins after a position that is not known as purged.
    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let ops = vec![
            MetaOp::Put(MetaKey::Purged, encode(&Some(upto)).map_err(StorageIOError::write)?),
            MetaOp::PurgeLog(upto.index),
        ];
        self.store.write(ops).await.map_err(|error| failed(&error))?;
        let mut log = self.log();
        log.purged = Some(upto);
        log.entries = log.entries.split_off(&(upto.index + 1));
        Ok(())
    }
}
