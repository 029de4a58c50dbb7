//! The seam to the disk: everything that storage does to files goes through [`Disk`] and [`DiskFile`].
//!
//! **Invariant**: calls that are not async cost page-cache time (an append, a look-up in memory); whatever can wait
//! for the device (`sync*`, cold reads) is either async or is given to [`Disk::execute`], which runs it on the disk's
//! own threads. The simulated disk runs it inline after simulated time, so that a simulation stays deterministic.

mod real;
pub mod sim;
mod threads;

pub use real::RealDisk;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To read; the file must exist.
    Read,
    /// To read and write; the file must exist.
    ReadWrite,
    /// To read and write; made empty if it does not exist. Its name is durable only after `sync_dir` of its folder.
    Create,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// A lock on a path, held until it is dropped (or the process dies).
pub trait DiskLock: Send + Sync {}

/// A piece of work that may wait for the device.
pub type DiskJob = Box<dyn FnOnce() + Send + 'static>;

/// A file system, real or simulated.
pub trait Disk: Send + Sync + 'static {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Atomic; durable after `sync_dir` of the folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    fn exists(&self, path: &Path) -> bool;
    /// Makes the names in a folder durable: what was created, renamed or removed in it (T24).
    fn sync_dir(&self, path: &Path) -> BoxFuture<'static, io::Result<()>>;
    fn sync_dir_blocking(&self, path: &Path) -> io::Result<()>;
    /// Of the file system that `path` is on: what may still be written, and its size.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;
    /// Takes the lock file at `path`, or fails with `WouldBlock` when another process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    /// Runs `job` where it may block: on the disk's threads, or inline after the simulated latency of a read. A job
    /// whose future is dropped may still run.
    fn execute(&self, job: DiskJob) -> BoxFuture<'static, ()>;
}

/// An open file. Writers to one file are serialized by their owner; readers may run beside them.
pub trait DiskFile: Send + Sync {
    /// Writes all of `bufs`, one after the other, from `offset`. On an error some of it may have been written.
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()>;
    /// Reads up to `len` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Sets the length; also gives back what `allocate` reserved beyond it.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Reserves space for `offset..offset + len` without changing the file's length. A hint: it may do nothing.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes what was written before the call durable (data and length, not the name).
    fn sync_blocking(&self) -> io::Result<()>;
    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// Runs `work` by [`Disk::execute`] and gives back what it returned.
pub async fn run_on<T: Send + 'static>(disk: &dyn Disk, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tx, mut rx) = tokio::sync::oneshot::channel();
    disk.execute(Box::new(move || {
        // The receiver is gone when whoever asked was dropped: then nobody wants the result.
        let _ = tx.send(work());
    }))
    .await;
    rx.try_recv().map_err(|_| io::Error::other("the disk went away while it worked"))
}

/// Of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub available: u64,
    pub total: u64,
}

/// Whether the error means that there is no space left.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Replaces the file at `path` by one with `content`, durably and atomically: after a crash it is the old or the new.
/// Blocks on fsync: for start-up and shutdown, or inside [`Disk::execute`].
pub fn replace_file(disk: &dyn Disk, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.truncate(0)?;
    file.write_at(0, &[IoSlice::new(content)])?;
    file.sync_blocking()?;
    disk.rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => disk.sync_dir_blocking(parent),
        None => Ok(()),
    }
}

/// The whole content of a small file, or `None` if there is no such file. Fails above `len_max` bytes.
pub fn read_small_file(disk: &dyn Disk, path: &Path, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > len_max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {len} bytes, more than the {len_max} that such a file can have", path.display()),
        ));
    }
    file.read_at(0, len as usize).map(Some)
}
