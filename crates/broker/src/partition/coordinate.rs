//! What a coordinator does with the partition that holds its records: it reads all of it, and appends, as its leader.

use highwater_coordination::ProducerIdentity;
use highwater_record::Batch;
use highwater_storage::{AppendError, ReadError};
use highwater_types::{LeaderEpoch, Offset};

use super::{News, Partition, PartitionError, ReadRecords, State, Wakes, must_sync};
use crate::transaction::verify::Guard;

/// Where a partition stands that this broker leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderPositions {
    pub leader_epoch: LeaderEpoch,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
}

/// Where a coordinator's batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnAppend {
    pub base_offset: Offset,
    /// The offset after the last record: committed once the high watermark is there.
    pub end_offset: Offset,
}

impl Partition {
    /// Fails if this broker does not lead.
    pub(crate) fn leader_positions(&self) -> Result<LeaderPositions, PartitionError> {
        let mut state = self.lock();
        let (leader, log) = state.leading(self.env.me, LeaderEpoch::NONE)?;
        Ok(LeaderPositions {
            leader_epoch: leader.leader_epoch(),
            log_start: log.start_offset(),
            high_watermark: leader.high_watermark(),
            log_end: log.end_offset(),
        })
    }

    /// For a coordinator that is about to ask whether it may take part in a transaction of `producer`. Fails if this broker does
    /// not lead.
    pub(crate) fn guard(&self, producer: ProducerIdentity) -> Result<Guard, PartitionError> {
        let mut state = self.lock();
        state.leading(self.env.me, LeaderEpoch::NONE)?;
        Ok(state.verifying.guard(producer))
    }

    /// Fails where [`Partition::append_own`] would, as far as that can be told before.
    pub(crate) fn check_append_own(&self, epoch: LeaderEpoch) -> Result<(), PartitionError> {
        self.lock().check_append_own(self, epoch)
    }

    /// Appends one batch of a coordinator in the leader epoch in which it was loaded, and in no other (T38), under the
    /// conditions of `acks=all`. Whether it is committed is for the caller to wait for.
    pub(crate) fn append_own(&self, batch: &Batch, epoch: LeaderEpoch) -> Result<OwnAppend, PartitionError> {
        self.with(|state, wakes| state.append_own(self, batch, epoch, wakes))
    }

    /// Reads up to the log's end, committed or not, as leader in `epoch`.
    pub(crate) fn read_own(
        &self,
        epoch: LeaderEpoch,
        from: Offset,
        max_bytes: usize,
    ) -> Result<ReadRecords, PartitionError> {
        let mut state = self.lock();
        let (_, log) = state.leading(self.env.me, epoch)?;
        match log.read(from, log.end_offset(), max_bytes, true) {
            Ok(plan) => Ok(ReadRecords::new(plan)),
            Err(ReadError::Damaged(range)) => Err(PartitionError::Damaged(range)),
            Err(error) => Err(error.into()),
        }
    }
}

impl State {
    fn check_append_own(&mut self, partition: &Partition, epoch: LeaderEpoch) -> Result<(), PartitionError> {
        let (leader, log) = self.leading(partition.env.me, epoch)?;
        // T15
        if !leader.has_min_isr() {
            let (in_sync, needed) = (leader.isr().len(), leader.config().min_insync);
            return Err(PartitionError::NotEnoughReplicas { in_sync, needed });
        }
        log.check_appendable().map_err(PartitionError::from)
    }

    fn append_own(
        &mut self,
        partition: &Partition,
        batch: &Batch,
        epoch: LeaderEpoch,
        wakes: &mut Wakes,
    ) -> Result<OwnAppend, PartitionError> {
        self.check_append_own(partition, epoch)?;
        let timestamp_type = self.config.timestamp_type;
        let (leader, log) = self.leading(partition.env.me, epoch)?;
        // T33: what comes after the end of its transaction would open it anew, and nobody would end it.
        log.check_producer(batch.header())?;
        let timestamp = partition.env.clock.timestamp();
        let appended = match log.append_leader(std::slice::from_ref(batch), epoch, timestamp_type, timestamp) {
            Ok(appended) => appended,
            Err(error) => {
                if matches!(error, AppendError::Io(_) | AppendError::Offline(_)) {
                    wakes.unusable();
                }
                return Err(error.into());
            }
        };
        let effects = leader.on_append(appended.end_offset, partition.env.clock.now());
        wakes.news(&self.subscriptions, News::LOG_END);
        if must_sync(&self.config) {
            wakes.flush();
        }
        self.carry_out(partition, effects, wakes);
        Ok(OwnAppend { base_offset: appended.base_offset, end_offset: appended.end_offset })
    }
}
