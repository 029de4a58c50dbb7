//! The transaction coordinator of one partition of `__transaction_state`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_record::TransactionResult;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, ProducerId, TopicPartition, TransactionalId};

use super::state::{EPOCH_MAX, End, Transaction};
use super::timers::Timers;
use super::{Action, Error, Request, Response, TransactionState, record};
use crate::{CoordinatorRecord, CorruptRecord, EndMarker, Now, ProducerIdentity, Shard, Token, Topics, Write};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionConfig {
    /// The longest timeout that a producer can ask for.
    pub timeout_ms_max: u32,
    /// How long an idle transactional id is remembered (`transactional.id.expiration.ms`).
    pub id_expiration: Duration,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self { timeout_ms_max: 15 * 60 * 1000, id_expiration: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// How long a producer that keeps its epoch waits for its last transaction to be complete before it is told to ask again.
const AHEAD_MAX: Duration = Duration::from_secs(3);
/// How often idle ids are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
/// Records of one batch that time alone brings about; what is left follows at once.
const TIMED_RECORDS_MAX: usize = 500;

/// See the [module](super).
#[derive(Debug)]
pub struct TransactionShard {
    config: TransactionConfig,
    /// What the records say, changed by replay alone.
    transactions: BTreeMap<TransactionalId, Transaction>,
    coordinator_epoch: LeaderEpoch,
    timeouts: Timers,
    next_expiry: Option<Duration>,
    /// Of those in `Prepare`: where the marker is not reported yet.
    unmarked: BTreeMap<TransactionalId, BTreeSet<TopicPartition>>,
    /// Of those in `Prepare`: what joins the next transaction, which begins when this one is complete.
    ahead: BTreeMap<TransactionalId, Vec<Ahead>>,
}

/// Partitions that a producer adds while its last transaction, of the same epoch, is being completed. It is told once they have joined.
///
/// Kafka would tell it to ask again. librdkafka does, unless it aborts first: then it ends a transaction that has not begun, and takes the
/// answer, that the last one ended otherwise, for fatal.
#[derive(Debug)]
struct Ahead {
    token: Token,
    partitions: Vec<TopicPartition>,
    until: Duration,
}

type Effects = crate::Effects<Response, Error, Action>;

/// What a request comes to.
enum Outcome {
    Answer(Response),
    /// Answered once that is written.
    Change(TransactionalId, Transaction, Result<Response, Error>),
}

impl TransactionShard {
    pub fn new(config: TransactionConfig) -> Self {
        Self {
            config,
            transactions: BTreeMap::new(),
            coordinator_epoch: LeaderEpoch::NONE,
            timeouts: Timers::default(),
            next_expiry: None,
            unmarked: BTreeMap::new(),
            ahead: BTreeMap::new(),
        }
    }

    /// Whether this is what an [`Ahead`] is about.
    fn is_ahead(&self, id: &TransactionalId, producer: ProducerIdentity) -> bool {
        self.transactions.get(id).is_some_and(|transaction| {
            matches!(transaction.state, TransactionState::Prepare(_))
                && transaction.keeps_epoch
                && transaction.producer == producer
        })
    }

    /// `completed` is, so that what waited for it may join the next transaction.
    fn join_ahead(
        &mut self,
        now: Now,
        id: &TransactionalId,
        completed: &Transaction,
        effects: &mut Effects,
    ) -> Option<CoordinatorRecord> {
        let ahead = self.ahead.remove(id)?;
        let mut next = completed.clone();
        for it in ahead {
            next = next.joined_by(&it.partitions, now.wall);
            effects.replies.push((it.token, Ok(Response::PartitionsAdded)));
        }
        Some(self.change(now, id, &next, &mut effects.actions))
    }

    /// Those who have waited for long enough.
    fn tell_ahead(&mut self, now: Now, effects: &mut Effects) {
        for (id, ahead) in &mut self.ahead {
            for it in ahead.extract_if(.., |it| it.until <= now.elapsed) {
                effects.replies.push((it.token, Err(Error::Completing { id: id.clone() })));
            }
        }
        self.ahead.retain(|_, ahead| !ahead.is_empty());
    }

    fn decide(&mut self, now: Now, request: Request) -> Result<Outcome, Error> {
        match request {
            Request::InitProducerId { transactional_id, timeout_ms, current, fresh } => {
                self.init_producer_id(now, transactional_id, timeout_ms, current, fresh)
            }
            Request::AddPartitions { transactional_id, producer, partitions, verify_only } => {
                self.add_partitions(now, transactional_id, producer, &partitions, verify_only)
            }
            Request::EndTransaction { transactional_id, producer, result, fresh, keeps_epoch } => {
                let end = if keeps_epoch { End::Kept(result) } else { End::Asked(result, fresh) };
                self.end_transaction(now, transactional_id, producer, result, end)
            }
            Request::MarkersWritten { transactional_id, producer, partitions } => {
                Ok(self.markers_written(now, transactional_id, producer, &partitions))
            }
            Request::ListTransactions => Ok(Outcome::Answer(Response::Transactions(
                self.transactions.iter().map(|(id, transaction)| transaction.describe(id)).collect(),
            ))),
            Request::CountTransactions => {
                let mut by_state = BTreeMap::new();
                for transaction in self.transactions.values() {
                    *by_state.entry(transaction.state.name()).or_default() += 1;
                }
                Ok(Outcome::Answer(Response::Counted(by_state)))
            }
            Request::DescribeTransaction { transactional_id: id } => match self.transactions.get(&id) {
                Some(transaction) => Ok(Outcome::Answer(Response::Transaction(transaction.describe(&id)))),
                None => Err(Error::UnknownId { id }),
            },
        }
    }

    fn init_producer_id(
        &self,
        now: Now,
        id: TransactionalId,
        timeout_ms: u32,
        current: Option<ProducerIdentity>,
        fresh: ProducerId,
    ) -> Result<Outcome, Error> {
        let max_ms = self.config.timeout_ms_max;
        if timeout_ms == 0 || timeout_ms > max_ms {
            return Err(Error::InvalidTimeout { timeout_ms, max_ms });
        }
        let Some(transaction) = self.transactions.get(&id) else {
            // Also for one who had an epoch: whatever fenced it, if anything, has expired with its id, and so have its epochs.
            let producer = ProducerIdentity { id: fresh, epoch: highwater_types::ProducerEpoch::FIRST };
            let transaction = Transaction::new(producer, timeout_ms, now.wall);
            return Ok(Outcome::Change(id, transaction, Ok(Response::Producer(producer))));
        };
        let asked_again = current.is_some() && current == transaction.previous;
        if let Some(current) = current.filter(|_| !asked_again) {
            transaction.check_current(&id, current)?;
        }
        match transaction.state {
            TransactionState::Prepare(_) => Err(Error::Completing { id }),
            // An answer that was lost (T35); one that came late, if its epoch is in use by now. The last epoch nobody can use.
            _ if asked_again && transaction.producer.epoch != EPOCH_MAX => {
                Ok(Outcome::Answer(Response::Producer(transaction.producer)))
            }
            TransactionState::Ongoing if !mutation::is_on(Mutation::OpenTransactionInherited) => {
                let end = if current.is_some() { End::Reset } else { End::TakenOver };
                let ended = transaction.ended(end, now.wall);
                Ok(Outcome::Change(id.clone(), ended, Err(Error::Completing { id })))
            }
            TransactionState::Empty | TransactionState::Complete(_) | TransactionState::Ongoing => {
                let next = transaction.initialized(current, fresh, timeout_ms, now.wall);
                let producer = next.producer;
                Ok(Outcome::Change(id, next, Ok(Response::Producer(producer))))
            }
        }
    }

    fn add_partitions(
        &self,
        now: Now,
        id: TransactionalId,
        producer: ProducerIdentity,
        partitions: &[TopicPartition],
        verify_only: bool,
    ) -> Result<Outcome, Error> {
        let Some(transaction) = self.transactions.get(&id) else {
            return Err(Error::Expired { id, found: producer.id });
        };
        transaction.check_current(&id, producer)?;
        let missing = match transaction.state {
            // The producer is ahead of the markers, which would end its new transaction too.
            TransactionState::Prepare(_) => return Err(Error::Completing { id }),
            TransactionState::Ongoing => partitions.iter().find(|at| !transaction.partitions.contains(at)),
            TransactionState::Empty | TransactionState::Complete(_) => partitions.first(),
        };
        match missing {
            None => Ok(Outcome::Answer(Response::PartitionsAdded)),
            Some(at) if verify_only => Err(Error::NotInTransaction { id, topic: at.topic, partition: at.partition }),
            Some(_) => {
                Ok(Outcome::Change(id, transaction.joined_by(partitions, now.wall), Ok(Response::PartitionsAdded)))
            }
        }
    }

    fn end_transaction(
        &self,
        now: Now,
        id: TransactionalId,
        producer: ProducerIdentity,
        result: TransactionResult,
        end: End,
    ) -> Result<Outcome, Error> {
        let Some(transaction) = self.transactions.get(&id) else {
            return Err(Error::Expired { id, found: producer.id });
        };
        let is_asked_again = match end {
            // One that has nothing open asks again, as clients end only what they have begun.
            End::Kept(_) => transaction.keeps_epoch && transaction.producer == producer,
            _ => transaction.previous == Some(producer) && transaction.producer.epoch != EPOCH_MAX,
        };
        if let TransactionState::Prepare(ended) | TransactionState::Complete(ended) = transaction.state
            && is_asked_again
        {
            return if ended == result {
                Ok(Outcome::Answer(Response::Ended { next: transaction.producer }))
            } else if transaction.timed_out {
                Err(Error::TimedOut { id, found: producer.epoch, timeout_ms: transaction.timeout_ms })
            } else {
                Err(Error::EndedOtherwise { id, asked: past_tense(result), ended: past_tense(ended) })
            };
        }
        transaction.check_current(&id, producer)?;
        if let TransactionState::Prepare(_) = transaction.state {
            return Err(Error::Completing { id });
        }
        let next = transaction.ended(end, now.wall);
        let answer = Response::Ended { next: next.producer };
        Ok(Outcome::Change(id, next, Ok(answer)))
    }

    fn markers_written(
        &mut self,
        now: Now,
        id: TransactionalId,
        producer: ProducerIdentity,
        partitions: &[TopicPartition],
    ) -> Outcome {
        let transaction = self.transactions.get(&id);
        // Of a transaction before: reported twice, or late.
        let Some((transaction, result)) = transaction.and_then(|transaction| match transaction.state {
            TransactionState::Prepare(result) if transaction.marker == Some(producer) => Some((transaction, result)),
            _ => None,
        }) else {
            return Outcome::Answer(Response::MarkersRecorded);
        };
        let unmarked = self.unmarked.entry(id.clone()).or_insert_with(|| transaction.partitions.clone());
        partitions.iter().for_each(|at| {
            unmarked.remove(at);
        });
        if !unmarked.is_empty() {
            return Outcome::Answer(Response::MarkersRecorded);
        }
        let completed = transaction.completed(result, now.wall);
        Outcome::Change(id, completed, Ok(Response::MarkersRecorded))
    }

    /// The record that makes a change, and what goes with it in memory. The change itself is the replay's.
    fn change(
        &mut self,
        now: Now,
        id: &TransactionalId,
        next: &Transaction,
        actions: &mut Vec<Action>,
    ) -> CoordinatorRecord {
        match next.state {
            TransactionState::Ongoing => {
                if self.transactions.get(id).is_none_or(|before| before.state != TransactionState::Ongoing) {
                    self.timeouts.set(id, now.elapsed + timeout(next));
                }
            }
            TransactionState::Prepare(result) => {
                self.timeouts.clear(id);
                self.unmarked.insert(id.clone(), next.partitions.clone());
                actions.extend(self.write_markers(id, next, result));
            }
            TransactionState::Empty | TransactionState::Complete(_) => {
                self.timeouts.clear(id);
                self.unmarked.remove(id);
            }
        }
        record::record(id, next)
    }

    fn write_markers(&self, id: &TransactionalId, of: &Transaction, result: TransactionResult) -> Option<Action> {
        of.marker.map(|producer| Action::WriteMarkers {
            transactional_id: id.clone(),
            producer,
            result,
            coordinator_epoch: self.coordinator_epoch,
            partitions: of.partitions.iter().copied().collect(),
            keeps_epoch: of.keeps_epoch,
        })
    }

    fn expired(&mut self, now: Now) -> Vec<CoordinatorRecord> {
        if self.next_expiry.is_none_or(|at| at > now.elapsed) {
            return Vec::new();
        }
        let age_ms_max = i64::try_from(self.config.id_expiration.as_millis()).unwrap_or(i64::MAX);
        let is_old = |of: &Transaction| now.wall.get().saturating_sub(of.updated_at.get()) >= age_ms_max;
        let idle = self.transactions.iter().filter(|(_, transaction)| transaction.is_idle() && is_old(transaction));
        let tombstones: Vec<_> = idle.take(TIMED_RECORDS_MAX).map(|(id, _)| record::tombstone(id)).collect();
        if tombstones.len() < TIMED_RECORDS_MAX {
            self.next_expiry = Some(now.elapsed + self.expiry_interval());
        }
        tombstones
    }

    fn expiry_interval(&self) -> Duration {
        EXPIRY_INTERVAL.min(self.config.id_expiration)
    }

    #[cfg(test)]
    pub(super) const fn durable(&self) -> &BTreeMap<TransactionalId, Transaction> {
        &self.transactions
    }
}

fn timeout(of: &Transaction) -> Duration {
    Duration::from_millis(of.timeout_ms.into())
}

const fn past_tense(result: TransactionResult) -> &'static str {
    match result {
        TransactionResult::Commit => "committed",
        TransactionResult::Abort => "aborted",
    }
}

fn write(records: Vec<CoordinatorRecord>) -> Option<Write> {
    (!records.is_empty()).then_some(Write { transaction_of: None, records })
}

impl Shard for TransactionShard {
    type Request = Request;
    type Response = Response;
    type Error = Error;
    type Action = Action;

    fn replay(
        &mut self,
        offset: Offset,
        _transaction_of: Option<ProducerIdentity>,
        record: &CoordinatorRecord,
    ) -> Result<(), CorruptRecord> {
        match record::read(record).map_err(|problem| CorruptRecord { offset, problem })? {
            Some((id, Some(transaction))) => {
                self.transactions.insert(id, transaction);
            }
            Some((id, None)) => {
                self.transactions.remove(&id);
            }
            None => {}
        }
        Ok(())
    }

    /// No transaction writes to `__transaction_state`.
    fn replay_marker(&mut self, _offset: Offset, _marker: EndMarker) {}

    fn loaded(&mut self, now: Now, coordinator_epoch: LeaderEpoch, _topics: &Topics) -> Effects {
        self.coordinator_epoch = coordinator_epoch;
        self.timeouts = Timers::default();
        self.next_expiry = Some(now.elapsed + self.expiry_interval());
        self.unmarked.clear();
        self.ahead.clear();
        let mut effects = Effects::default();
        for (id, transaction) in &self.transactions {
            match transaction.state {
                // From the beginning again: the clock that wrote its start was another broker's, and without a coordinator its
                // producer could not end it.
                TransactionState::Ongoing => self.timeouts.set(id, now.elapsed + timeout(transaction)),
                TransactionState::Prepare(result) => {
                    effects.actions.extend(self.write_markers(id, transaction, result));
                    self.unmarked.insert(id.clone(), transaction.partitions.clone());
                }
                TransactionState::Empty | TransactionState::Complete(_) => {}
            }
        }
        effects
    }

    fn handle(&mut self, now: Now, token: Token, request: Request) -> Effects {
        let mut effects = Effects::default();
        let request = match request {
            Request::AddPartitions { transactional_id, producer, partitions, verify_only: false }
                if self.is_ahead(&transactional_id, producer) =>
            {
                let until = now.elapsed + AHEAD_MAX;
                self.ahead.entry(transactional_id).or_default().push(Ahead { token, partitions, until });
                return effects;
            }
            other => other,
        };
        let reply = match self.decide(now, request) {
            Ok(Outcome::Answer(response)) => Ok(response),
            Ok(Outcome::Change(id, next, reply)) => {
                let mut records = vec![self.change(now, &id, &next, &mut effects.actions)];
                if next.is_idle() {
                    records.extend(self.join_ahead(now, &id, &next, &mut effects));
                }
                effects.write = write(records);
                reply
            }
            Err(error) => Err(error),
        };
        effects.replies.push((token, reply));
        effects
    }

    fn next_timer(&self) -> Option<Duration> {
        let ahead = self.ahead.values().flatten().map(|it| it.until);
        self.timeouts.next().into_iter().chain(self.next_expiry).chain(ahead).min()
    }

    fn on_time(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        self.tell_ahead(now, &mut effects);
        let mut records = Vec::new();
        let due: Vec<_> = self.timeouts.due(now.elapsed).take(TIMED_RECORDS_MAX).cloned().collect();
        for id in due {
            let Some(transaction) = self.transactions.get(&id) else {
                self.timeouts.clear(&id);
                continue;
            };
            let aborted = transaction.ended(End::TimedOut, now.wall);
            records.push(self.change(now, &id, &aborted, &mut effects.actions));
        }
        records.extend(self.expired(now));
        effects.write = write(records);
        effects
    }

    fn on_topics(&mut self, _now: Now, _topics: &Topics) -> Effects {
        Effects::default()
    }
}
