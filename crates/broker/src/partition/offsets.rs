//! Look-ups of offsets, and delete-records.

use std::time::Duration;

use highwater_replication::EpochEnd;
use highwater_storage::{NewestSearch, ReadError, TimestampFound, TimestampSearch};
use highwater_types::{IsolationLevel, LeaderEpoch, Offset, TimestampMs};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::fetch::last_stable;
use super::{Partition, PartitionError, Role, State, Storage};

/// A search that finds its files gone is planned anew so often.
const SEARCHES_MAX: usize = 3;
/// For the in-sync replicas to delete what the leader has deleted.
const DELETE_TIMEOUT: Duration = Duration::from_secs(5);

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    Earliest,
    /// The end of the committed records, or of the stable ones.
    Latest,
    /// The first record whose timestamp is this or later.
    Timestamp(TimestampMs),
    /// The record with the largest timestamp, the first of several (KIP-734).
    MaxTimestamp,
}

/// An offset found; `offset` is `None` if no record is that new, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    pub offset: Option<Offset>,
    pub timestamp: TimestampMs,
    pub leader_epoch: LeaderEpoch,
}

enum LookUp {
    Found(FoundOffset),
    Search {
        search: Search,
        leader_epoch: LeaderEpoch,
        /// Whether the end of the committed records is known (T6).
        certain: bool,
    },
}

enum Search {
    Timestamp(TimestampSearch),
    Newest(NewestSearch),
}

impl Search {
    async fn run(self) -> Result<Option<TimestampFound>, ReadError> {
        match self {
            Self::Timestamp(search) => search.run().await,
            Self::Newest(search) => search.run().await,
        }
    }
}

impl Partition {
    /// At the leader, among the committed records.
    pub async fn find_offset(
        &self,
        asked: LeaderEpoch,
        at: OffsetAt,
        isolation: IsolationLevel,
    ) -> Result<FoundOffset, PartitionError> {
        let mut searches = 0;
        loop {
            let look_up = self.lock().look_up(self.env.me, asked, at, isolation)?;
            let (search, leader_epoch, certain) = match look_up {
                LookUp::Found(found) => return Ok(found),
                LookUp::Search { search, leader_epoch, certain } => (search, leader_epoch, certain),
            };
            searches += 1;
            match search.run().await {
                Ok(Some(found)) => {
                    let (offset, timestamp) = (Some(found.offset), found.timestamp);
                    return Ok(FoundOffset { offset, timestamp, leader_epoch });
                }
                // T6: it may be among those that are committed and not known to be.
                Ok(None) if !certain => return Err(PartitionError::OffsetNotAvailable),
                Ok(None) => {
                    return Ok(FoundOffset { offset: None, timestamp: TimestampMs::NONE, leader_epoch });
                }
                Err(ReadError::Gone) if searches < SEARCHES_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The largest epoch that is `epoch` or less in the leader's log, and where it ends.
    pub fn epoch_end(&self, asked: LeaderEpoch, epoch: LeaderEpoch) -> Result<Option<EpochEnd>, PartitionError> {
        let mut state = self.lock();
        let (_, log) = state.leading(self.env.me, asked)?;
        Ok(log.epochs().end_of(epoch, log.end_offset()).map(|(epoch, end)| EpochEnd { epoch, end }))
    }

    /// Moves the log's start to `before` (`None`: the high watermark), as leader, and waits until every in-sync replica, this one
    /// included, has done the same on its disk and `min.insync.replicas` are in sync, so that neither a new leader nor a loss of
    /// power brings the records back. Returns where the log starts then.
    pub async fn delete_records(&self, before: Option<Offset>) -> Result<Offset, PartitionError> {
        let (start, done) = self.begin_delete(before)?;
        match timeout(DELETE_TIMEOUT, done).await {
            Ok(Ok(())) => Ok(start),
            // In time, or before this broker stopped leading.
            Ok(Err(_)) | Err(_) => Err(PartitionError::NotDeletedEverywhere { start }),
        }
    }

    /// Readers are told at once; the receiver resolves when every in-sync replica has followed.
    fn begin_delete(&self, before: Option<Offset>) -> Result<(Offset, oneshot::Receiver<()>), PartitionError> {
        self.with(|state, wakes| {
            let (leader, log) = state.leading(self.env.me, LeaderEpoch::NONE)?;
            let (start, end) = (log.start_offset(), leader.high_watermark());
            let before = match before {
                // T6: all committed ones are more than are known to be.
                None if !leader.high_watermark_is_certain() => return Err(PartitionError::OffsetNotAvailable),
                None => end,
                Some(before) => before,
            };
            if before > end {
                return Err(PartitionError::OffsetOutOfRange { asked: before, start, end });
            }
            log.advance_start(before)?;
            let start = log.start_offset();
            let (followed, done) = oneshot::channel();
            state.deleting.push((start, followed));
            state.log_start_moved(self, wakes);
            state.finish_deletes();
            Ok((start, done))
        })
    }
}

impl State {
    fn look_up(
        &mut self,
        me: highwater_types::BrokerId,
        asked: LeaderEpoch,
        at: OffsetAt,
        isolation: IsolationLevel,
    ) -> Result<LookUp, PartitionError> {
        let (leader, log) = self.leading(me, asked)?;
        let (leader_epoch, certain) = (leader.leader_epoch(), leader.high_watermark_is_certain());
        let end = match isolation {
            IsolationLevel::ReadUncommitted => leader.high_watermark(),
            IsolationLevel::ReadCommitted => last_stable(log, leader.high_watermark()),
        };
        let offset = match at {
            OffsetAt::Earliest => log.start_offset(),
            // T6: never an older offset than one already shown.
            OffsetAt::Latest if !certain => return Err(PartitionError::OffsetNotAvailable),
            OffsetAt::Latest => end,
            OffsetAt::MaxTimestamp if !certain => return Err(PartitionError::OffsetNotAvailable),
            OffsetAt::MaxTimestamp => {
                let search = Search::Newest(log.newest_record(end));
                return Ok(LookUp::Search { search, leader_epoch, certain });
            }
            OffsetAt::Timestamp(timestamp) => {
                let search = Search::Timestamp(log.offset_for_timestamp(timestamp, end));
                return Ok(LookUp::Search { search, leader_epoch, certain });
            }
        };
        Ok(LookUp::Found(FoundOffset { offset: Some(offset), timestamp: TimestampMs::NONE, leader_epoch }))
    }

    /// Answers those whose deletion no crash and no next leader can undo.
    pub(super) fn finish_deletes(&mut self) {
        let (Role::Leader(leader), Storage::Open(log)) = (&self.role, &self.storage) else { return };
        if self.deleting.is_empty() {
            return;
        }
        let Some(low) = leader.low_watermark() else { return };
        let low = low.min(log.durable_start_offset());
        for (_, followed) in self.deleting.extract_if(.., |(start, _)| *start <= low) {
            // Who asked may have gone.
            let _ = followed.send(());
        }
    }
}
