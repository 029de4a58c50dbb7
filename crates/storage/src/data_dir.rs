//! One data dir: a configured folder on one disk that holds partition folders, says whose it is, and whether it was
//! closed in order.
//!
//! **Invariants**: one process has it at a time (a lock file). It belongs to one broker of one cluster (`meta.json`). The
//! clean-shutdown marker is gone, durably, before anything else is changed. A partition is deleted by a durable rename first, so
//! that it is there or gone. Folders that it does not know are never touched (T43).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use highwater_types::{BrokerEpoch, BrokerId, TimestampMs, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::config::LogConfig;
use crate::disk::{self, Disk, DiskLock, DiskSpace};
use crate::error::OpenError;
use crate::log::{Log, OpenLog};
use crate::recovery::RecoveryReport;
use crate::status::DirStatus;

const LOCK_FILE: &str = "lock";
const META_FILE: &str = "meta.json";
const CLEAN_FILE: &str = "clean-shutdown.json";
const DELETED_SUFFIX: &str = ".deleted";
const SMALL_FILE_BYTES_MAX: u64 = 64 << 10;
const META_VERSION: u32 = 1;

/// Whose data dir it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    version: u32,
    broker_id: BrokerId,
    /// Known once the broker has registered for the first time.
    cluster_id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CleanShutdown {
    broker_epoch: BrokerEpoch,
}

/// Why a data dir can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("can't use the data dir {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the data dir {path} is in use by another process", path = path.display())]
    Locked { path: PathBuf },
    #[error("the data dir {path} belongs to {found}, not to {expected}; point data_dirs elsewhere", path = path.display())]
    Foreign { path: PathBuf, expected: String, found: String },
    #[error("{path} can't be read: {what}", path = path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("the data dir {path} is offline: {why}", path = path.display())]
    Offline { path: PathBuf, why: Arc<str> },
}

/// What opening a data dir found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedDataDir {
    /// The broker epoch that closed it in order; `None` after an unclean stop, and for a new one.
    pub was_clean: Option<BrokerEpoch>,
    /// The partitions that have a folder here.
    pub partitions: Vec<TopicPartition>,
    /// Whether it was made just now.
    pub created: bool,
}

/// An open data dir.
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    meta: Mutex<Meta>,
    status: Arc<DirStatus>,
    reserve_bytes: u64,
    clean: bool,
    _lock: Box<dyn DiskLock>,
}

impl DataDir {
    /// Opens or creates it for `broker`, and takes its clean-shutdown marker away. New writes are refused while less
    /// than `reserve_bytes` are free. Blocking: for start-up.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        broker: BrokerId,
        reserve_bytes: u64,
    ) -> Result<(Arc<Self>, OpenedDataDir), DataDirError> {
        let io = |source| DataDirError::Io { path: path.to_owned(), source };
        create_dir_all_durably(&*disk, path).map_err(io)?;
        let lock = disk.lock(&path.join(LOCK_FILE)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => DataDirError::Locked { path: path.to_owned() },
            _ => io(error),
        })?;
        let found: Option<Meta> = read_json(&*disk, &path.join(META_FILE))?;
        let created = found.is_none();
        let meta = found.unwrap_or(Meta { version: META_VERSION, broker_id: broker, cluster_id: None });
        if meta.broker_id != broker || meta.version != META_VERSION {
            return Err(DataDirError::Foreign {
                path: path.to_owned(),
                expected: format!("broker {broker} (format {META_VERSION})"),
                found: format!("broker {} (format {})", meta.broker_id, meta.version),
            });
        }
        if created {
            write_json(&*disk, &path.join(META_FILE), &meta)?;
        }
        // An unreadable marker is no proof of a clean shutdown.
        let marker_path = path.join(CLEAN_FILE);
        let marker: Option<CleanShutdown> = read_json(&*disk, &marker_path).ok().flatten();
        if disk.exists(&marker_path) {
            disk.remove_file(&marker_path).map_err(io)?;
            disk.sync_dir_blocking(path).map_err(io)?;
        }
        let mut partitions = Vec::new();
        for entry in disk.read_dir(path).map_err(io)?.into_iter().filter(|entry| entry.is_dir) {
            if let Some(name) = entry.name.strip_suffix(DELETED_SUFFIX) {
                if parse_partition(name).is_some() {
                    disk.remove_dir_all(&path.join(&entry.name)).map_err(io)?;
                }
            } else if let Some(partition) = parse_partition(&entry.name) {
                partitions.push(partition);
            } else {
                tracing::warn!(path = %path.display(), folder = entry.name, "not a partition's folder; left alone");
            }
        }
        partitions.sort_unstable();
        let was_clean = marker.map(|marker| marker.broker_epoch);
        let this = Self {
            disk,
            path: path.to_owned(),
            meta: Mutex::new(meta),
            status: Arc::default(),
            reserve_bytes,
            clean: was_clean.is_some(),
            _lock: lock,
        };
        this.refresh_space().map_err(io)?;
        Ok((Arc::new(this), OpenedDataDir { was_clean, partitions, created }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
    /// Whether it is offline or full; shared with its logs.
    pub fn status(&self) -> &Arc<DirStatus> {
        &self.status
    }
    /// The cluster that it belongs to, once that is known.
    pub fn cluster_id(&self) -> Option<String> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner).cluster_id.clone()
    }

    /// Notes which cluster it belongs to; fails if that is another than before. Blocking, once in its life.
    pub fn bind_cluster(&self, cluster_id: &str) -> Result<(), DataDirError> {
        let mut meta = self.meta.lock().unwrap_or_else(PoisonError::into_inner);
        match &meta.cluster_id {
            Some(known) if known == cluster_id => Ok(()),
            Some(known) => Err(DataDirError::Foreign {
                path: self.path.clone(),
                expected: format!("cluster {cluster_id}"),
                found: format!("cluster {known}"),
            }),
            None => {
                let bound = Meta { cluster_id: Some(cluster_id.to_owned()), ..meta.clone() };
                write_json(&*self.disk, &self.path.join(META_FILE), &bound)?;
                *meta = bound;
                Ok(())
            }
        }
    }

    /// Writes the clean-shutdown marker, durably. Only after every log was flushed and closed. Blocking.
    pub fn write_clean_marker(&self, broker_epoch: BrokerEpoch) -> Result<(), DataDirError> {
        self.check_online()?;
        write_json(&*self.disk, &self.path.join(CLEAN_FILE), &CleanShutdown { broker_epoch })
    }

    fn check_online(&self) -> Result<(), DataDirError> {
        match self.status.offline_reason() {
            Some(why) => Err(DataDirError::Offline { path: self.path.clone(), why }),
            None => Ok(()),
        }
    }

    /// Looks at how much space is free. Call it about once a second: this is how writes are taken again (T46).
    pub fn refresh_space(&self) -> io::Result<()> {
        let DiskSpace { available, total } = self.disk.space(&self.path)?;
        let headroom = i64::try_from(available).unwrap_or(i64::MAX) - i64::try_from(self.reserve_bytes).unwrap_or(0);
        self.status.set_headroom(headroom.min(i64::MAX - 1));
        self.status.set_space(available, total);
        Ok(())
    }

    pub fn partition_path(&self, partition: TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    pub fn has_partition(&self, partition: TopicPartition) -> bool {
        self.disk.exists(&self.partition_path(partition))
    }

    /// Opens or creates a partition's log, with recovery on the disk's threads.
    pub async fn open_log(
        self: &Arc<Self>,
        partition: TopicPartition,
        config: LogConfig,
        now: TimestampMs,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let (this, path) = (self.clone(), self.partition_path(partition));
        let opened = disk::run_on(&*self.disk, move || this.open_log_blocking(partition, config, now)).await;
        opened.unwrap_or_else(|source| Err(OpenError::Io { path, source }))
    }

    /// As [`DataDir::open_log`], on this thread.
    pub fn open_log_blocking(
        &self,
        partition: TopicPartition,
        config: LogConfig,
        now: TimestampMs,
    ) -> Result<(Log, RecoveryReport), OpenError> {
        let config = LogConfig { status: self.status.clone(), ..config };
        let how = OpenLog { clean: self.clean };
        Log::open(self.disk.clone(), &self.partition_path(partition), partition, config, how, now)
    }

    /// Deletes a partition's folder: durably gone when this returns. Its log must not be in use any more.
    pub async fn delete_partition(&self, partition: TopicPartition) -> Result<(), DataDirError> {
        let path = self.partition_path(partition);
        let deleted = self.path.join(format!("{partition}{DELETED_SUFFIX}"));
        let (disk, dir) = (self.disk.clone(), self.path.clone());
        let done = disk::run_on(&*self.disk, move || {
            if disk.exists(&deleted) {
                disk.remove_dir_all(&deleted)?;
            }
            match disk.rename(&path, &deleted) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                renamed => renamed?,
            }
            disk.sync_dir_blocking(&dir)?;
            disk.remove_dir_all(&deleted)
        });
        let done = done.await.and_then(|done| done);
        done.map_err(|source| DataDirError::Io { path: self.partition_path(partition), source })
    }
}

/// Makes a folder and those above it that are missing, with their names on the disk (T24).
fn create_dir_all_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !disk.exists(ancestor)).collect();
    disk.create_dir_all(path)?;
    let parents = missing.iter().filter_map(|made| made.parent());
    let named = |parent: &&Path| !parent.as_os_str().is_empty();
    parents.filter(named).try_for_each(|parent| disk.sync_dir_blocking(parent))
}

/// `<topic id>-<partition>`, exactly as it is written.
fn parse_partition(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.split_once('-')?;
    let partition = TopicPartition::new(topic.parse().ok()?, partition.parse().ok()?);
    (partition.to_string() == name).then_some(partition)
}

fn read_json<T: for<'de> Deserialize<'de>>(disk: &dyn Disk, path: &Path) -> Result<Option<T>, DataDirError> {
    let bytes = disk::read_small_file(disk, path, SMALL_FILE_BYTES_MAX)
        .map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
    let damaged = |error: serde_json::Error| DataDirError::Damaged { path: path.to_owned(), what: error.to_string() };
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged)).transpose()
}

fn write_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<(), DataDirError> {
    let io = |source| DataDirError::Io { path: path.to_owned(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| io(error.into()))?;
    disk::replace_file(disk, path, &bytes).map_err(io)
}

#[cfg(test)]
mod tests;
