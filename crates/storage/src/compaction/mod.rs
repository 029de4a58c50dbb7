//! Log compaction (KIP-58's cleaner, KIP-534's delete horizons): of each key the newest value stays.
//!
//! A pass reads the keys of the dirty part ([`KeyMap`], bounded: what does not fit is the next pass's), then goes through the
//! log from its start, segment group by segment group, and writes each anew beside the old ones ([`CompactionJob`]). The log
//! swaps it in under its lock by a rename; what that leaves is removed outside the lock ([`Settlement`]).
//!
//! **Invariants**
//! - Nothing at or above the least of these is touched: the high watermark, the first unstable offset, the durable offset, a
//!   recovery point that any crash leaves, the active segment. So no batch reaches across a recovery point.
//! - Offsets are never renumbered, and none is missing: batches keep their first and last offsets, whatever of their records
//!   is left; a run of batches of one leader epoch that are gone wholly is one empty batch, a *filler*
//!   ([`highwater_record::filler`]), for all their offsets. So a batch begins where a batch once began, and only a filler
//!   can reach across the beginning of another replica's batch.
//! - What producer states follow from ([`crate::ProducerStates::known_from`]) stays, if need be as batches without records, so
//!   that reading the log gives the same states (T30). While a batch of a transaction is left, its marker is.
//! - A tombstone goes, and a marker, when it has been clean for `delete.retention.ms`, by the horizon in its batch, and only if
//!   every replica has it ([`CompactionLimits::all_in_sync`]): a replica that lags must not miss what takes a key away.
//! - Records without a key stay: they were written before the topic was compacted.
//! - Until the rename is on the disk, every old file is there as it was; see [`Settlement`].

mod filter;
mod job;
mod key_map;
mod settle;

pub use job::{CompactionJob, Rewritten};
pub use settle::Settlement;

pub(crate) use job::Plan;
pub(crate) use settle::{load_cleaned, roll_back_or_settle};

use highwater_types::{Offset, TimestampMs};

use crate::error::DamagedRange;

/// What the log's owner knows that bounds a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionLimits {
    pub high_watermark: Offset,
    /// The wall clock.
    pub now: TimestampMs,
    /// Every replica of the partition is in sync, and so has what lies below the high watermark.
    pub all_in_sync: bool,
    /// Most keys in memory.
    pub keys_max: usize,
}

/// How much compaction would have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionNeed {
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// Something is dirty for longer than `max.compaction.lag.ms`.
    pub is_overdue: bool,
}

impl CompactionNeed {
    /// Dirty bytes in a million.
    pub fn dirty_millionths(&self) -> u64 {
        let all = u128::from(self.clean_bytes) + u128::from(self.dirty_bytes);
        (u128::from(self.dirty_bytes) * 1_000_000 / all.max(1)) as u64
    }
}

/// What a pass has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Below it no key that has a newer value below it is left.
    pub cleaned_to: Offset,
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub segments_before: usize,
    pub segments_after: usize,
    /// It went as far as it was to; otherwise the log was changed meanwhile.
    pub is_whole: bool,
}

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub enum CompactionError {
    #[error("{0} are damaged on this replica, and are to be healed first")]
    Damaged(DamagedRange),
    #[error("a batch of the segment can't be read: {0}")]
    Batch(#[from] highwater_record::BatchError),
    /// Nothing has changed.
    #[error("compaction wrote nothing: {0}")]
    Io(std::io::Error),
    #[error(transparent)]
    Log(#[from] crate::error::LogError),
    /// What the folder has on the disk is not known: the data dir must go offline (T44).
    #[error("replacing segments failed half way: {0}")]
    Unsettled(std::io::Error),
}
