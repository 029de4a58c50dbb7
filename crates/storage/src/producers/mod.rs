//! What a log knows of the producers that wrote to it: what was stored of each lately, and which transactions are open.
//!
//! It follows from the batches alone ([`ProducerStates::apply`]), so that every replica has the same: leaders and followers
//! learn it as they append, and recovery and truncation learn it again from a snapshot and the batches behind it (T30).
//!
//! **Invariants**: of each producer the last [`BATCHES_KEPT`] batches are known, so that a resent one is answered with its
//! offset and not stored again (T29); epochs and coordinator epochs never go back; a transaction that was ended counts as open
//! until its marker is committed (T32). Semantics are KIP-98's, KIP-360's and KIP-890's.

mod snapshot;
#[cfg(test)]
mod tests;

pub(crate) use snapshot::Snapshots;

use std::collections::{BTreeMap, VecDeque};

use highwater_record::{Batch, BatchHeader, EndTransactionMarker, TransactionResult};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{ErrorCode, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

/// How many of a producer's batches are remembered, and so how many it may have in flight.
pub const BATCHES_KEPT: usize = 5;

/// One batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    /// With LogAppendTime.
    append_time: Option<TimestampMs>,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    /// Of its last marker; -1: none.
    coordinator_epoch: i32,
    /// Of its last batch or marker.
    last_timestamp: TimestampMs,
    /// Of its present epoch, the oldest first.
    batches: VecDeque<Stored>,
    /// Where its open transaction begins.
    transaction_start: Option<Offset>,
    /// Where its last marker is.
    last_marker: Option<Offset>,
}

/// A transaction that was aborted in this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// The marker's.
    pub last_offset: Offset,
}

/// An open transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OngoingTransaction {
    pub epoch: ProducerEpoch,
    pub first_offset: Offset,
}

/// A producer, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerDescription {
    pub producer_id: ProducerId,
    pub epoch: ProducerEpoch,
    /// `NONE` if only markers are known.
    pub last_sequence: Sequence,
    pub last_timestamp: TimestampMs,
    /// -1: no marker yet.
    pub coordinator_epoch: i32,
    pub transaction_start: Option<Offset>,
}

/// Where a batch that comes again was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateOf {
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// What all its records have as timestamp, with LogAppendTime.
    pub append_time: Option<TimestampMs>,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequenceCheck {
    Append,
    /// It is stored already (T29, T31).
    Duplicate(DuplicateOf),
}

/// Why a batch can't be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProducerStateError {
    #[error("sequence {found} does not follow; {expected} is next, so a batch before it is missing")]
    OutOfOrder { expected: Sequence, found: Sequence },
    #[error("producer epoch {found} is over; epoch {current} has written to this partition")]
    Fenced { current: ProducerEpoch, found: ProducerEpoch },
    #[error(
        "sequence {found} was stored before the last {BATCHES_KEPT} batches: it is there, once; where is not known any more"
    )]
    DuplicateTooOld { found: Sequence },
    #[error("a marker of coordinator epoch {found}; one of {current} came before")]
    CoordinatorFenced { current: i32, found: i32 },
    #[error("a batch outside of a transaction, while the producer's transaction is open")]
    NotInTransaction,
}

impl ProducerStateError {
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
            Self::Fenced { .. } => ErrorCode::InvalidProducerEpoch,
            Self::DuplicateTooOld { .. } => ErrorCode::DuplicateSequence,
            Self::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            Self::NotInTransaction => ErrorCode::InvalidTransactionState,
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<ProducerId, Producer>,
    /// Transactions that are ended, by first offset; the marker's offset. Kept until the marker is committed.
    ended: BTreeMap<Offset, Offset>,
    /// In the order of their markers.
    aborted: Vec<AbortedTransaction>,
}

/// The sequence `records` after `sequence`; they wrap to 0.
fn advance(sequence: i32, records: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(records);
    // Below 2^31 after the wrap.
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

/// The marker that a batch is, if it is a control batch of a kind that is known.
pub(crate) fn marker_of(batch: &Batch) -> Option<EndTransactionMarker> {
    if !batch.header().attributes.is_control() {
        return None;
    }
    // One small record, never compressed.
    let record = batch.records(0).ok()?.next()?.ok()?;
    EndTransactionMarker::parse(&record).ok().flatten()
}

impl ProducerStates {
    /// Whether `header` is next, or stored already. Nothing is changed.
    pub fn check(&self, header: &BatchHeader) -> Result<SequenceCheck, ProducerStateError> {
        let (epoch, found) = (header.producer_epoch, header.base_sequence);
        let known = self.producers.get(&header.producer_id).filter(|_| header.producer_id != ProducerId::NONE);
        // A producer that is not known (any more) may go on with any sequence (KIP-360): what was known was let go of by
        // expiry, not lost.
        let Some(producer) = known else { return Ok(SequenceCheck::Append) };
        if epoch < producer.epoch && !mutation::is_on(Mutation::OldProducerTaken) {
            return Err(ProducerStateError::Fenced { current: producer.epoch, found: epoch });
        }
        // What coordinators write has no sequence.
        if found == Sequence::NONE {
            return Ok(SequenceCheck::Append);
        }
        if epoch == producer.epoch && producer.transaction_start.is_some() && !header.attributes.is_transactional() {
            return Err(ProducerStateError::NotInTransaction);
        }
        let newest = producer.batches.back().filter(|_| epoch == producer.epoch);
        let Some(newest) = newest else {
            let expected = Sequence::FIRST;
            return match found == expected {
                true => Ok(SequenceCheck::Append),
                false => Err(ProducerStateError::OutOfOrder { expected, found }),
            };
        };
        let last = advance(found.get(), header.last_offset_delta);
        let same = |it: &&Stored| (it.first_sequence, it.last_sequence) == (found.get(), last);
        let taken_for = match mutation::is_on(Mutation::DedupWindowOfOne) && last < newest.first_sequence {
            true => Some(newest),
            false => producer.batches.iter().find(same),
        };
        if let Some(stored) = taken_for {
            if mutation::is_on(Mutation::DuplicateStoredAgain) {
                return Ok(SequenceCheck::Append);
            }
            return Ok(SequenceCheck::Duplicate(DuplicateOf {
                base_offset: stored.base_offset,
                last_offset: stored.last_offset,
                append_time: stored.append_time,
            }));
        }
        let expected = advance(newest.last_sequence, 1);
        if found.get() == expected {
            return Ok(SequenceCheck::Append);
        }
        // Older than all that is remembered? Sequences go around: less than half way back is before.
        let oldest = producer.batches.front().map_or(expected, |oldest| oldest.first_sequence);
        let behind = (i64::from(oldest) - i64::from(last)).rem_euclid(i64::from(i32::MAX) + 1);
        if producer.batches.len() == BATCHES_KEPT && behind > 0 && behind < i64::from(i32::MAX) / 2 {
            return Err(ProducerStateError::DuplicateTooOld { found });
        }
        Err(ProducerStateError::OutOfOrder { expected: Sequence::new(expected), found })
    }

    /// Whether a marker may be appended. One that is there already (its transaction is not open) may: it ends nothing.
    pub fn check_marker(&self, header: &BatchHeader, marker: EndTransactionMarker) -> Result<(), ProducerStateError> {
        let id = header.producer_id;
        let Some(producer) = self.producers.get(&id) else { return Ok(()) };
        if header.producer_epoch < producer.epoch {
            let (current, found) = (producer.epoch, header.producer_epoch);
            return Err(ProducerStateError::Fenced { current, found });
        }
        if marker.coordinator_epoch < producer.coordinator_epoch {
            let (current, found) = (producer.coordinator_epoch, marker.coordinator_epoch);
            return Err(ProducerStateError::CoordinatorFenced { current, found });
        }
        Ok(())
    }

    /// A batch was appended. `marker`: what a control batch says, as far as it is known.
    pub fn apply(&mut self, header: &BatchHeader, marker: Option<EndTransactionMarker>) {
        let id = header.producer_id;
        if id == ProducerId::NONE {
            return;
        }
        let producer = self.producers.entry(id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            coordinator_epoch: -1,
            last_timestamp: header.max_timestamp,
            batches: VecDeque::new(),
            transaction_start: None,
            last_marker: None,
        });
        if header.producer_epoch > producer.epoch {
            producer.epoch = header.producer_epoch;
            producer.batches.clear();
        }
        producer.last_timestamp = header.max_timestamp;
        if header.attributes.is_control() {
            let Some(marker) = marker else { return };
            producer.coordinator_epoch = producer.coordinator_epoch.max(marker.coordinator_epoch);
            producer.last_marker = Some(header.base_offset);
            if let Some(first_offset) = producer.transaction_start.take() {
                let last_offset = header.last_offset();
                self.ended.insert(first_offset, last_offset);
                if marker.result == TransactionResult::Abort {
                    self.aborted.push(AbortedTransaction { producer_id: id, first_offset, last_offset });
                }
            }
            return;
        }
        if header.base_sequence != Sequence::NONE {
            let first_sequence = header.base_sequence.get();
            producer.batches.push_back(Stored {
                first_sequence,
                // By offsets: compaction takes records, not these.
                last_sequence: advance(first_sequence, header.last_offset_delta),
                base_offset: header.base_offset,
                last_offset: header.last_offset(),
                append_time: (header.attributes.timestamp_type() == TimestampType::LogAppendTime)
                    .then_some(header.max_timestamp),
            });
            let kept = if mutation::is_on(Mutation::DedupWindowOfOne) { 1 } else { BATCHES_KEPT };
            if producer.batches.len() > kept {
                producer.batches.pop_front();
            }
        }
        if header.attributes.is_transactional() {
            producer.transaction_start.get_or_insert(header.base_offset);
        }
    }

    /// Everything below `high_watermark` is committed: what was ended there counts as ended.
    pub fn committed(&mut self, high_watermark: Offset) {
        self.ended.retain(|_, marker| *marker >= high_watermark);
    }

    /// The first offset of the oldest transaction that is open, or whose marker is not committed (T32).
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        let open = self.producers.values().filter_map(|producer| producer.transaction_start).min();
        let ended = self.ended.iter().find(|(_, marker)| **marker >= high_watermark).map(|(first, _)| *first);
        [open, ended].into_iter().flatten().min()
    }

    /// The newest epoch that a batch or a marker had.
    pub fn epoch_of(&self, id: ProducerId) -> Option<ProducerEpoch> {
        self.producers.get(&id).map(|producer| producer.epoch)
    }

    pub fn ongoing(&self, id: ProducerId) -> Option<OngoingTransaction> {
        let producer = self.producers.get(&id)?;
        producer.transaction_start.map(|first_offset| OngoingTransaction { epoch: producer.epoch, first_offset })
    }

    /// The aborted transactions with records in `from..to`.
    pub fn aborted_in(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        // In the order of their markers: those that ended before `from` are passed over at once.
        let begin = self.aborted.partition_point(|one| one.last_offset < from);
        self.aborted[begin..].iter().filter(|one| one.first_offset < to).copied().collect()
    }

    /// What lies before the log's start needs no list of what is aborted there.
    pub fn start_moved(&mut self, start: Offset) {
        let begin = self.aborted.partition_point(|one| one.last_offset < start);
        self.aborted.drain(..begin);
    }

    /// Forgets the producers that `has_gone` names, if their newest records are older than `before`: but for those with an open
    /// transaction.
    pub fn expire(&mut self, before: TimestampMs, has_gone: impl Fn(ProducerId) -> bool) -> usize {
        let count = self.producers.len();
        self.producers.retain(|id, producer| {
            producer.transaction_start.is_some() || producer.last_timestamp >= before || !has_gone(*id)
        });
        count - self.producers.len()
    }

    pub fn describe(&self) -> Vec<ProducerDescription> {
        let one = |(id, producer): (&ProducerId, &Producer)| ProducerDescription {
            producer_id: *id,
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map_or(Sequence::NONE, |last| Sequence::new(last.last_sequence)),
            last_timestamp: producer.last_timestamp,
            coordinator_epoch: producer.coordinator_epoch,
            transaction_start: producer.transaction_start,
        };
        self.producers.iter().map(one).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.aborted.is_empty() && self.ended.is_empty()
    }

    /// Without what is known of transactions that have ended.
    #[cfg(test)]
    pub(crate) fn producers_alone(&self) -> Self {
        Self { producers: self.producers.clone(), ..Self::default() }
    }

    /// The base offsets below `end` of the batches and markers that what is known follows from, in order: compaction must
    /// leave them, if need be without records (T30).
    pub fn known_from(&self, end: Offset) -> Vec<Offset> {
        let of = |producer: &Producer| {
            let batches = producer.batches.iter().map(|batch| batch.base_offset);
            batches.chain(producer.last_marker).collect::<Vec<_>>()
        };
        let mut offsets: Vec<Offset> = self.producers.values().flat_map(of).filter(|offset| *offset < end).collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}
