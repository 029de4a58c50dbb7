//! Which leader wrote which part of a log: what truncation goes by (KIP-101, KIP-279).
//!
//! Invariant: both epochs and start offsets grow strictly from entry to entry. An entry's epoch covers the offsets
//! from its start to the next entry's; no entry covers nothing, but the last, which may have no record yet.

use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset};

/// The leader epochs of one log with the offset at which each starts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochHistory {
    entries: Vec<(LeaderEpoch, Offset)>,
}

/// An entry that does not continue the history: the log was not truncated first, or a checkpoint is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "leader epoch {epoch} from offset {start} can't follow leader epoch {last_epoch} from offset {last_start}: both must grow"
)]
pub struct EpochOrderError {
    pub epoch: LeaderEpoch,
    pub start: Offset,
    pub last_epoch: LeaderEpoch,
    pub last_start: Offset,
}

impl EpochHistory {
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// From a checkpoint.
    pub fn from_entries(entries: impl IntoIterator<Item = (LeaderEpoch, Offset)>) -> Result<Self, EpochOrderError> {
        let mut history = Self::new();
        for (epoch, start) in entries {
            if let Some(&(last_epoch, last_start)) = history.entries.last()
                && (epoch <= last_epoch || start <= last_start)
            {
                return Err(EpochOrderError { epoch, start, last_epoch, last_start });
            }
            history.entries.push((epoch, start));
        }
        Ok(history)
    }

    /// Oldest first.
    pub fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|&(epoch, _)| epoch)
    }

    /// Where `epoch` starts, if it wrote anything or is the latest.
    pub fn start_of(&self, epoch: LeaderEpoch) -> Option<Offset> {
        self.entries.binary_search_by_key(&epoch, |&(e, _)| e).ok().map(|index| self.entries[index].1)
    }

    /// Notes that records from `start` on are of `epoch`. Returns whether that changed the history, and so is to be
    /// written down. An epoch that left no record is replaced by one that starts at the same offset.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> Result<bool, EpochOrderError> {
        if let Some(last) = self.entries.last_mut() {
            if epoch < last.0 || (start < last.1 && !mutation::is_on(Mutation::EpochsNotTruncated)) {
                return Err(EpochOrderError { epoch, start, last_epoch: last.0, last_start: last.1 });
            }
            if epoch == last.0 {
                return Ok(false);
            }
            if start == last.1 {
                last.0 = epoch;
                return Ok(true);
            }
        }
        self.entries.push((epoch, start));
        Ok(true)
    }

    /// The largest epoch that is `asked` or less, and the offset at which it ends: the start of the next, or `log_end`
    /// (T2). `None` if every epoch here is greater: then no record of `asked` or before is left in this log.
    pub fn end_of(&self, asked: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.entries.partition_point(|&(epoch, _)| epoch <= asked);
        let (epoch, _) = *self.entries.get(after.checked_sub(1)?)?;
        let end = self.entries.get(after).map_or(log_end, |&(_, start)| start);
        Some((epoch, end))
    }

    /// The epoch that wrote, or would write, the record at `offset`.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|&(_, start)| start <= offset);
        self.entries.get(after.checked_sub(1)?).map(|&(epoch, _)| epoch)
    }

    /// The log now ends at `offset` (T3): forgets the epochs that start there or later. Returns whether any did.
    pub fn truncate_from(&mut self, offset: Offset) -> bool {
        let keep = self.entries.partition_point(|&(_, start)| start < offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// The log now starts at `offset`: forgets the epochs that end there or earlier, and lets the one that covers it
    /// start there. Returns whether anything changed.
    pub fn truncate_before(&mut self, offset: Offset) -> bool {
        let after = self.entries.partition_point(|&(_, start)| start <= offset);
        let Some(covering) = after.checked_sub(1) else { return false };
        let changed = covering > 0 || self.entries[0].1 != offset;
        self.entries.drain(..covering);
        self.entries[0].1 = offset;
        changed
    }

    /// Forgets all, as when the log starts anew (T5).
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
