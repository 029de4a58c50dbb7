//! Group commit, the log's side: what is not synced yet, jobs that sync it, and what counts as durable after them.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join_all;
use highwater_types::Offset;
use highwater_types::mutation::{self, Mutation};

use super::{Log, State, remove_files};
use crate::disk::{self, Disk, DiskFile, OpenMode};
use crate::error::LogError;
use crate::index;
use crate::log_folder::TOPIC_ID_FILE;
use crate::segment::Sealed;
use crate::time_index;

/// What was written since the last sync began.
#[derive(Default)]
pub(super) struct Unsynced {
    pub(super) active: bool,
    /// Files that were sealed or removed from the log's end.
    pub(super) files: Vec<Arc<dyn DiskFile>>,
    pub(super) indexes: Vec<PathBuf>,
    /// Names in the log's folder.
    pub(super) dir: bool,
    /// The name of the log's folder in the data dir.
    pub(super) parent: bool,
    pub(super) epochs: bool,
    pub(super) checkpoint: bool,
}

impl Unsynced {
    fn is_empty(&self) -> bool {
        let flags = self.active || self.dir || self.parent || self.epochs || self.checkpoint;
        !flags && self.files.is_empty() && self.indexes.is_empty()
    }

    pub(super) fn add_sealed(&mut self, sealed: &Sealed, file: Arc<dyn DiskFile>) {
        self.files.push(file);
        let extensions = [index::EXTENSION, time_index::EXTENSION];
        self.indexes.extend(extensions.map(|extension| sealed.segment.path(extension)));
    }
}

/// Files to remove once the start offset that let go of them is durable; numbered in order, so that a job removes what
/// was condemned before it began. Shared with jobs, so that a log that starts anew can take names back.
#[derive(Clone, Default)]
pub(super) struct Condemned {
    files: Arc<Mutex<Vec<(u64, PathBuf)>>>,
    next: u64,
}

impl Condemned {
    pub(super) fn add(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            files.push((self.next, path));
            self.next += 1;
        }
    }

    /// Removes those that were condemned before number `before`.
    pub(super) fn remove(&self, disk: &dyn Disk, before: u64) -> io::Result<()> {
        // Held while removing, so that nobody makes a file of the same name in between.
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (go, stay) = files.drain(..).partition(|(number, _)| *number < before);
        *files = stay;
        let go: Vec<PathBuf> = go.into_iter().map(|(_, path)| path).collect();
        remove_files(disk, &go)
    }

    pub(super) fn remove_all(&self, disk: &dyn Disk) -> io::Result<()> {
        self.remove(disk, u64::MAX)
    }
}

/// What to sync, handed out by [`Log::begin_sync`]; to be run outside the log's lock and given back to
/// [`Log::finish_sync`] or [`Log::fail_sync`]. A job that is dropped instead ends group commit for its log: nothing
/// counts as durable any more.
pub struct SyncJob {
    disk: Arc<dyn Disk>,
    files: Vec<Arc<dyn DiskFile>>,
    index_paths: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
    end: Offset,
    /// The start offset in the checkpoint, if that is synced with the rest.
    start: Option<Offset>,
    covers_names: bool,
    condemned: Option<(Condemned, u64)>,
}

impl SyncJob {
    /// Syncs everything, files side by side. An error means that the disk may lack any of it, for good (T44).
    pub async fn run(&self) -> io::Result<()> {
        let mut files = self.files.clone();
        for path in &self.index_paths {
            match self.disk.open(path, OpenMode::ReadWrite) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        match files.as_slice() {
            [] => {}
            [one] => one.clone().sync().await?,
            _ => drop(try_join_all(files.into_iter().map(|file| file.sync())).await?),
        }
        for dir in &self.dirs {
            self.disk.sync_dir(dir).await?;
        }
        if let Some((condemned, before)) = &self.condemned {
            let (condemned, before, disk) = (condemned.clone(), *before, self.disk.clone());
            disk::run_on(&*self.disk, move || condemned.remove(&*disk, before)).await??;
        }
        Ok(())
    }

    fn run_blocking(&self) -> io::Result<()> {
        for path in &self.index_paths {
            if self.disk.exists(path) {
                self.disk.open(path, OpenMode::ReadWrite)?.sync_blocking()?;
            }
        }
        self.files.iter().try_for_each(|file| file.sync_blocking())?;
        self.dirs.iter().try_for_each(|dir| self.disk.sync_dir_blocking(dir))?;
        match &self.condemned {
            Some((condemned, before)) => condemned.remove(&*self.disk, *before),
            None => Ok(()),
        }
    }
}

impl Log {
    /// Whether a sync would have something to do.
    pub fn needs_sync(&self) -> bool {
        !self.unsynced.is_empty() && self.syncing.is_none() && self.check_writable()
    }

    /// Whether a job is out that has not come back.
    pub fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    fn check_writable(&self) -> bool {
        !self.is_failed() && self.config.status.offline_reason().is_none()
    }

    /// Everything that is not synced yet, as one job. `None` if there is nothing to do, a job is out already, a failure
    /// has ended all writing, or there is no space for what must be synced with it.
    pub fn begin_sync(&mut self) -> Option<SyncJob> {
        if !self.needs_sync() {
            return None;
        }
        match self.epoch_file.write_waiting() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                self.fail(&format!("writing the leader epochs of {}: {error}", self.dir.display()));
                return None;
            }
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        let mut files = unsynced.files;
        let flagged = [
            (unsynced.active, &self.active.file),
            (unsynced.epochs, self.epoch_file.file()),
            (unsynced.checkpoint, self.checkpoint.file()),
        ];
        files.extend(flagged.into_iter().filter(|(flag, _)| *flag).map(|(_, file)| file.clone()));
        let mut dirs = Vec::new();
        if unsynced.dir && !mutation::is_on(Mutation::FolderNotSynced) {
            dirs.push(self.dir.to_path_buf());
        }
        if let (true, Some(parent)) = (unsynced.parent, self.dir.parent()) {
            dirs.push(parent.to_owned());
        }
        if unsynced.checkpoint {
            self.checkpoint.sync_begins();
        }
        self.syncing = Some(self.end_offset());
        Some(SyncJob {
            disk: self.disk.clone(),
            files,
            index_paths: unsynced.indexes,
            dirs,
            end: self.end_offset(),
            start: unsynced.checkpoint.then(|| self.checkpoint.latest().start_offset),
            covers_names: unsynced.parent,
            condemned: unsynced.checkpoint.then(|| (self.condemned.clone(), self.condemned.next)),
        })
    }

    /// The job has run without an error. Returns the durable offset.
    pub fn finish_sync(&mut self, job: SyncJob) -> Offset {
        // What was cut off and written again since the job began is not covered by it.
        let cut_to = self.syncing.take().unwrap_or(Offset::ZERO);
        self.durable = self.durable.max(job.end.min(cut_to));
        self.is_named |= job.covers_names;
        let mut written = match job.start {
            Some(start) => {
                self.durable_start = self.durable_start.max(start).min(self.start);
                self.checkpoint.sync_ended()
            }
            None => Ok(()),
        };
        let state = self.state_to_checkpoint();
        if written.is_ok() && state != *self.checkpoint.latest() {
            written = self.checkpoint.write(state);
        }
        // The checkpoint's place on the disk exists already: an error here is one of the device.
        if let Err(error) = written {
            self.fail(&format!("writing the checkpoint of {}: {error}", self.dir.display()));
        }
        self.durable
    }

    /// The job has failed: nothing more will be written, here and in the whole data dir (T44).
    pub fn fail_sync(&mut self, job: SyncJob, error: &io::Error) {
        drop(job);
        self.syncing = None;
        self.fail(&format!("syncing {}: {error}", self.dir.display()));
    }

    /// After an unclean stop: nobody knows which of it the disk has.
    pub(super) fn unsynced_after_recovery(&mut self, indexes: Vec<PathBuf>) {
        let (dir, parent, checkpoint) = (true, true, true);
        self.unsynced =
            Unsynced { active: true, epochs: true, dir, parent, checkpoint, indexes, ..Unsynced::default() };
        self.unsynced.indexes.push(self.dir.join(TOPIC_ID_FILE));
        // One that ends at the durable offset may have been sealed since.
        let unsynced: Vec<Sealed> = self.sealed.iter().filter(|sealed| sealed.end >= self.durable).cloned().collect();
        for sealed in &unsynced {
            match self.disk.open(&sealed.segment.log_path(), OpenMode::ReadWrite) {
                Ok(file) => self.unsynced.add_sealed(sealed, file),
                Err(error) => self.fail(&format!("opening {}: {error}", sealed.segment.log_path().display())),
            }
        }
    }

    /// Syncs everything, blocking, and marks the log as closed in order; nothing is written to it any more. For
    /// shutdown, and inside [`Disk::execute`]. No job may be out.
    pub fn flush_and_close(&mut self, high_watermark: Offset) -> Result<(), LogError> {
        self.check_open()?;
        self.note_high_watermark(high_watermark);
        let saved = self.active.save_indexes(&*self.disk);
        self.io(saved)?;
        self.sync_now()?;
        let settled = self.settle_compaction();
        self.io(settled)?;
        if self.durable < self.end_offset() {
            self.fail("a sync was still running when the log was closed");
            return Err(LogError::Closed);
        }
        let trimmed = self.active.file.truncate(self.active.len);
        self.io(trimmed)?;
        self.save_producers();
        self.state = State::Closed;
        let [_, offsets, times] = self.active.segment.paths();
        self.unsynced.indexes.extend([offsets, times]);
        self.write_checkpoint_to_sync()?;
        self.unsynced.active = true;
        self.sync_now()
    }

    /// Syncs everything under the lock: where nobody else waits for it.
    pub(super) fn sync_now(&mut self) -> Result<(), LogError> {
        if let Some(job) = self.begin_sync() {
            if let Err(error) = job.run_blocking() {
                self.fail_sync(job, &error);
                return Err(LogError::Io(error));
            }
            self.finish_sync(job);
        }
        Ok(())
    }
}
