//! Appends of producers, at the leader.
//!
//! Everything is decided under the partition's lock, in the order in which it comes. What a producer has numbered is compared
//! with what the log has of it: a duplicate is answered with where the original went, once that is committed (T29, T31). The first
//! records of a transaction wait for its coordinator's word, without the lock, and what the producer sends meanwhile behind
//! them (T33).

use std::sync::Arc;
use std::time::Duration;

use highwater_coordination::ProducerIdentity;
use highwater_protocol::v1;
use highwater_record::{Batch, BatchHeader};
use highwater_storage::{AppendError, Log, SequenceCheck};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, ProducerId, Sequence, TimestampMs};

use super::{News, Partition, PartitionError, State, Wakes, must_sync};
use crate::produce::{AckWaiter, Acks, InTransaction, PendingProduce, ProduceResult, Produced};
use crate::transaction::verify::{Answered, Turn, Verification};

/// Deadlines are the requests' own; the queues know none.
const NO_DEADLINE: Duration = Duration::MAX;

/// One partition's share of a request: validated batches, to be appended whole or not at all.
pub(crate) struct ToAppend {
    pub batches: Vec<Batch>,
    /// As in [`ProduceTo`](crate::produce::ProduceTo).
    pub may_keep: bool,
    pub acks: Acks,
    /// That the client believes in; `NONE` not to check.
    pub leader_epoch: LeaderEpoch,
    pub transaction: Option<InTransaction>,
    pub request: Arc<PendingProduce>,
    pub slot: u32,
}

impl ToAppend {
    pub(super) fn complete(self, result: ProduceResult) {
        self.request.complete(self.slot, result);
    }

    fn waiter(&self, produced: Produced) -> AckWaiter {
        AckWaiter { request: self.request.clone(), slot: self.slot, produced }
    }
}

/// Who numbered the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// Nobody.
    Plain,
    Idempotent,
    Transactional(ProducerIdentity),
}

/// What is to be done with numbered batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// From this batch on they are new; those before are in the log, from the given offset.
    Append { from: usize, stored: Option<Stored> },
    /// All are in the log.
    Stored(Stored),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    base: Offset,
    end: Offset,
    append_time: Option<TimestampMs>,
}

impl Partition {
    /// Appends, and completes the request's slot: now, or once it is acknowledged.
    pub(crate) fn append(self: &Arc<Self>, to: ToAppend) {
        let question = self.with(|state, wakes| state.take(self, to, wakes));
        if let Some(question) = question {
            self.verify(question);
        }
    }

    /// Asks the coordinator, on a task of its own.
    fn verify(self: &Arc<Self>, question: Verification) {
        let (this, producer) = (Arc::clone(self), question.producer);
        let Some(verifier) = self.env.verifier.get() else {
            let none = "this broker can't reach transaction coordinators yet";
            let error = v1::Error::new(highwater_types::ErrorCode::CoordinatorNotAvailable, none);
            // Asked again it would be the same.
            while this.verified(producer, Err(error.clone())) == Answered::Outdated {}
            return;
        };
        let answer = verifier.verify(question.clone());
        tokio::spawn(async move {
            let answer = answer.await;
            if this.verified(producer, answer) == Answered::Outdated {
                this.verify(question);
            }
        });
    }

    /// `Outdated`: it is to be asked again.
    fn verified(self: &Arc<Self>, producer: ProducerIdentity, answer: Result<(), v1::Error>) -> Answered<()> {
        self.with(|state, wakes| {
            let waiters = match state.verifying.take(producer) {
                Answered::Waiters(waiters) => waiters,
                Answered::Outdated => return Answered::Outdated,
            };
            for to in waiters {
                match &answer {
                    Ok(()) => state.append(self, to, wakes),
                    Err(error) => wakes.answer(to, Err(PartitionError::Coordinator(error.clone()))),
                }
            }
            Answered::Waiters(Vec::new())
        })
    }
}

impl State {
    /// Returns a question that is to be asked first.
    fn take(&mut self, partition: &Partition, to: ToAppend, wakes: &mut Wakes) -> Option<Verification> {
        match self.needs_verification(partition, &to) {
            Ok(None) => {
                self.append(partition, to, wakes);
                None
            }
            Ok(Some(question)) => match self.verifying.wait(question.producer, to) {
                Turn::Ask => Some(question),
                Turn::Wait => None,
            },
            Err(error) => {
                wakes.answer(to, Err(error));
                None
            }
        }
    }

    fn needs_verification(
        &mut self,
        partition: &Partition,
        to: &ToAppend,
    ) -> Result<Option<Verification>, PartitionError> {
        let Sender::Transactional(producer) = sender(&to.batches)? else { return Ok(None) };
        if to.acks != Acks::All {
            // A commit stands for all of its records: none may be lost with a leader.
            return Err(PartitionError::Numbering("transactional records need acks=all"));
        }
        let Some(InTransaction { id: transactional_id, joins }) = to.transaction.clone() else {
            return Err(PartitionError::Numbering("transactional records need the request's transactional id"));
        };
        let is_waiting = self.verifying.is_waiting(producer);
        let (_, log) = self.leading(partition.env.me, to.leader_epoch)?;
        let is_open = log.ongoing_transaction(producer.id).is_some_and(|open| open.epoch == producer.epoch);
        // One that was stored is answered as such, also after the end of its transaction (T31).
        let is_new = || matches!(place(log, &to.batches), Ok(Place::Append { .. }));
        let asks = is_waiting || (!is_open && is_new());
        Ok(asks.then_some(Verification { transactional_id, producer, partition: partition.tp, joins }))
    }

    fn append(&mut self, partition: &Partition, mut to: ToAppend, wakes: &mut Wakes) {
        // Not held here, so that the log can be the only one to.
        let batches = std::mem::take(&mut to.batches);
        match self.try_append(partition, &to, batches, wakes) {
            Ok(Some(produced)) => wakes.answer(to, Ok(produced)),
            Ok(None) => {}
            Err(error) => wakes.answer(to, Err(error)),
        }
    }

    /// `None`: it is waited for.
    fn try_append(
        &mut self,
        partition: &Partition,
        to: &ToAppend,
        mut batches: Vec<Batch>,
        wakes: &mut Wakes,
    ) -> Result<Option<Produced>, PartitionError> {
        let timestamp_type = self.config.timestamp_type;
        let (leader, log) = self.leading(partition.env.me, to.leader_epoch)?;
        let leader_epoch = leader.leader_epoch();
        let stored = match place(log, &batches)? {
            Place::Stored(stored) => {
                let log_start = log.start_offset();
                let base_offset = match mutation::is_on(Mutation::DuplicateGetsNewOffset) {
                    true => log.end_offset(),
                    false => stored.base,
                };
                let append_time = stored.append_time;
                let produced = Produced { base_offset, append_time, log_start, leader_epoch };
                return Ok(self.acknowledge(to, stored.end, produced));
            }
            Place::Append { from, stored } => {
                batches.drain(..from);
                stored
            }
        };
        // T15: before the append; the queue checks again at completion.
        if to.acks == Acks::All && !leader.has_min_isr() {
            let (in_sync, needed) = (leader.isr().len(), leader.config().min_insync);
            return Err(PartitionError::NotEnoughReplicas { in_sync, needed });
        }
        let timestamp = partition.env.clock.timestamp();
        let records = batches.iter().map(|batch| u64::try_from(batch.header().record_count).unwrap_or(0)).sum();
        let appended = match to.may_keep {
            true => log.append_leader_owned(batches, leader_epoch, timestamp_type, timestamp),
            false => log.append_leader(&batches, leader_epoch, timestamp_type, timestamp),
        };
        let appended = appended.inspect_err(|error| {
            if matches!(error, AppendError::Io(_) | AppendError::Offline(_)) {
                wakes.unusable();
            }
        })?;
        partition.counters.appended(appended.bytes, records);
        let base_offset = match stored {
            None => appended.base_offset,
            Some(stored) if stored.end == appended.base_offset => stored.base,
            // Other records lie in between: there is no one offset to count from.
            Some(_) => Offset::new(-1),
        };
        let log_start = log.start_offset();
        let produced = Produced { base_offset, append_time: appended.append_time, log_start, leader_epoch };
        let effects = leader.on_append(appended.end_offset, partition.env.clock.now());
        wakes.news(&self.subscriptions, News::LOG_END);
        if must_sync(&self.config) {
            wakes.flush();
        }
        let done = self.acknowledge(to, appended.end_offset, produced);
        // Alone in the ISR, the append may be committed by now: the waiter is in the queue already.
        self.carry_out(partition, effects, wakes);
        Ok(done)
    }

    /// The answer, if what ends at `end` is acknowledged already; otherwise it is waited for.
    fn acknowledge(&mut self, to: &ToAppend, end: Offset, produced: Produced) -> Option<Produced> {
        let is_done = match to.acks {
            Acks::None => true,
            Acks::Leader => !must_sync(&self.config) || self.log().is_ok_and(|log| log.durable_offset() >= end),
            Acks::All => self.high_watermark() >= end,
        };
        match to.acks {
            _ if is_done => return Some(produced),
            Acks::All => self.committing.insert(end, NO_DEADLINE, to.waiter(produced)),
            Acks::None | Acks::Leader => self.syncing.insert(end, NO_DEADLINE, to.waiter(produced)),
        }
        None
    }
}

/// All batches are of one sender.
fn sender(batches: &[Batch]) -> Result<Sender, PartitionError> {
    let of = |header: &BatchHeader| {
        let producer = ProducerIdentity { id: header.producer_id, epoch: header.producer_epoch };
        match header.producer_id {
            ProducerId::NONE => (Sender::Plain, producer),
            _ if header.attributes.is_transactional() => (Sender::Transactional(producer), producer),
            _ => (Sender::Idempotent, producer),
        }
    };
    let mut all = batches.iter().map(|batch| of(batch.header()));
    let Some(first) = all.next() else { return Ok(Sender::Plain) };
    match all.all(|other| other == first) {
        true => Ok(first.0),
        false => Err(PartitionError::Numbering("all batches for a partition must be of one producer and epoch")),
    }
}

fn place(log: &Log, batches: &[Batch]) -> Result<Place, PartitionError> {
    place_by(batches.iter().map(Batch::header), |header| log.check_producer(header).map_err(PartitionError::from))
}

/// Batches of one sender: the first ones may be stored, what follows must be new, without a gap.
fn place_by<'a>(
    headers: impl Iterator<Item = &'a BatchHeader>,
    check: impl Fn(&BatchHeader) -> Result<SequenceCheck, PartitionError>,
) -> Result<Place, PartitionError> {
    let (mut stored, mut new, mut count): (Option<Stored>, Option<(usize, &BatchHeader)>, _) = (None, None, 0);
    for (n, header) in headers.enumerate() {
        count = n + 1;
        if header.producer_id == ProducerId::NONE {
            return Ok(Place::Append { from: 0, stored: None });
        }
        if let Some((from, before)) = new {
            // The log has not seen the one before yet.
            let (expected, found) = (sequence_after(before), header.base_sequence);
            if expected != found {
                return Err(highwater_storage::ProducerStateError::OutOfOrder { expected, found }.into());
            }
            new = Some((from, header));
            continue;
        }
        match check(header)? {
            SequenceCheck::Append => new = Some((n, header)),
            SequenceCheck::Duplicate(of) => {
                let base = stored.map_or(of.base_offset, |stored| stored.base);
                stored = Some(Stored { base, end: of.last_offset.next(), append_time: of.append_time });
            }
        }
    }
    Ok(match (new, stored) {
        (Some((from, _)), stored) => Place::Append { from, stored },
        (None, Some(stored)) => Place::Stored(stored),
        (None, None) => Place::Append { from: count, stored: None },
    })
}

/// They go around after the largest.
fn sequence_after(header: &BatchHeader) -> Sequence {
    let next = header.base_sequence.get().wrapping_add(header.last_offset_delta).wrapping_add(1);
    Sequence::new(next & i32::MAX)
}

#[cfg(test)]
mod tests {
    use highwater_record::{BatchBuilder, Compression};
    use highwater_storage::{DuplicateOf, ProducerStateError};
    use highwater_types::ProducerEpoch;

    use super::*;

    fn batch(sequence: i32, records: usize) -> Batch {
        let mut builder = BatchBuilder::with_capacity(Compression::None, None, 64);
        builder.set_producer(ProducerId::new(7), ProducerEpoch::FIRST, Sequence::new(sequence));
        for _ in 0..records {
            builder.append(TimestampMs::new(1), None, Some(b"v"), &[]).unwrap();
        }
        Batch::from_bytes(builder.build().unwrap()).unwrap()
    }

    /// With a log that has the sequences up to 4, from offset 100 on.
    fn placed(batches: &[Batch]) -> Result<Place, PartitionError> {
        place_by(batches.iter().map(Batch::header), |header| match header.base_sequence.get() {
            n @ 0..5 => Ok(SequenceCheck::Duplicate(DuplicateOf {
                base_offset: Offset::new(100 + i64::from(n)),
                last_offset: Offset::new(100 + i64::from(n + header.last_offset_delta)),
                append_time: None,
            })),
            5 => Ok(SequenceCheck::Append),
            n => Err(ProducerStateError::OutOfOrder { expected: Sequence::new(5), found: Sequence::new(n) }.into()),
        })
    }

    #[test]
    fn trap_29_what_is_stored_is_answered_and_the_rest_appended() {
        let stored = Stored { base: Offset::new(103), end: Offset::new(105), append_time: None };
        assert_eq!(placed(&[batch(3, 1), batch(4, 1)]).unwrap(), Place::Stored(stored));
        assert_eq!(placed(&[batch(5, 2), batch(7, 1)]).unwrap(), Place::Append { from: 0, stored: None });
        let mixed = placed(&[batch(3, 1), batch(4, 1), batch(5, 1)]).unwrap();
        assert_eq!(mixed, Place::Append { from: 2, stored: Some(stored) });
    }

    #[test]
    fn trap_31_a_gap_is_refused_wherever_it_is() {
        for gap in [vec![batch(6, 1)], vec![batch(5, 2), batch(8, 1)], vec![batch(5, 2), batch(6, 1)]] {
            let refused = placed(&gap).unwrap_err();
            assert_eq!(refused.code(), highwater_types::ErrorCode::OutOfOrderSequence, "{refused}");
        }
        assert_eq!(sequence_after(batch(i32::MAX, 2).header()), Sequence::new(1));
    }
}
