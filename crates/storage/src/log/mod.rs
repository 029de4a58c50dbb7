//! One partition's log. Its owner keeps it in a mutex; every method costs page-cache time at most, but for the
//! exceptions that their comments state, and fsync is never under the lock (T24): [`Log::begin_sync`] hands out what
//! to sync, [`Log::finish_sync`] takes the result.
//!
//! **Invariants**: start <= high watermark <= end, durable <= end. Everything below the durable offset was synced by a job
//! that began after it was written and that no truncation overtook. Segments are contiguous: what is missing or
//! damaged inside them is listed in `damage`. After a failed write or sync nothing is written any more (T44).

mod append;
mod compact;
mod heal;
mod newest;
mod producers;
mod read;
mod retention;
mod sync;
mod truncate;

pub use append::Appended;
pub use heal::{HealJob, Healed};
pub use newest::NewestSearch;
pub use read::{FileRead, ReadPlan, TimestampFound, TimestampSearch};
pub use retention::{DeletedSegment, DeletionReason};
pub use sync::SyncJob;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_record::EpochHistory;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, TimestampMs, TopicPartition};

use crate::cache::Cache;
use crate::checkpoint::{Checkpoint, CheckpointFile};
use crate::config::LogConfig;
use crate::disk::Disk;
use crate::epoch_file::{EpochFile, EpochRecord};
use crate::error::{AppendError, DamagedRange, LogError, OpenError};
use crate::recovery::{self, RecoveryReport};
use crate::segment::{Active, Sealed};
use compact::Compaction;
use producers::Producers;
use sync::{Condemned, Unsynced};

/// How a log is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenLog {
    /// The data dir had its clean-shutdown marker: what the log says of itself holds, unless it says otherwise.
    pub clean: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open,
    /// Closed in order.
    Closed,
    /// A write or a sync failed: what the page cache shows may not be what the disk has.
    Failed(Arc<str>),
}

/// One partition's log.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: Arc<Path>,
    partition: TopicPartition,
    config: LogConfig,
    sealed: VecDeque<Sealed>,
    active: Active,
    start: Offset,
    /// Where the log starts after any crash from now on.
    durable_start: Offset,
    durable: Offset,
    high_watermark: Offset,
    epochs: Arc<EpochHistory>,
    epoch_file: EpochFile,
    checkpoint: CheckpointFile,
    cache: Cache,
    damage: Vec<DamagedRange>,
    /// See [`Log::doubt`].
    doubt: Option<Offset>,
    producers: Producers,
    compaction: Compaction,
    unsynced: Unsynced,
    /// The names of its folder, and of the files that every log has, are known to be on the disk.
    is_named: bool,
    /// A sync job is out: the least offset that the log was cut to since it began.
    syncing: Option<Offset>,
    condemned: Condemned,
    /// A heal job is out.
    healing: Option<heal::Healing>,
    state: State,
}

/// What recovery hands over.
pub(crate) struct Recovered {
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Active,
    pub(crate) start: Offset,
    pub(crate) durable: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) epochs: EpochHistory,
    pub(crate) epoch_file: EpochFile,
    pub(crate) checkpoint: CheckpointFile,
    pub(crate) damage: Vec<DamagedRange>,
    pub(crate) doubt: Option<Offset>,
    /// Index files that are to be synced.
    pub(crate) written: Vec<PathBuf>,
}

impl Log {
    /// Opens the log in `dir`, or creates it. After an unclean stop, scans from the recovery point: blocking, for
    /// [`crate::DataDir::open_log`] or start-up. What was found above the recovery point is not durable before the
    /// first sync.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        partition: TopicPartition,
        config: LogConfig,
        how: OpenLog,
        now: TimestampMs,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let dir: Arc<Path> = dir.into();
        let (recovered, report) = recovery::recover(&*disk, &dir, partition, &config, how)?;
        let mut log = Self {
            cache: Cache::new(config.cache_budget.clone()),
            disk,
            dir,
            partition,
            config,
            sealed: recovered.sealed,
            active: recovered.active,
            start: recovered.start,
            // After an unclean stop the checkpoint that was read may be in the page cache alone.
            durable_start: if report.clean { recovered.start } else { Offset::ZERO },
            durable: recovered.durable,
            high_watermark: recovered.high_watermark,
            epochs: Arc::new(recovered.epochs),
            epoch_file: recovered.epoch_file,
            checkpoint: recovered.checkpoint,
            damage: recovered.damage,
            doubt: recovered.doubt,
            producers: Producers::default(),
            compaction: Compaction::default(),
            unsynced: Unsynced::default(),
            is_named: report.clean,
            syncing: None,
            condemned: Condemned::default(),
            healing: None,
            state: State::Open,
        };
        if log.active.len > 0 {
            log.active.since = Some(now);
        }
        if !report.clean {
            log.unsynced_after_recovery(recovered.written);
        }
        log.compaction = Compaction::load(&*log.disk, &log.dir, &log.epochs, (log.end_offset(), report.recovery_point))
            .map_err(|source| OpenError::Io { path: log.dir.to_path_buf(), source })?;
        if !mutation::is_on(Mutation::ForgetProducersOnRestart) {
            log.learn_producers().map_err(|source| OpenError::Io { path: log.dir.to_path_buf(), source })?;
        }
        Ok((log, report))
    }

    pub fn partition(&self) -> TopicPartition {
        self.partition
    }
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn config(&self) -> &LogConfig {
        &self.config
    }
    /// The first offset that can be read: moved by retention and delete-records.
    pub fn start_offset(&self) -> Offset {
        self.start
    }
    /// Where the log starts at least after any crash: what lies before is never seen again.
    pub fn durable_start_offset(&self) -> Offset {
        self.durable_start
    }
    /// The offset that the next record gets.
    pub fn end_offset(&self) -> Offset {
        self.active.end
    }
    /// Everything below is on the disk, file names included.
    pub fn durable_offset(&self) -> Offset {
        self.durable
    }
    /// The high watermark of the last checkpoint or [`Log::note_high_watermark`]; after a restart, what was known
    /// before, no further than the log goes.
    pub fn checkpointed_hw(&self) -> Offset {
        self.high_watermark
    }
    pub fn epochs(&self) -> &EpochHistory {
        &self.epochs
    }
    /// Bytes of all batches.
    pub fn size_bytes(&self) -> u64 {
        self.sealed.iter().map(|sealed| sealed.len).sum::<u64>() + self.active.len
    }
    pub fn segment_count(&self) -> usize {
        self.sealed.len() + 1
    }
    /// The first damaged range, if there is any. Cleared by healing, truncation and retention.
    pub fn damage(&self) -> Option<DamagedRange> {
        self.damage.first().copied()
    }
    /// All damaged ranges, in order.
    pub fn damaged_ranges(&self) -> &[DamagedRange] {
        &self.damage
    }
    /// Where recovery cut this log, or one before this run, although sound batches followed. Writes that were not synced
    /// may have reached the disk in any order, and then nothing that counts is gone; or what was synced is damaged, and
    /// then this log lacks what it has acknowledged. Nothing here tells which (T43): until it is known that the log has
    /// all that is committed, it is not to pass for a full copy. Outlives restarts, until [`Log::doubt_is_known`].
    pub fn doubt(&self) -> Option<Offset> {
        self.doubt
    }

    /// Whoever decides who may lead knows of the doubt.
    pub fn doubt_is_known(&mut self) {
        self.doubt = None;
    }

    /// Whether a failed write or sync has ended all writing to it.
    pub fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed(_))
    }

    /// Notes what a cold read has found ([`crate::ReadError::Damaged`]), so that it is healed.
    pub fn note_damage(&mut self, range: DamagedRange) {
        let range = DamagedRange { start: range.start.max(self.start), end: range.end.min(self.end_offset()) };
        if range.is_empty() {
            return;
        }
        // One range per segment and place; ranges that touch within a segment become one.
        let segment_of = |offset: Offset| self.sealed.partition_point(|sealed| sealed.end <= offset);
        let segment = segment_of(range.start);
        let mut joined = range;
        self.damage.retain(|known| {
            let joins = known.start <= joined.end && joined.start <= known.end && segment_of(known.start) == segment;
            if joins {
                joined = DamagedRange { start: joined.start.min(known.start), end: joined.end.max(known.end) };
            }
            !joins
        });
        self.damage.push(joined);
        self.damage.sort_unstable();
    }

    /// Notes the high watermark, for the recovery point (below it nothing is ever cut by recovery) and the next
    /// checkpoint. Cheap; call it whenever it moves.
    pub fn note_high_watermark(&mut self, high_watermark: Offset) {
        self.high_watermark = high_watermark.clamp(self.start, self.end_offset());
        self.producers.states.committed(self.high_watermark);
    }

    /// Writes down the high watermark and the recovery point, and lets the next sync make them durable. Call it every
    /// few seconds, and request a flush after it.
    pub fn checkpoint(&mut self, high_watermark: Offset) -> Result<(), LogError> {
        self.check_open()?;
        self.note_high_watermark(high_watermark);
        let changed = self.state_to_checkpoint() != *self.checkpoint.latest();
        let saved = self.active.save_indexes(&*self.disk);
        self.io(saved)?;
        if changed { self.write_checkpoint_to_sync() } else { Ok(()) }
    }

    fn state_to_checkpoint(&self) -> Checkpoint {
        Checkpoint {
            start_offset: self.start,
            recovery_point: self
                .durable
                .min(self.high_watermark.max(self.compaction.recovery_point_min()))
                .max(self.start),
            high_watermark: self.high_watermark,
            closed_at: (self.state == State::Closed).then_some(self.active.end),
            doubt: self.doubt,
        }
    }

    fn write_checkpoint_to_sync(&mut self) -> Result<(), LogError> {
        self.unsynced.checkpoint = true;
        let state = self.state_to_checkpoint();
        let written = self.checkpoint.write(state);
        self.io(written)
    }

    /// Notes that a leader epoch starts at the end of the log, as a new leader does before its first append.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.check_appendable()?;
        self.assign_epoch(epoch, self.end_offset())
    }

    fn assign_epoch(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<(), AppendError> {
        if self.epochs.latest() == Some(epoch) {
            return Ok(());
        }
        let latest = self.epochs.latest().unwrap_or(LeaderEpoch::NONE);
        let mut history = EpochHistory::clone(&self.epochs);
        match history.assign(epoch, start) {
            Err(_) => return Err(AppendError::EpochWentBack { latest, found: epoch }),
            Ok(false) => return Ok(()),
            Ok(true) => {}
        }
        self.unsynced.epochs = true;
        match self.epoch_file.append(EpochRecord::Assign(epoch, start)) {
            Ok(()) => self.epochs = Arc::new(history),
            Err(error) => return Err(self.fail_append(error)),
        }
        Ok(())
    }

    /// Changes the epochs other than by assigning one.
    fn change_epochs(&mut self, change: impl FnOnce(&mut EpochHistory) -> bool, record: EpochRecord) -> io::Result<()> {
        let mut history = EpochHistory::clone(&self.epochs);
        if change(&mut history) {
            self.epochs = Arc::new(history);
            self.unsynced.epochs = true;
            self.epoch_file.append(record)?;
        }
        Ok(())
    }

    /// Takes a changed configuration; it applies from the next append on.
    pub fn update_config(&mut self, config: LogConfig) {
        self.config = config;
        self.cache.shrink_to(self.config.cache_bytes);
    }

    /// Drops from memory what was there at the previous call already. Call it every few seconds, so that an idle log
    /// takes no memory.
    pub fn age_cache(&mut self) {
        let end = self.end_offset();
        self.cache.age(end);
    }

    /// Starts a new segment.
    pub(crate) fn roll(&mut self) -> io::Result<()> {
        if self.active.len == 0 {
            return Ok(());
        }
        let next = Active::create(&*self.disk, &self.dir, self.active.end)?;
        self.save_producers();
        let sealed = self.active.seal(&*self.disk)?;
        self.unsynced.add_sealed(&sealed, self.active.file.clone());
        self.sealed.push_back(sealed);
        self.active = next;
        self.unsynced.dir = true;
        Ok(())
    }

    fn check_open(&self) -> Result<(), LogError> {
        match &self.state {
            State::Closed => Err(LogError::Closed),
            State::Failed(why) => Err(LogError::Offline(why.clone())),
            State::Open => self.config.status.offline_reason().map_or(Ok(()), |why| Err(LogError::Offline(why))),
        }
    }

    /// Fails where an append would, as far as that can be told before.
    pub fn check_appendable(&self) -> Result<(), AppendError> {
        match self.check_open() {
            Ok(()) if self.config.status.is_full() => Err(AppendError::DiskFull),
            Ok(()) => Ok(()),
            Err(LogError::Offline(why)) => Err(AppendError::Offline(why)),
            Err(_) => Err(AppendError::Closed),
        }
    }

    /// Ends all writing, here and in the whole data dir: after a failed write or sync the page cache lies (T44).
    pub fn fail(&mut self, why: &str) {
        if self.state == State::Open {
            self.state = State::Failed(why.into());
        }
        self.config.status.take_offline(why);
    }

    fn io<T>(&mut self, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(|error| {
            if crate::disk::is_disk_full(&error) {
                return LogError::DiskFull;
            }
            self.fail(&format!("{}: {error}", self.dir.display()));
            LogError::Io(error)
        })
    }

    fn fail_append(&mut self, error: io::Error) -> AppendError {
        self.fail(&format!("writing to {}: {error}", self.dir.display()));
        AppendError::Io(error)
    }

    /// The segment that holds `offset`, and its bytes and end: the last one whose base is not after it.
    fn segment_at(&self, offset: Offset) -> Sealed {
        let index = self.sealed.partition_point(|sealed| sealed.end <= offset);
        self.sealed.get(index).cloned().unwrap_or_else(|| Sealed {
            segment: self.active.segment.clone(),
            end: self.active.end,
            len: self.active.len,
            max_timestamp: self.active.index.max_timestamp.unwrap_or(TimestampMs::NONE),
            since: self.active.since,
        })
    }

    /// Removes the files of a segment at once.
    fn remove_segment(&self, sealed: &Sealed) -> io::Result<()> {
        remove_files(&*self.disk, &sealed.segment.paths())
    }
}

/// Removes files that may be gone already.
pub(crate) fn remove_files(disk: &dyn Disk, paths: &[PathBuf]) -> io::Result<()> {
    for path in paths {
        match disk.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
