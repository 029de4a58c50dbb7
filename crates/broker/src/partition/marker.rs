//! The ends of transactions, at the leader of a partition.
//!
//! **Invariant** (T34): a marker ends the transaction that it was written for, or none. One of a coordinator has an epoch above
//! that of its transaction; a producer that has this epoch here was told already, and what is open is its next transaction. For a
//! producer that can't be told of another epoch it is the coordinator that keeps them apart: see [`EndedBy::CoordinatorInEpoch`].

use std::sync::Arc;
use std::time::Duration;

use highwater_coordination::ProducerIdentity;
use highwater_record::{Batch, EndTransactionMarker, control_batch};
use highwater_storage::{AppendError, Log, ProducerDescription};
use highwater_types::{LeaderEpoch, Offset};
use tokio::sync::mpsc;

use super::{News, OwnAppend, Partition, PartitionError, State, Wakes, must_sync};
use crate::produce::{AckWaiter, PendingProduce, Produced};

/// Who ends the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// Its coordinator.
    Coordinator,
    /// The same, for a producer that goes on in the same epoch: the marker has the epoch of the transaction. None is open if it
    /// has its marker already, and the next one opens only when the coordinator has heard so from all partitions.
    CoordinatorInEpoch,
    /// Somebody who found that it hangs (KIP-664). The marker has the epoch of the transaction, which must be open.
    Administrator,
}

/// A transaction's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    pub producer: ProducerIdentity,
    pub marker: EndTransactionMarker,
    pub by: EndedBy,
}

impl Partition {
    /// Returns once the marker is committed. One that is there already is waited for, and not written again.
    pub(crate) async fn write_marker(&self, end: &TransactionEnd) -> Result<(), PartitionError> {
        let (answers, mut answer) = mpsc::unbounded_channel();
        let request = PendingProduce::new(0, std::iter::once(self.tp), None, answers);
        let appended = self.with(|state, wakes| state.write_marker(self, end, &request, wakes));
        if let Some(result) = appended.transpose() {
            request.complete(0, result);
        }
        match answer.recv().await.and_then(|answer| answer.results.into_iter().next()) {
            Some((_, result)) => result.map(|_| ()),
            None => Err(PartitionError::ShuttingDown),
        }
    }

    /// As a coordinator that was loaded in leader epoch `epoch`. `None`: it is there already. Whether it is committed is for the
    /// caller to wait for.
    pub(crate) fn append_own_marker(
        &self,
        end: &TransactionEnd,
        epoch: LeaderEpoch,
    ) -> Result<Option<OwnAppend>, PartitionError> {
        self.with(|state, wakes| state.append_marker(self, end, epoch, wakes))
    }

    /// The producers that are known, at the leader.
    pub(crate) fn producers(&self) -> Result<Vec<ProducerDescription>, PartitionError> {
        let mut state = self.lock();
        let (_, log) = state.leading(self.env.me, LeaderEpoch::NONE)?;
        Ok(log.producers())
    }
}

impl State {
    /// `None`: it is waited for.
    fn write_marker(
        &mut self,
        partition: &Partition,
        end: &TransactionEnd,
        request: &Arc<PendingProduce>,
        wakes: &mut Wakes,
    ) -> Result<Option<Produced>, PartitionError> {
        let appended = self.append_marker(partition, end, LeaderEpoch::NONE, wakes)?;
        let (leader, log) = self.leading(partition.env.me, LeaderEpoch::NONE)?;
        let produced = Produced {
            base_offset: appended.map_or(Offset::new(-1), |appended| appended.base_offset),
            append_time: None,
            log_start: log.start_offset(),
            leader_epoch: leader.leader_epoch(),
        };
        // One that is there is committed at the latest when everything here is.
        let until = appended.map_or(log.end_offset(), |appended| appended.end_offset);
        if leader.high_watermark() >= until {
            return Ok(Some(produced));
        }
        let waiter = AckWaiter { request: Arc::clone(request), slot: 0, produced };
        self.committing.insert(until, Duration::MAX, waiter);
        Ok(None)
    }

    /// `None`: it is there already.
    fn append_marker(
        &mut self,
        partition: &Partition,
        end: &TransactionEnd,
        epoch: LeaderEpoch,
        wakes: &mut Wakes,
    ) -> Result<Option<OwnAppend>, PartitionError> {
        if end.by == EndedBy::CoordinatorInEpoch {
            // What the coordinator said of this transaction to one that asks now is not so any more, and by its epoch nobody can tell.
            self.verifying.outdate(end.producer);
        }
        self.verifying.outdate_guards(end.producer.id);
        let (leader, log) = self.leading(partition.env.me, epoch)?;
        if !is_due(log, end)? {
            return Ok(None);
        }
        // T15
        if !leader.has_min_isr() {
            let (in_sync, needed) = (leader.isr().len(), leader.config().min_insync);
            return Err(PartitionError::NotEnoughReplicas { in_sync, needed });
        }
        let TransactionEnd { producer, mut marker, by } = *end;
        if by == EndedBy::Administrator {
            // One that is made up must not fence the coordinator, which still has its own marker to write.
            marker.coordinator_epoch = marker.coordinator_epoch.min(coordinator_epoch_of(log, producer));
        }
        let now = partition.env.clock.timestamp();
        let batch = Batch::from_bytes(control_batch(marker, producer.id, producer.epoch, now)?)?;
        let appended = log.append_marker(&batch, leader.leader_epoch(), now).map_err(|error| match error {
            AppendError::Producer(error) => PartitionError::Producer(error),
            error => {
                if matches!(error, AppendError::Io(_) | AppendError::Offline(_)) {
                    wakes.unusable();
                }
                error.into()
            }
        })?;
        let effects = leader.on_append(appended.end_offset, partition.env.clock.now());
        wakes.news(&self.subscriptions, News::LOG_END);
        if must_sync(&self.config) {
            wakes.flush();
        }
        self.carry_out(partition, effects, wakes);
        Ok(Some(OwnAppend { base_offset: appended.base_offset, end_offset: appended.end_offset }))
    }
}

/// Of the producer's last marker; -1: there was none.
fn coordinator_epoch_of(log: &Log, producer: ProducerIdentity) -> i32 {
    let known = log.producers().into_iter().find(|known| known.producer_id == producer.id);
    known.map_or(-1, |known| known.coordinator_epoch)
}

/// Whether the marker is yet to be written.
fn is_due(log: &Log, end: &TransactionEnd) -> Result<bool, PartitionError> {
    let TransactionEnd { producer, by, .. } = *end;
    let open = log.ongoing_transaction(producer.id).map(|open| open.epoch);
    match by {
        EndedBy::Coordinator => {
            let newest = open.or_else(|| log.producer_epoch(producer.id));
            Ok(newest.is_none_or(|newest| newest < producer.epoch))
        }
        EndedBy::CoordinatorInEpoch => Ok(open == Some(producer.epoch)),
        EndedBy::Administrator if open == Some(producer.epoch) => Ok(true),
        EndedBy::Administrator => Err(PartitionError::NoSuchTransaction { producer, open }),
    }
}
