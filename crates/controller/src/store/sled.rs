//! The store on disk, in sled.
//!
//! One thread owns the database: it applies what is queued, in order, as one atomic batch, then calls sled's `flush`,
//! then `fdatasync` on an own descriptor of the database file (sled's flush alone is no fsync: sled #1452; concurrent
//! flushes hang: sled #1308), then answers everybody who waited: group commit. Values are cut into pieces, because
//! sled moves large ones to separate files.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::{MetaKey, MetaOp, MetaStore, StoreError, Stored};

/// Large values are stored in pieces of at most this many bytes; sled moves values of a quarter segment (128 KiB) out.
const PIECE_BYTES: usize = 64 << 10;
/// The first piece of a value begins with the value's length.
const LENGTH_BYTES: usize = 8;
const CACHE_BYTES: u64 = 8 << 20;
/// Requests taken into one batch; bounds the memory of a batch, not its latency.
const GROUP_MAX: usize = 1024;

/// Vote, log and snapshot in a sled database, which one process at a time can have open.
pub struct SledStore {
    /// `None` only while it is dropped.
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

/// Lets go of the folder before it returns, so that it can be opened again at once.
impl Drop for SledStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has failed every request already.
            let _ = thread.join();
        }
    }
}

enum Request {
    Load(oneshot::Sender<Result<Stored, StoreError>>),
    Write { ops: Vec<MetaOp>, done: Option<oneshot::Sender<Result<(), StoreError>>> },
}

impl SledStore {
    /// Opens the store in `folder`, made if absent. Blocking: for the start of a process.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let open_error = |reason: String| StoreError::Open { path: folder.display().to_string(), reason };
        std::fs::create_dir_all(folder).map_err(|e| open_error(e.to_string()))?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(|error| match &error {
            // sled has no kind of its own for a held lock.
            sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
                StoreError::Locked { path: folder.display().to_string() }
            }
            sled::Error::Corruption { .. } => StoreError::Damaged(error.to_string()),
            _ => open_error(error.to_string()),
        })?;
        let file = File::open(folder.join("db")).map_err(|e| open_error(e.to_string()))?;
        // The names of the new files, and of the folder itself, must survive a power cut too (TRAPS T24).
        for path in [Some(folder), folder.parent().filter(|p| !p.as_os_str().is_empty())].into_iter().flatten() {
            File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| open_error(e.to_string()))?;
        }
        let (requests, queue) = channel();
        let writer = Writer { db, file, folder: folder.to_owned(), failed: None };
        let thread = std::thread::Builder::new()
            .name("metadata-store".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(|e| open_error(e.to_string()))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    fn request(&self, request: Request) -> Result<(), StoreError> {
        let requests = self.requests.as_ref().ok_or(StoreError::Closed)?;
        requests.send(request).map_err(|_| StoreError::Closed)
    }
}

#[async_trait]
impl MetaStore for SledStore {
    async fn load(&self) -> Result<Stored, StoreError> {
        let (done, result) = oneshot::channel();
        self.request(Request::Load(done))?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    async fn write(&self, ops: Vec<MetaOp>) -> Result<(), StoreError> {
        let (done, result) = oneshot::channel();
        self.request(Request::Write { ops, done: Some(done) })?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    fn write_lazily(&self, ops: Vec<MetaOp>) {
        // A closed store has failed already, and its awaited writes say so.
        let _ = self.request(Request::Write { ops, done: None });
    }
}

struct Writer {
    db: sled::Db,
    /// The database file, for `fdatasync`.
    file: File,
    folder: PathBuf,
    failed: Option<StoreError>,
}

impl Writer {
    /// Until the store is dropped.
    fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX {
                match queue.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            self.serve(group);
        }
        if self.failed.is_none() && self.db.flush().is_ok() {
            // Nobody waits for what is left; the next start finds it or not.
            let _ = self.file.sync_data();
        }
    }

    fn serve(&mut self, group: Vec<Request>) {
        let (mut ops, mut waiting) = (Vec::new(), Vec::new());
        for request in group {
            match request {
                Request::Write { ops: more, done } => {
                    ops.extend(more);
                    waiting.extend(done);
                }
                Request::Load(done) => {
                    // Loads see what was submitted before them.
                    let written = self.apply(std::mem::take(&mut ops));
                    let _ = done.send(written.and_then(|()| self.load()));
                }
            }
        }
        let mut result = self.apply(ops);
        if result.is_ok() && !waiting.is_empty() {
            result = self.sync();
        }
        for done in waiting {
            let _ = done.send(result.clone());
        }
    }

    fn apply(&mut self, ops: Vec<MetaOp>) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if ops.is_empty() {
            return Ok(());
        }
        let result = self.batch(ops).and_then(|batch| self.db.apply_batch(batch));
        result.map_err(|error| self.fail(&error.to_string()))
    }

    /// The effect of all operations together: per key, the last one wins.
    fn batch(&self, ops: Vec<MetaOp>) -> sled::Result<sled::Batch> {
        let mut effect: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
        for op in ops {
            match op {
                MetaOp::Put(key, value) => {
                    // A shorter value has fewer pieces than the one it replaces.
                    self.clear(&mut effect, piece_key(&key, 0)..=piece_key(&key, u32::MAX))?;
                    for (number, piece) in (0..).zip(cut(&value)) {
                        effect.insert(piece_key(&key, number), Some(piece));
                    }
                }
                MetaOp::TruncateLog(from) => {
                    let from = piece_key(&MetaKey::Log(from), 0);
                    self.clear(&mut effect, from..=piece_key(&MetaKey::Log(u64::MAX), u32::MAX))?;
                }
                MetaOp::PurgeLog(upto) => {
                    let upto = piece_key(&MetaKey::Log(upto), u32::MAX);
                    self.clear(&mut effect, piece_key(&MetaKey::Log(0), 0)..=upto)?;
                }
            }
        }
        let mut batch = sled::Batch::default();
        for (key, value) in effect {
            match value {
                Some(value) => batch.insert(key, value.as_ref()),
                None => batch.remove(key),
            }
        }
        Ok(batch)
    }

    fn clear(&self, effect: &mut BTreeMap<Vec<u8>, Option<Bytes>>, keys: RangeInclusive<Vec<u8>>) -> sled::Result<()> {
        effect.range_mut(keys.clone()).for_each(|(_, value)| *value = None);
        for key in self.db.range(keys).keys() {
            effect.insert(key?.to_vec(), None);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let synced = self.db.flush().map_err(|e| e.to_string());
        let synced = synced.and_then(|_| self.file.sync_data().map_err(|e| e.to_string()));
        synced.map_err(|reason| self.fail(&reason))
    }

    fn fail(&mut self, reason: &str) -> StoreError {
        tracing::error!(folder = %self.folder.display(), reason, "the metadata store failed");
        let error = StoreError::Failed(reason.to_owned());
        self.failed = Some(error.clone());
        error
    }

    fn load(&self) -> Result<Stored, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(what.to_owned());
        let mut stored = Stored::default();
        let mut value = BytesMut::new();
        let mut open: Option<(MetaKey, usize)> = None; // the value being joined, and its length
        for pair in self.db.iter() {
            let (key, piece) = pair.map_err(|e| StoreError::Damaged(e.to_string()))?;
            let (key, number) = parse_piece_key(&key).ok_or_else(|| damaged("an unknown key"))?;
            if number == 0 {
                if open.is_some() {
                    return Err(damaged("a value that is cut short"));
                }
                let length = piece.first_chunk::<LENGTH_BYTES>().ok_or_else(|| damaged("a value without length"))?;
                let length = usize::try_from(u64::from_be_bytes(*length)).map_err(|_| damaged("an absurd length"))?;
                open = Some((key.clone(), length));
                value.extend_from_slice(&piece[LENGTH_BYTES..]);
            } else {
                value.extend_from_slice(&piece);
            }
            let (expected, length) = open.as_ref().ok_or_else(|| damaged("a value without beginning"))?;
            if *expected != key || value.len() > *length {
                return Err(damaged("pieces that do not fit together"));
            }
            if value.len() == *length {
                stored.apply(MetaOp::Put(key, value.split().freeze()));
                open = None;
            }
        }
        if open.is_some() { Err(damaged("a last value that is cut short")) } else { Ok(stored) }
    }
}

/// Sorts the pieces of a value in order and next to each other, and the log by index.
fn piece_key(key: &MetaKey, number: u32) -> Vec<u8> {
    let mut bytes = match key {
        MetaKey::Identity => b"i".to_vec(),
        MetaKey::Vote => b"v".to_vec(),
        MetaKey::Committed => b"c".to_vec(),
        MetaKey::Purged => b"p".to_vec(),
        MetaKey::Snapshot => b"s".to_vec(),
        MetaKey::Log(index) => [b"l".as_slice(), &index.to_be_bytes()].concat(),
    };
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

fn parse_piece_key(bytes: &[u8]) -> Option<(MetaKey, u32)> {
    let (rest, number) = bytes.split_last_chunk::<4>()?;
    let (kind, rest) = rest.split_first()?;
    let key = match (kind, rest) {
        (b'i', []) => MetaKey::Identity,
        (b'v', []) => MetaKey::Vote,
        (b'c', []) => MetaKey::Committed,
        (b'p', []) => MetaKey::Purged,
        (b's', []) => MetaKey::Snapshot,
        (b'l', index) => MetaKey::Log(u64::from_be_bytes(index.try_into().ok()?)),
        _ => return None,
    };
    Some((key, u32::from_be_bytes(*number)))
}

fn cut(value: &Bytes) -> Vec<Bytes> {
    let mut whole = BytesMut::with_capacity(LENGTH_BYTES + value.len());
    whole.extend_from_slice(&(value.len() as u64).to_be_bytes());
    whole.extend_from_slice(value);
    let mut whole = whole.freeze();
    let mut pieces = Vec::new();
    while whole.len() > PIECE_BYTES {
        pieces.push(whole.split_to(PIECE_BYTES));
    }
    pieces.push(whole);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: u64, length: usize) -> MetaOp {
        MetaOp::Put(MetaKey::Log(index), Bytes::from(vec![index as u8; length]))
    }

    #[tokio::test]
    async fn reopening_gives_back_what_was_written_whatever_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let sizes = [0, 1, PIECE_BYTES - 8, PIECE_BYTES - 7, PIECE_BYTES, 3 * PIECE_BYTES + 5, 1 << 20];
        let mut expected = Stored::default();
        let store = SledStore::open(folder.path()).unwrap();
        let mut ops: Vec<MetaOp> = sizes.iter().enumerate().map(|(i, &size)| put(i as u64, size)).collect();
        ops.push(MetaOp::Put(MetaKey::Snapshot, Bytes::from(vec![7; 5 * PIECE_BYTES])));
        ops.push(MetaOp::Put(MetaKey::Vote, Bytes::from_static(b"vote")));
        ops.push(MetaOp::Put(MetaKey::Snapshot, Bytes::from_static(b"shorter")));
        ops.push(MetaOp::TruncateLog(6));
        ops.push(put(6, 10));
        ops.push(MetaOp::PurgeLog(1));
        for op in ops {
            expected.apply(op.clone());
            store.write(vec![op]).await.unwrap();
        }
        assert_eq!(store.load().await.unwrap(), expected);
        drop(store);
        assert_eq!(SledStore::open(folder.path()).unwrap().load().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn one_batch_has_the_effect_of_its_operations_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let big = 2 * PIECE_BYTES;
        store.write(vec![put(1, big), put(2, 1), put(3, 1)]).await.unwrap();
        let ops = vec![
            put(4, big),
            MetaOp::TruncateLog(3),
            put(3, 5),
            put(4, 2),
            put(5, big),
            MetaOp::TruncateLog(5),
            MetaOp::PurgeLog(1),
            MetaOp::Put(MetaKey::Purged, Bytes::from_static(b"1")),
        ];
        let mut expected = store.load().await.unwrap();
        ops.iter().cloned().for_each(|op| expected.apply(op));
        store.write(ops).await.unwrap();
        assert_eq!(store.load().await.unwrap(), expected);
        assert_eq!(expected.log.keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[tokio::test]
    async fn a_second_opening_says_that_the_folder_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let _store = SledStore::open(folder.path()).unwrap();
        let error = SledStore::open(folder.path()).err().expect("refused");
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    }

    #[tokio::test]
    async fn many_writers_at_once_are_all_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        let writes = (0..500).map(|i| store.write(vec![put(i, 100)]));
        for result in futures::future::join_all(writes).await {
            result.unwrap();
        }
        assert_eq!(store.load().await.unwrap().log.len(), 500);
    }
}
