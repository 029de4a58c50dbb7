//! Reads of consumers.

use std::sync::Arc;

use bytes::Bytes;
use highwater_storage::{AbortedTransaction, DamagedRange, FileRead, Log, ReadError, ReadPlan};
use highwater_types::{IsolationLevel, LeaderEpoch, Offset, TopicPartition};

use super::{FetchWaiter, Partition, PartitionError, State, Storage, divergence_of_reader};

/// What is read of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFrom {
    pub partition: TopicPartition,
    pub offset: Offset,
    /// That the client believes in; `NONE` not to check.
    pub leader_epoch: LeaderEpoch,
    /// Of the record before `offset`; `NONE` not to check for truncation.
    pub last_fetched_epoch: LeaderEpoch,
    pub isolation: IsolationLevel,
    pub max_bytes: usize,
}

/// Records as they are found.
pub enum ReadRecords {
    None,
    /// Whole batches, from memory.
    Cached(Vec<Bytes>),
    /// To be read outside of any lock.
    File(FileRead),
}

impl ReadRecords {
    pub(super) fn new(plan: ReadPlan) -> Self {
        match plan {
            ReadPlan::Empty => Self::None,
            ReadPlan::Cached(pieces) => Self::Cached(pieces),
            ReadPlan::File(read) => Self::File(read),
        }
    }

    /// Bytes at hand; `None` while they are in a file.
    pub fn bytes(&self) -> Option<usize> {
        match self {
            Self::None => Some(0),
            Self::Cached(pieces) => Some(pieces.iter().map(Bytes::len).sum()),
            Self::File(_) => None,
        }
    }
}

/// What a read found, with the positions at that moment.
pub struct PartitionRead {
    pub high_watermark: Offset,
    /// Nothing below it belongs to a transaction that is still open.
    pub last_stable: Offset,
    /// For a reader of committed transactions: those aborted among the records, and perhaps some after them.
    pub aborted: Vec<AbortedTransaction>,
    pub log_start: Offset,
    pub leader_epoch: LeaderEpoch,
    pub records: ReadRecords,
}

impl Partition {
    /// Reads below the high watermark, or the last stable offset, at the leader. If there is nothing, `waiter` is registered to fire when there may be.
    pub(crate) fn fetch(
        &self,
        from: &FetchFrom,
        max_bytes: usize,
        at_least_one: bool,
        waiter: Option<&Arc<FetchWaiter>>,
    ) -> Result<PartitionRead, PartitionError> {
        let mut state = self.lock();
        let read = state.fetch(self, from, max_bytes, at_least_one)?;
        if let (ReadRecords::None, Some(waiter)) = (&read.records, waiter) {
            state.fetching.register(waiter);
        }
        Ok(read)
    }

    /// A cold read found damage: it is noted, reported, and healed from a peer.
    pub(crate) fn note_damage(&self, range: DamagedRange) {
        self.with(|state, wakes| {
            if let Storage::Open(log) = &mut state.storage {
                log.note_damage(range);
                wakes.unusable();
            }
        });
    }
}

impl State {
    fn fetch(
        &mut self,
        partition: &Partition,
        from: &FetchFrom,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<PartitionRead, PartitionError> {
        let (leader, log) = self.leading(partition.env.me, from.leader_epoch)?;
        let high_watermark = leader.high_watermark();
        let (start, end, asked) = (log.start_offset(), log.end_offset(), from.offset);
        if from.last_fetched_epoch != LeaderEpoch::NONE
            && let Some(diverging) = divergence_of_reader(log.epochs(), end, from.last_fetched_epoch, asked)
        {
            let asked_epoch = from.last_fetched_epoch;
            return Err(PartitionError::LogTruncated { asked, asked_epoch, diverging, start, end: high_watermark });
        }
        if asked < start {
            return Err(PartitionError::OffsetOutOfRange { asked, start, end: high_watermark });
        }
        if asked > end {
            // T6: a new leader does not know yet how far its predecessor had committed.
            return Err(match leader.high_watermark_is_certain() {
                true => PartitionError::OffsetOutOfRange { asked, start, end: high_watermark },
                false => PartitionError::OffsetNotAvailable,
            });
        }
        let leader_epoch = leader.leader_epoch();
        // T32: both from the log as it is now, and of the same moment.
        let last_stable = last_stable(log, high_watermark);
        let (readable, aborted) = match from.isolation {
            IsolationLevel::ReadUncommitted => (high_watermark, Vec::new()),
            IsolationLevel::ReadCommitted if asked < last_stable => (last_stable, log.aborted_in(asked, last_stable)),
            IsolationLevel::ReadCommitted => {
                let (log_start, records) = (start, ReadRecords::None);
                let aborted = Vec::new();
                return Ok(PartitionRead { high_watermark, last_stable, aborted, log_start, leader_epoch, records });
            }
        };
        let plan = match log.read(asked, readable, max_bytes, at_least_one) {
            Ok(plan) => plan,
            Err(ReadError::Damaged(range)) => return Err(PartitionError::Damaged(range)),
            Err(error) => return Err(error.into()),
        };
        let records = ReadRecords::new(plan);
        Ok(PartitionRead { high_watermark, last_stable, aborted, log_start: start, leader_epoch, records })
    }
}

/// Up to where every transaction has ended, and that is committed.
pub(super) fn last_stable(log: &Log, high_watermark: Offset) -> Offset {
    log.first_unstable_offset(high_watermark).map_or(high_watermark, |first| first.min(high_watermark))
}
