//! Both stores against openraft's conformance suite, and what a crash leaves.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use highwater_metadata::Record;
use highwater_types::MetadataVersion;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};

use super::*;
use crate::store::{MemStore, MetaKey, MetaOp, SledStore};

struct InSled;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for InSled {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn MetaStore> = Arc::new(SledStore::open(folder.path()).unwrap());
        let (log, machine) = open(store).await.unwrap();
        Ok((folder, log, machine))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError> {
        let (log, machine) = open(Arc::new(MemStore::default())).await.unwrap();
        Ok(((), log, machine))
    }
}

#[test]
fn the_store_on_sled_keeps_openrafts_contract() {
    Suite::test_all(InSled).unwrap();
}

#[test]
fn the_store_in_memory_keeps_openrafts_contract() {
    Suite::test_all(InMemory).unwrap();
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

/// An entry that creates the cluster, valid on the empty image only.
fn founding(index: u64, cluster_id: &str) -> Entry {
    let records = vec![Record::ClusterCreated { cluster_id: cluster_id.to_owned() }];
    let change = Change { expected: MetadataVersion::ZERO, records: Arc::new(records) };
    Entry { log_id: id(1, index), payload: EntryPayload::Normal(change) }
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: id(term, index), payload: EntryPayload::Blank }
}

#[tokio::test]
async fn what_was_decided_on_an_older_version_changes_nothing() {
    let (_, mut machine) = open(Arc::new(MemStore::default())).await.unwrap();
    let outcomes = machine.apply([founding(1, "first"), founding(2, "second")]).await.unwrap();
    assert!(outcomes[0].accepted && !outcomes[1].accepted);
    let image = machine.applied().image();
    assert_eq!((image.cluster_id.as_str(), image.version), ("first", MetadataVersion::new(1)));
}

#[tokio::test]
async fn t45_a_crash_loses_neither_votes_nor_entries_that_were_answered_for() {
    let store = Arc::new(MemStore::default());
    let (mut log, mut machine) = open(store.clone()).await.unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    log.blocking_append([founding(0, "c"), blank(3, 1), blank(3, 2)]).await.unwrap();
    log.save_committed(Some(id(3, 1))).await.unwrap();
    machine.apply([founding(0, "c"), blank(3, 1)]).await.unwrap();
    store.crash(0);

    let (mut log, machine) = open(store).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(id(3, 2)));
    // The committed position was only a hint, and was not synced: the log has everything still.
    assert_eq!(log.read_committed().await.unwrap(), None);
    assert_eq!(machine.applied().image().version, MetadataVersion::ZERO);
    assert_eq!(log.try_get_log_entries(0..3).await.unwrap().len(), 3);
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_a_newer_one() {
    let store = Arc::new(MemStore::default());
    let (_, mut machine) = open(store.clone()).await.unwrap();
    machine.apply([founding(0, "c")]).await.unwrap();
    let mut slow = machine.get_snapshot_builder().await;
    machine.apply([blank(2, 1), blank(2, 2)]).await.unwrap();
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    slow.build_snapshot().await.unwrap();
    let (_, mut machine) = open(store).await.unwrap();
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id, Some(id(2, 2)));
}

#[tokio::test]
async fn t43_a_bad_snapshot_replaces_nothing() {
    let store = Arc::new(MemStore::default());
    let (_, mut machine) = open(store.clone()).await.unwrap();
    machine.apply([founding(0, "c")]).await.unwrap();
    let meta = SnapshotMeta { last_log_id: Some(id(9, 9)), ..SnapshotMeta::default() };
    let garbage = Box::new(Cursor::new(b"{\"version\":".to_vec()));
    assert!(machine.install_snapshot(&meta, garbage).await.is_err());
    assert_eq!(machine.applied().image().cluster_id, "c");
    assert_eq!(store.load().await.unwrap().snapshot, None);
}

#[tokio::test]
async fn damage_is_reported_at_the_start_and_not_passed_over() {
    let garbage = |key| vec![MetaOp::Put(key, bytes::Bytes::from_static(b"\xff{"))];
    let keys = [MetaKey::Vote, MetaKey::Committed, MetaKey::Purged, MetaKey::Snapshot, MetaKey::Log(3)];
    for key in keys {
        let store = Arc::new(MemStore::default());
        store.write(garbage(key.clone())).await.unwrap();
        let error = open(store).await.err().unwrap_or_else(|| panic!("{key:?} passed"));
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    }
    // A hole in the log, and a log purged beyond the snapshot.
    for ops in [
        vec![entry_op(&blank(1, 3)), entry_op(&blank(1, 5))],
        vec![MetaOp::Put(MetaKey::Purged, serde_json::to_vec(&id(1, 2)).unwrap().into()), entry_op(&blank(1, 3))],
    ] {
        let store = Arc::new(MemStore::default());
        store.write(ops).await.unwrap();
        assert!(matches!(open(store).await.err(), Some(StoreError::Damaged(_))));
    }
}

fn entry_op(entry: &Entry) -> MetaOp {
    MetaOp::Put(MetaKey::Log(entry.log_id.index), serde_json::to_vec(entry).unwrap().into())
}

#[tokio::test]
async fn brokers_that_are_a_little_behind_get_a_delta_and_others_a_snapshot() {
    let (_, mut machine) = open(Arc::new(MemStore::default())).await.unwrap();
    let applied = machine.applied();
    machine.apply([founding(0, "c")]).await.unwrap();
    let (records, to) = applied.since(MetadataVersion::ZERO, 1 << 20).unwrap();
    assert_eq!((records.len(), to), (1, MetadataVersion::new(1)));
    assert!(applied.since(MetadataVersion::new(1), 1).unwrap().0.is_empty());
    assert!(applied.since(MetadataVersion::new(2), 1).is_none(), "a version that this cluster never had");

    // A snapshot leaves a gap that no delta spans.
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let (_, mut other) = open(Arc::new(MemStore::default())).await.unwrap();
    let applied = other.applied();
    other.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert!(applied.since(MetadataVersion::ZERO, 1 << 20).is_none());
    assert_eq!(applied.image().cluster_id, "c");
}

/// The read that follows a purge or a truncation never shows a log with a hole (openraft #1795).
#[tokio::test]
async fn reads_begin_where_they_were_asked_to_or_are_empty() {
    let (mut log, _) = open(Arc::new(MemStore::default())).await.unwrap();
    log.blocking_append((0..10).map(|index| blank(1, index))).await.unwrap();
    log.purge(id(1, 4)).await.unwrap();
    assert!(log.limited_get_log_entries(3, 8).await.unwrap().is_empty());
    let indexes: BTreeSet<u64> =
        log.limited_get_log_entries(5, 8).await.unwrap().iter().map(|e| e.log_id.index).collect();
    assert_eq!(indexes, BTreeSet::from([5, 6, 7]));
}
