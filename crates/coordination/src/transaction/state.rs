//! One transactional id, and the changes that it can make.

use std::collections::BTreeSet;
use std::fmt;

use highwater_record::TransactionResult;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{ProducerEpoch, ProducerId, TimestampMs, TopicPartition, TransactionalId};

use super::{Error, TransactionDescription};
use crate::ProducerIdentity;

/// The last epoch of a producer id. Only markers carry it: a producer gets a new id first.
pub(super) const EPOCH_MAX: ProducerEpoch = ProducerEpoch::new(i16::MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// The producer has not had a transaction yet.
    Empty,
    Ongoing,
    /// Decided; the markers are being written.
    Prepare(TransactionResult),
    Complete(TransactionResult),
}

impl TransactionState {
    /// As tools show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::Prepare(TransactionResult::Commit) => "PrepareCommit",
            Self::Prepare(TransactionResult::Abort) => "PrepareAbort",
            Self::Complete(TransactionResult::Commit) => "CompleteCommit",
            Self::Complete(TransactionResult::Abort) => "CompleteAbort",
        }
    }
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a record says of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    /// Who goes on: the epoch of the open transaction, or of the next one.
    pub(super) producer: ProducerIdentity,
    /// What the same producer had before. A question that names it was asked before, and is answered with `producer` (T35).
    /// `None` when another one took over.
    pub(super) previous: Option<ProducerIdentity>,
    pub(super) state: TransactionState,
    pub(super) timeout_ms: u32,
    /// Of the transaction that is open or being completed.
    pub(super) started_at: TimestampMs,
    pub(super) updated_at: TimestampMs,
    pub(super) partitions: BTreeSet<TopicPartition>,
    /// In `Prepare`, who the markers are of.
    pub(super) marker: Option<ProducerIdentity>,
    /// The last one was aborted because it took too long.
    pub(super) timed_out: bool,
    /// The last one was ended by a producer that goes on in the same epoch.
    pub(super) keeps_epoch: bool,
}

/// Why a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its producer says so. The id is for when the epochs are used up.
    Asked(TransactionResult, ProducerId),
    /// The same, of a producer that does not learn of another epoch.
    Kept(TransactionResult),
    TimedOut,
    /// Its producer starts anew.
    Reset,
    /// Another producer takes over.
    TakenOver,
}

impl Transaction {
    pub(super) fn new(producer: ProducerIdentity, timeout_ms: u32, now: TimestampMs) -> Self {
        Self {
            producer,
            previous: None,
            state: TransactionState::Empty,
            timeout_ms,
            started_at: TimestampMs::NONE,
            updated_at: now,
            partitions: BTreeSet::new(),
            marker: None,
            timed_out: false,
            keeps_epoch: false,
        }
    }

    /// In the next epoch, or as a new producer when the epochs are used up.
    fn bumped(&self, fresh: ProducerId) -> ProducerIdentity {
        let next = self.producer.epoch.get().saturating_add(1);
        if next < EPOCH_MAX.get() {
            ProducerIdentity { id: self.producer.id, epoch: ProducerEpoch::new(next) }
        } else {
            ProducerIdentity { id: fresh, epoch: ProducerEpoch::FIRST }
        }
    }

    /// In the next epoch, even if that is the last one, which nobody can use.
    fn fenced(&self) -> ProducerIdentity {
        let epoch = self.producer.epoch.get().saturating_add(1);
        ProducerIdentity { id: self.producer.id, epoch: ProducerEpoch::new(epoch) }
    }

    /// The producer asks for its next epoch, being idle.
    pub(super) fn initialized(
        &self,
        previous: Option<ProducerIdentity>,
        fresh: ProducerId,
        timeout_ms: u32,
        now: TimestampMs,
    ) -> Self {
        Self { previous, ..Self::new(self.bumped(fresh), timeout_ms, now) }
    }

    pub(super) fn joined_by(&self, partitions: &[TopicPartition], now: TimestampMs) -> Self {
        let mut next = self.clone();
        if self.state != TransactionState::Ongoing {
            next.state = TransactionState::Ongoing;
            next.started_at = now;
            next.partitions.clear();
            next.timed_out = false;
            next.keeps_epoch = false;
        }
        next.partitions.extend(partitions);
        next.updated_at = now;
        next
    }

    /// Prepared, or complete already if there is nothing to mark. Either way the epoch goes up: a write that is still on its way
    /// must not get into the next transaction (T34). Only for a producer that could not be told it stays as it is: then partitions
    /// join the next transaction by the producer's own word alone, and that begins only when this one is complete.
    pub(super) fn ended(&self, end: End, now: TimestampMs) -> Self {
        let (result, producer, previous) = match end {
            End::Asked(result, fresh) => (result, self.bumped(fresh), Some(self.producer)),
            End::Kept(result) => (result, self.producer, None),
            End::TimedOut | End::Reset => (TransactionResult::Abort, self.fenced(), Some(self.producer)),
            End::TakenOver => (TransactionResult::Abort, self.fenced(), None),
        };
        let open = self.state == TransactionState::Ongoing;
        let keeps_epoch = matches!(end, End::Kept(_));
        let marker = || if keeps_epoch { self.producer } else { self.fenced() };
        Self {
            producer,
            previous,
            state: if open { TransactionState::Prepare(result) } else { TransactionState::Complete(result) },
            timeout_ms: self.timeout_ms,
            started_at: if open { self.started_at } else { TimestampMs::NONE },
            updated_at: now,
            partitions: if open { self.partitions.clone() } else { BTreeSet::new() },
            marker: open.then(marker),
            timed_out: end == End::TimedOut,
            keeps_epoch,
        }
    }

    pub(super) fn completed(&self, result: TransactionResult, now: TimestampMs) -> Self {
        Self {
            state: TransactionState::Complete(result),
            started_at: TimestampMs::NONE,
            updated_at: now,
            partitions: BTreeSet::new(),
            marker: None,
            ..self.clone()
        }
    }

    /// Neither open nor being completed.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.state, TransactionState::Empty | TransactionState::Complete(_))
    }

    /// Why `found` is not the producer of this transactional id now, as far as it isn't.
    pub(super) fn check_current(&self, id: &TransactionalId, found: ProducerIdentity) -> Result<(), Error> {
        if found == self.producer || (found.id == self.producer.id && mutation::is_on(Mutation::OldProducerTaken)) {
            return Ok(());
        }
        let (id, current) = (id.clone(), self.producer);
        if self.previous == Some(found) {
            return Err(if self.timed_out {
                Error::TimedOut { id, found: found.epoch, timeout_ms: self.timeout_ms }
            } else {
                Error::Over { id, producer: found.id, found: found.epoch, current: current.epoch }
            });
        }
        Err(if found.id != current.id {
            Error::OtherProducer { id, found: found.id, current: current.id }
        } else {
            Error::Fenced { id, producer: found.id, found: found.epoch, current: current.epoch }
        })
    }

    pub(super) fn describe(&self, id: &TransactionalId) -> TransactionDescription {
        TransactionDescription {
            transactional_id: id.clone(),
            producer: self.producer,
            state: self.state,
            timeout_ms: self.timeout_ms,
            started_at: Some(self.started_at).filter(|at| *at != TimestampMs::NONE),
            partitions: self.partitions.iter().copied().collect(),
        }
    }
}
