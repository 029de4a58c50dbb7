//! What can go wrong with a log, one type per operation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::producers::ProducerStateError;
use highwater_types::{ErrorCode, LeaderEpoch, Offset, TopicPartition};

/// Offsets whose records are damaged or missing on this replica, although they were once synced: from `start` up to,
/// not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DamagedRange {
    pub start: Offset,
    pub end: Offset,
}

impl DamagedRange {
    pub fn contains(&self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

impl fmt::Display for DamagedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offsets {}..{}", self.start, self.end)
    }
}

/// Why a log was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("can't open the log {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the folder {path} belongs to partition {found}, not to {expected}: it was moved or renamed", path = path.display())]
    WrongPartition { path: PathBuf, expected: TopicPartition, found: String },
    #[error("the file {path} is damaged ({what}); remove the partition's folder to fetch it anew from its leader", path = path.display())]
    Damaged { path: PathBuf, what: String },
}

/// Why an append did not happen. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("there is nothing to append")]
    Empty,
    #[error("no space left on the data dir: free some, or add retention; reads go on")]
    DiskFull,
    #[error("the data dir is offline: {0}")]
    Offline(Arc<str>),
    #[error("the log is closed")]
    Closed,
    #[error("batches must continue at offset {expected}; one starts at {found}")]
    OffsetGap { expected: Offset, found: Offset },
    #[error("leader epoch {found} is older than the log's latest, {latest}")]
    EpochWentBack { latest: LeaderEpoch, found: LeaderEpoch },
    #[error(transparent)]
    Producer(ProducerStateError),
    #[error("writing to the log failed, and its data dir is offline now: {0}")]
    Io(#[source] io::Error),
}

impl AppendError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::InvalidRequest,
            Self::DiskFull => ErrorCode::DiskFull,
            Self::Offline(_) | Self::Io(_) => ErrorCode::StorageOffline,
            Self::Closed => ErrorCode::BrokerShuttingDown,
            Self::OffsetGap { .. } => ErrorCode::Internal,
            Self::EpochWentBack { .. } => ErrorCode::FencedLeaderEpoch,
            Self::Producer(error) => error.code(),
        }
    }
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {asked} is outside the log, which has {start} to {end}")]
    OffsetOutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("{0} are damaged on this replica")]
    Damaged(DamagedRange),
    /// Retention or truncation took the file away in between: read again, for a fresh plan.
    #[error("the records moved or went while they were read; read again")]
    Gone,
    #[error("reading {path} failed: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl ReadError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::Damaged(_) => ErrorCode::DamagedData,
            Self::Gone => ErrorCode::OffsetNotAvailable,
            Self::Io { .. } => ErrorCode::StorageOffline,
        }
    }
}

/// Why a change of a log other than an append failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("offset {asked} is outside the log, which has {start} to {end}")]
    OffsetOutOfRange { asked: Offset, start: Offset, end: Offset },
    #[error("the data dir is offline: {0}")]
    Offline(Arc<str>),
    #[error("the log is closed")]
    Closed,
    #[error("no space left on the data dir")]
    DiskFull,
    #[error("changing the log failed, and its data dir is offline now: {0}")]
    Io(#[source] io::Error),
    #[error("{0} are not known as damaged")]
    NotDamaged(DamagedRange),
}

impl LogError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::Offline(_) | Self::Io(_) => ErrorCode::StorageOffline,
            Self::Closed => ErrorCode::BrokerShuttingDown,
            Self::DiskFull => ErrorCode::DiskFull,
            Self::NotDamaged(_) => ErrorCode::Internal,
        }
    }
}

/// Why healing a damaged range failed; the range is as damaged as before.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    #[error("the batches to heal {range} with must start at {expected} and continue; one starts at {found}")]
    OffsetGap { range: DamagedRange, expected: Offset, found: Offset },
    /// To be noted as damaged from there on, and healed as a whole.
    #[error("{range} can't be healed alone: the damage begins at {at}")]
    BeginsEarlier { range: DamagedRange, at: Offset },
    #[error("the batches to heal {range} with go on to {end}")]
    TooFar { range: DamagedRange, end: Offset },
    #[error("there are no batches to heal {0} with")]
    Nothing(DamagedRange),
    #[error("the batch at {offset} is of leader epoch {found}; this log knows epoch {known} there: they differ")]
    OtherEpoch { offset: Offset, found: LeaderEpoch, known: LeaderEpoch },
    #[error("the segment {path} can't be healed: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}
