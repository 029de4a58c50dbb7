//! The accumulator's part in numbering: which session partitions begin to number in, and when they leave it.

use std::sync::Arc;

use highwater_types::{ErrorCode, Outcome};

use crate::ProduceError;
use crate::producer::accumulator::{Accumulator, Place, Settled};
use crate::producer::batch::Batch;
use crate::producer::failure::LastFailure;
use crate::producer::numbering::{Mode, Numbering, Session};

impl Accumulator {
    /// Numbers everything from 0 in this session, the next transaction's. Nothing is in flight.
    pub fn begin_session(&mut self, session: Session) {
        for queue in self.topics.iter_mut().flat_map(|topic| &mut topic.queues) {
            queue.numbering = Numbering::default();
        }
        self.mend();
        self.set_session(session);
    }

    /// The transaction that broke off is over.
    pub fn mend(&mut self) {
        self.broken = None;
        // It was told.
        let _ = self.take_failure();
    }

    /// Why the transaction can only be aborted, if so.
    pub fn broken(&self) -> Option<ProduceError> {
        self.broken.clone()
    }

    /// The first reason stays.
    pub fn set_broken(&mut self, error: &ProduceError) {
        if self.mode == Mode::Transactional {
            self.broken.get_or_insert_with(|| error.clone());
        }
    }

    /// Why nothing is accepted for, or sent in, the transaction any more.
    pub fn breach(&self) -> Option<(ErrorCode, Arc<str>)> {
        let broken = self.broken.as_ref()?;
        let why = format!("the transaction can only be aborted: {}", broken.message);
        Some((ErrorCode::TransactionAbortable, why.into()))
    }

    /// Takes out what is not in flight, to fail with the transaction.
    #[must_use]
    pub fn take_queued(&mut self) -> Vec<Settled> {
        let Some((code, why)) = self.breach() else { return Vec::new() };
        let mut settled = Vec::new();
        for queue in self.topics.iter_mut().flat_map(|topic| &mut topic.queues) {
            queue.close();
            for batch in queue.ready.drain(..) {
                let error = batch.failure(code, Arc::clone(&why), Outcome::NotApplied);
                settled.push((batch, Err(error)));
            }
        }
        self.brokers.values_mut().for_each(|broker| broker.active.clear());
        settled
    }

    /// A batch, in no queue any more, has failed for good.
    pub fn gave_up(&mut self, place: Place, batch: &Batch) {
        let in_doubt = self.topics[place.topic].queues[place.partition].gave_up(batch);
        if let Some(session) = in_doubt {
            self.leave_session(session);
        }
    }

    /// Partitions that begin to number do so in another session.
    pub fn leave_session(&mut self, session: Session) {
        if self.session == Some(session) && self.mode == Mode::Idempotent {
            self.session = None;
        }
    }

    /// A batch of `place` could not be built, and those behind it are to go without it: they come back.
    pub fn not_built(&mut self, place: Place, batch: &Batch, behind: Vec<Batch>) {
        let queue = &mut self.topics[place.topic].queues[place.partition];
        for batch in behind.into_iter().rev() {
            queue.ready.push_front(batch);
        }
        self.gave_up(place, batch);
    }

    /// Numbers in this session from now on, where no other goes on.
    pub fn set_session(&mut self, session: Session) {
        self.session = Some(session);
        self.session_wanted = false;
        self.wake_all();
    }

    /// Whether something still waits for a session. If not, none is wanted any more.
    pub fn waits_for_session(&mut self) -> bool {
        self.session_wanted &= self.session.is_none() && !self.unsettled.is_empty();
        self.session_wanted
    }

    /// There is no session for now, or, if that is final, not without somebody changing something: then what waits for
    /// one is returned with the reason.
    #[must_use]
    pub fn no_session(&mut self, code: ErrorCode, message: &Arc<str>, is_final: bool) -> Vec<Settled> {
        let mut settled = Vec::new();
        for (index, topic) in self.topics.iter_mut().enumerate() {
            for (number, queue) in topic.queues.iter_mut().enumerate() {
                if queue.is_empty() || queue.in_flight || queue.numbering.session().is_some() {
                    continue;
                }
                queue.last_failure = Some(LastFailure { message: Arc::clone(message), refusal: None });
                if !is_final || queue.ready.front().is_some_and(|batch| batch.number.is_some()) {
                    continue;
                }
                queue.close();
                for batch in queue.ready.drain(..) {
                    let error = batch.failure(code, Arc::clone(message), Outcome::NotApplied);
                    settled.push((batch, Err(error)));
                }
                if let Some(broker) = queue.leader.and_then(|leader| self.brokers.get_mut(&leader)) {
                    broker.active.remove(&Place { topic: index, partition: number });
                }
            }
        }
        self.session_wanted &= !is_final;
        settled
    }
}

/// Refusals of a batch because of its number, or of who gave it.
pub(crate) fn breaks_off(code: ErrorCode) -> bool {
    use ErrorCode::{InvalidProducerEpoch, OutOfOrderSequence, ProducerFenced, UnknownProducerId};
    matches!(code, OutOfOrderSequence | UnknownProducerId | InvalidProducerEpoch | ProducerFenced)
}
