//! Reads of consumers.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use highwater_storage::{AbortedTransaction, DamagedRange, FileRead, Log, ReadError, ReadPlan};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, IsolationLevel, LeaderEpoch, Offset, TopicPartition};

use super::{FetchWaiter, Partition, PartitionError, Role, State, Storage, divergence_of_reader};

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
    /// Wants records from this broker, even if a nearer replica has them.
    pub not_elsewhere: bool,
}

/// The brokers near a reader, who is served by followers too (KIP-392).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    pub brokers: BTreeSet<BrokerId>,
    /// Any number that the reader keeps: by it readers are spread over the replicas near them.
    pub spread: u64,
}

/// How much of each partition a read may bring, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct ReadBounds<'a> {
    pub max_bytes: usize,
    /// The first batch comes even if it is larger.
    pub at_least_one: bool,
    pub near: Option<&'a Near>,
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
    /// Whom the reader should ask instead: then there are no records.
    pub preferred: Option<BrokerId>,
}

impl PartitionRead {
    /// The positions alone.
    pub(crate) fn without_records(self) -> Self {
        Self { records: ReadRecords::None, ..self }
    }
}

/// A log that consumers may read here, and up to where.
struct Readable<'a> {
    log: &'a Log,
    leader_epoch: LeaderEpoch,
    high_watermark: Offset,
    preferred: Option<BrokerId>,
    /// Below which this log is the one that counts: what is beyond may yet be cut.
    comparable: Offset,
    /// An offset beyond the log's end may be committed all the same.
    may_be_committed: bool,
}

impl Partition {
    /// Reads below the high watermark, or the last stable offset: at the leader, and for who has stated where it is, at
    /// in-sync followers. If there is nothing, `waiter` is registered to fire when there may be.
    pub(crate) fn fetch(
        &self,
        from: &FetchFrom,
        bounds: ReadBounds<'_>,
        waiter: Option<&Arc<FetchWaiter>>,
    ) -> Result<PartitionRead, PartitionError> {
        let mut state = self.lock();
        let read = state.fetch(self, from, bounds)?;
        if let (ReadRecords::None, None, Some(waiter)) = (&read.records, read.preferred, waiter) {
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
        bounds: ReadBounds<'_>,
    ) -> Result<PartitionRead, PartitionError> {
        let readable = self.readable(partition.env.me, from, bounds.near)?;
        let Readable { log, leader_epoch, high_watermark, preferred, comparable, may_be_committed } = readable;
        let (start, end, asked) = (log.start_offset(), log.end_offset(), from.offset);
        if from.last_fetched_epoch != LeaderEpoch::NONE
            && asked <= comparable
            && let Some(diverging) = divergence_of_reader(log.epochs(), end, from.last_fetched_epoch, asked)
        {
            let asked_epoch = from.last_fetched_epoch;
            return Err(PartitionError::LogTruncated { asked, asked_epoch, diverging, start, end: high_watermark });
        }
        if asked < start {
            return Err(PartitionError::OffsetOutOfRange { asked, start, end: high_watermark });
        }
        if asked > end {
            return Err(match may_be_committed {
                false => PartitionError::OffsetOutOfRange { asked, start, end: high_watermark },
                true => PartitionError::OffsetNotAvailable,
            });
        }
        // T32: both from the log as it is now, and of the same moment.
        let last_stable = last_stable(log, high_watermark);
        let nothing = PartitionRead {
            high_watermark,
            last_stable,
            aborted: Vec::new(),
            log_start: start,
            leader_epoch,
            records: ReadRecords::None,
            preferred,
        };
        let (readable, aborted) = match from.isolation {
            _ if preferred.is_some() => return Ok(nothing),
            IsolationLevel::ReadUncommitted if mutation::is_on(Mutation::ReadAboveHighWatermark) => (end, Vec::new()),
            IsolationLevel::ReadUncommitted => (high_watermark, Vec::new()),
            IsolationLevel::ReadCommitted if asked < last_stable && mutation::is_on(Mutation::AbortedNotListed) => {
                (last_stable, Vec::new())
            }
            IsolationLevel::ReadCommitted if asked < last_stable => (last_stable, log.aborted_in(asked, last_stable)),
            IsolationLevel::ReadCommitted => return Ok(nothing),
        };
        let plan = match log.read(asked, readable, bounds.max_bytes, bounds.at_least_one) {
            Ok(plan) => plan,
            Err(ReadError::Damaged(range)) => return Err(PartitionError::Damaged(range)),
            Err(error) => return Err(error.into()),
        };
        Ok(PartitionRead { records: ReadRecords::new(plan), aborted, ..nothing })
    }

    /// Whether, and how far, this replica may serve the read (T25, T26).
    fn readable(
        &mut self,
        me: BrokerId,
        from: &FetchFrom,
        near: Option<&Near>,
    ) -> Result<Readable<'_>, PartitionError> {
        if near.is_some() && matches!(self.role, Role::Follower(_)) {
            return self.readable_as_follower(me, from);
        }
        let (leader, log) = self.leading(me, from.leader_epoch)?;
        let elsewhere = near.filter(|_| !from.not_elsewhere);
        Ok(Readable {
            leader_epoch: leader.leader_epoch(),
            high_watermark: leader.high_watermark(),
            preferred: elsewhere.and_then(|near| leader.preferred_replica(from.offset, &near.brokers, near.spread)),
            // T6: a new leader does not know yet how far its predecessor had committed.
            may_be_committed: !leader.high_watermark_is_certain(),
            comparable: Offset::MAX,
            log,
        })
    }

    fn readable_as_follower(&self, me: BrokerId, from: &FetchFrom) -> Result<Readable<'_>, PartitionError> {
        let asked = from.leader_epoch;
        let (Role::Follower(follower), log) = (&self.role, self.log()?) else {
            return Err(self.not_leading(me, asked));
        };
        let current = follower.view().leader_epoch;
        if asked != LeaderEpoch::NONE && asked < current {
            return Err(PartitionError::FencedLeaderEpoch { asked, current, leader: follower.leader() });
        }
        let high_watermark = match follower.readable_below() {
            Some(high_watermark) if asked == LeaderEpoch::NONE || asked == current => high_watermark,
            _ => return Err(self.not_leading(me, asked)),
        };
        Ok(Readable {
            log,
            leader_epoch: current,
            high_watermark,
            preferred: None,
            comparable: high_watermark,
            may_be_committed: follower.is_yet_to_come(from.offset),
        })
    }
}

/// Up to where every transaction has ended, and that is committed.
pub(super) fn last_stable(log: &Log, high_watermark: Offset) -> Offset {
    let first_unstable = log.first_unstable_offset(high_watermark);
    let first_unstable = match mutation::is_on(Mutation::StableOffByOne) {
        true => first_unstable.map(Offset::next),
        false => first_unstable,
    };
    first_unstable.map_or(high_watermark, |first| first.min(high_watermark))
}
