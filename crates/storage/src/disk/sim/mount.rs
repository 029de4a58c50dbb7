//! The simulated disk as one run of a process sees it.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::tree::NodeId;
use super::{SimDisk, State};
use crate::disk::{DirEntry, Disk, DiskFile, DiskJob, DiskLock, DiskSpace, OpenMode};

pub(super) struct Mount {
    pub(super) disk: SimDisk,
    pub(super) run: u64,
}

impl Mount {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        state.check_run(self.run)?;
        work(&mut state)
    }
}

impl Disk for Mount {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.with(|state| match mode {
            OpenMode::Create => state.tree.create_file(path),
            OpenMode::Read | OpenMode::ReadWrite => state.tree.file_at(path),
        })?;
        let path = path.to_owned();
        Ok(Arc::new(SimFile { disk: self.disk.clone(), run: self.run, node, path, writable: mode != OpenMode::Read }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(|state| state.tree.create_dir_all(path))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.with(|state| state.tree.file_at(path).and_then(|_| state.tree.remove(path)))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(|state| state.tree.remove(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with(|state| state.tree.rename(from, to))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.with(|state| state.tree.read_dir(path))
    }

    fn exists(&self, path: &Path) -> bool {
        self.with(|state| Ok(state.tree.exists(path))).unwrap_or(false)
    }

    fn sync_dir(&self, path: &Path) -> BoxFuture<'static, io::Result<()>> {
        let time = self.with(|state| Ok(state.random.between(state.latency.sync)));
        let (mount, path) = (Self { disk: self.disk.clone(), run: self.run }, path.to_owned());
        async move {
            let time = time?;
            mount.disk.pause(time).await;
            mount.sync_dir_blocking(&path)
        }
        .boxed()
    }

    fn sync_dir_blocking(&self, path: &Path) -> io::Result<()> {
        self.with(|state| {
            if State::hit(&state.faults.fail_syncs, path) {
                return Err(io::Error::other("simulated: the device failed to write"));
            }
            if state.faults.lie_about_syncs { Ok(()) } else { state.tree.sync_dir(path) }
        })
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        self.with(|state| {
            let available = state.capacity.saturating_sub(state.tree.used_bytes());
            Ok(DiskSpace { available, total: state.capacity })
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.with(|state| {
            if state.locks.iter().any(|locked| locked == path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            state.locks.push(path.to_owned());
            Ok(())
        })?;
        Ok(Box::new(SimLock { disk: self.disk.clone(), run: self.run, path: path.to_owned() }))
    }

    fn execute(&self, job: DiskJob) -> BoxFuture<'static, ()> {
        let time = self.with(|state| Ok(state.random.between(state.latency.read)));
        let disk = self.disk.clone();
        async move {
            // After a crash the job finds out by itself that its files are dead.
            disk.pause(time.unwrap_or_default()).await;
            job();
        }
        .boxed()
    }
}

struct SimLock {
    disk: SimDisk,
    run: u64,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.run == self.run {
            state.locks.retain(|locked| *locked != self.path);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    run: u64,
    node: NodeId,
    path: PathBuf,
    writable: bool,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        state.check_run(self.run)?;
        work(&mut state)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.check_writable()?;
        let mut data = bufs.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>();
        self.with(|state| {
            if State::hit(&state.faults.fail_writes, &self.path) {
                let cut = state.random.below(data.len() as u64) as usize;
                data.truncate(cut);
                state.tree.content(self.node).write(offset, data);
                return Err(io::Error::other("simulated: the device failed to write"));
            }
            let len = state.tree.content(self.node).len();
            let growth = (offset + data.len() as u64).saturating_sub(len);
            if growth > 0 && state.capacity != u64::MAX {
                let room = state.capacity.saturating_sub(state.tree.used_bytes());
                if growth > room {
                    // As a real one does: what fits is written, and then it fails.
                    // Of a write beyond the end, nothing if there is no room up to there.
                    data.truncate((data.len() as u64 + room).saturating_sub(growth) as usize);
                    if data.is_empty() {
                        return Err(io::ErrorKind::StorageFull.into());
                    }
                    state.tree.content(self.node).write(offset, data);
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            state.tree.content(self.node).write(offset, data);
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.with(|state| {
            if State::hit(&state.faults.fail_reads, &self.path) {
                return Err(io::Error::other("simulated: the device failed to read"));
            }
            Ok(state.tree.content(self.node).read(offset, len))
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.tree.content(self.node).len()))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.with(|state| {
            state.tree.content(self.node).set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.check_writable()
    }

    fn sync_blocking(&self) -> io::Result<()> {
        self.with(|state| {
            let (covered, _) = state.begin_sync(self.node);
            state.end_sync(self.node, &self.path, covered)
        })
    }

    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        let begun = self.with(|state| Ok(state.begin_sync(self.node)));
        async move {
            let (covered, time) = begun?;
            self.disk.pause(time).await;
            self.with(|state| state.end_sync(self.node, &self.path, covered))
        }
        .boxed()
    }
}
