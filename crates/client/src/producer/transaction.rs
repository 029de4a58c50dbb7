//! Transactions: records to any partitions, and consumed offsets, all or nothing (KIP-98, KIP-890).
//!
//! Each transaction has a producer epoch to itself: the coordinator gives the next one when it ends one. So whatever of
//! a transaction arrives late is refused, and sequences begin at 0 in each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_protocol::v1;
use highwater_types::{ErrorCode, Outcome, ProducerEpoch, ProducerId};
use tokio::time::Instant;
use v1::coordinator_client::CoordinatorClient;

use crate::client::ClientInner;
use crate::consumer::{GroupMetadata, OffsetToCommit, group};
use crate::coordinator::Coordinator;
use crate::producer::numbering::Session;
use crate::producer::shared::Shared;
use crate::producer::{Acks, Delivery, Producer, ProducerConfig, ProducerRecord};
use crate::{AdminError, CommitError, FlushError, InvalidSetting, ProduceError, TransactionError};

/// Settings of a transactional producer.
#[derive(Debug, Clone)]
pub struct TransactionalConfig {
    /// Kept over restarts, and used by one producer at a time: a new one under the same id fences the one before, and
    /// aborts what it left open.
    pub transactional_id: String,
    /// The coordinator aborts a transaction that is open for longer. Bounded by the brokers'
    /// `transaction.max.timeout.ms`.
    pub timeout: Duration,
    /// How to send. Acks must be `All`, with idempotence.
    pub producer: ProducerConfig,
}

impl TransactionalConfig {
    /// The defaults: one minute for a transaction.
    pub fn new(transactional_id: impl Into<String>) -> Self {
        let (timeout, producer) = (Duration::from_secs(60), ProducerConfig::default());
        Self { transactional_id: transactional_id.into(), timeout, producer }
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        self.producer.check()?;
        let refused = |setting, value: String, allowed| Err(InvalidSetting { setting, value, allowed });
        if self.producer.acks != Acks::All || self.producer.idempotence == Some(false) {
            let value = format!("acks={}, idempotence={:?}", self.producer.acks, self.producer.idempotence);
            return refused("producer", value, "a transaction needs acks=all and idempotence");
        }
        if let Err(error) = highwater_types::TransactionalId::new(&self.transactional_id) {
            let value = format!("{:?} ({error})", self.transactional_id);
            return refused("transactional_id", value, "1 to 1024 bytes");
        }
        if self.timeout < Duration::from_millis(1) || self.timeout.as_millis() > u128::from(u32::MAX) {
            return refused("timeout", format!("{:?}", self.timeout), "1 ms to 49 days");
        }
        Ok(())
    }
}

/// Sends records in transactions: what a `read_committed` consumer sees of one is all of it or nothing, over all its
/// partitions and the consumed offsets that belong to it. With a consume-transform-produce loop that commits its offsets
/// in the transaction, and readers of committed records only, every input has its effect exactly once.
///
/// One transaction at a time, one producer for each transactional id. After an error that [is
/// fatal](TransactionError::is_fatal), make a new one; it fences this one and ends what it left open.
pub struct TransactionalProducer {
    core: Arc<Core>,
}

/// An open transaction. [`commit`](Self::commit) or [`abort`](Self::abort) it.
///
/// Dropped, it is aborted: in the background if the runtime lives, otherwise by the next
/// [`begin`](TransactionalProducer::begin), by the next producer of this id, or by the coordinator once its timeout has
/// passed. Until then, committed readers of its partitions wait.
#[must_use = "a transaction that is dropped is aborted"]
pub struct Transaction<'a> {
    core: &'a Arc<Core>,
    ended: bool,
}

struct Core {
    producer: Producer,
    config: TransactionalConfig,
    client: Arc<ClientInner>,
    coordinator: Coordinator,
    groups: Mutex<BTreeMap<String, Arc<Coordinator>>>,
    state: tokio::sync::Mutex<State>,
    /// The coordinators may know of the open transaction.
    is_touched: AtomicBool,
}

struct State {
    session: Session,
    phase: Phase,
}

#[derive(Clone)]
enum Phase {
    Ready,
    Open,
    /// The coordinator was asked to commit (or abort), and its answer is not known.
    Ending {
        commit: bool,
    },
    Dead(TransactionError),
}

impl TransactionalProducer {
    pub(crate) async fn new(client: Arc<ClientInner>, config: TransactionalConfig) -> Result<Self, TransactionError> {
        config.check().map_err(TransactionError::Setting)?;
        let coordinator = Coordinator::of_transactions(&client, &config.transactional_id);
        let session = init(&client, &coordinator, &config).await?;
        let shared = Shared::new(Arc::clone(&client), config.producer.clone(), config.transactional_id.clone());
        let producer = Producer::start(shared);
        producer.shared().lock().begin_session(session);
        let state = tokio::sync::Mutex::new(State { session, phase: Phase::Ready });
        let groups = Mutex::default();
        let is_touched = AtomicBool::new(false);
        Ok(Self { core: Arc::new(Core { producer, config, client, coordinator, groups, state, is_touched }) })
    }

    /// Opens a transaction. What the one before left undecided is decided first: a commit whose answer was lost is asked
    /// for again, and what was dropped is aborted.
    pub async fn begin(&mut self) -> Result<Transaction<'_>, TransactionError> {
        let mut state = self.core.state.lock().await;
        self.core.settle_last(&mut state).await?;
        state.phase = Phase::Open;
        drop(state);
        self.core.is_touched.store(false, Ordering::Relaxed);
        Ok(Transaction { core: &self.core, ended: false })
    }

    /// Aborts what was left open, and ends the connections.
    pub async fn close(self) -> Result<(), TransactionError> {
        let mut state = self.core.state.lock().await;
        let settled = self.core.settle_last(&mut state).await;
        // Nothing is left in it that could fail.
        let _ = self.core.producer.close().await;
        settled
    }
}

impl Transaction<'_> {
    /// As [`Producer::send`]. If the record fails, now or later, the transaction can only be aborted.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ProduceError> {
        self.core.is_touched.store(true, Ordering::Relaxed);
        let sent = self.core.producer.send(record).await;
        if let Err(error) = &sent {
            self.core.producer.shared().break_off(error.code, &error.message);
        }
        sent
    }

    /// Makes these offsets of a group part of the transaction: they are committed if and when it is. The metadata says
    /// whose they are; if the partitions went to another member since, it fails, and the transaction can only be aborted
    /// (KIP-447).
    pub async fn send_offsets(
        &self,
        offsets: &[OffsetToCommit],
        group: &GroupMetadata,
    ) -> Result<(), TransactionError> {
        if offsets.is_empty() {
            return Ok(());
        }
        self.core.is_touched.store(true, Ordering::Relaxed);
        let sent = self.core.send_offsets(offsets, group).await;
        if let Err(error) = &sent {
            let code = error.code();
            self.core.producer.shared().break_off(code, &format!("offsets were not taken up: {error}"));
        }
        sent
    }

    /// Waits until every record is acknowledged, and commits. Once this succeeds, the transaction is committed for good;
    /// readers see it as its markers reach the partitions, a moment later.
    ///
    /// If a record or an offset failed, the transaction is aborted instead: [`TransactionError::Aborted`].
    /// [`TransactionError::Unavailable`] leaves open what became of it; the next [`begin`](TransactionalProducer::begin)
    /// has it committed first.
    pub async fn commit(mut self) -> Result<(), TransactionError> {
        self.ended = true;
        let mut state = self.core.state.lock().await;
        match self.core.flush().await {
            Ok(()) => self.core.end(&mut state, true).await,
            Err(cause) => {
                self.core.abort(&mut state).await?;
                Err(TransactionError::Aborted { transactional_id: self.core.config.transactional_id.clone(), cause })
            }
        }
    }

    /// Takes back all of it: what is not sent yet fails with [`ErrorCode::TransactionAbortable`], what was sent is never
    /// shown to readers of committed records, and its offsets are not committed.
    pub async fn abort(mut self) -> Result<(), TransactionError> {
        self.ended = true;
        let mut state = self.core.state.lock().await;
        self.core.abort(&mut state).await
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The next `begin` does it otherwise.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let core = Arc::clone(self.core);
            runtime.spawn(async move {
                let mut state = core.state.lock().await;
                if matches!(state.phase, Phase::Open)
                    && let Err(error) = core.abort(&mut state).await
                {
                    tracing::warn!(id = core.config.transactional_id, %error, "a dropped transaction is not aborted yet");
                }
            });
        }
    }
}

impl Core {
    fn deadline(&self) -> Instant {
        Instant::now() + self.client.request_timeout
    }

    async fn settle_last(&self, state: &mut State) -> Result<(), TransactionError> {
        match state.phase.clone() {
            Phase::Ready => Ok(()),
            Phase::Open => self.abort(state).await,
            Phase::Ending { commit } => self.end(state, commit).await,
            Phase::Dead(error) => Err(error),
        }
    }

    /// Waits until all is settled; fails if something failed.
    async fn flush(&self) -> Result<(), ProduceError> {
        let flushed = self.producer.flush().await.map_err(|FlushError { first, .. }| first);
        self.producer.shared().lock().broken().map_or(flushed, Err)
    }

    async fn abort(&self, state: &mut State) -> Result<(), TransactionError> {
        // If this is dropped half way, it is asked for again.
        state.phase = Phase::Open;
        self.producer.shared().break_off(ErrorCode::TransactionAbortable, "the transaction was aborted");
        // They fail as they should.
        let _ = self.flush().await;
        self.end(state, false).await
    }

    /// Everything sent is settled: tells the coordinator how it ends. The same is asked again until it is answered; once
    /// it is decided, the answer stays the same.
    async fn end(&self, state: &mut State, commit: bool) -> Result<(), TransactionError> {
        let is_asked = matches!(state.phase, Phase::Ending { .. });
        if !is_asked && !self.is_touched.load(Ordering::Relaxed) {
            self.ready(state, state.session);
            return Ok(());
        }
        state.phase = Phase::Ending { commit };
        let request = v1::EndTransactionRequest {
            transactional_id: self.config.transactional_id.clone(),
            producer_id: state.session.id.get(),
            producer_epoch: state.session.epoch.get().into(),
            commit,
            ..Default::default()
        };
        let what = if commit { "commit the transaction" } else { "abort the transaction" };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move { client.end_transaction(request).await }
        };
        let answer = self.coordinator.call(what, self.deadline(), |_| true, send).await;
        let answer = answer.and_then(|answer| session(what, answer.producer_id, answer.producer_epoch));
        match answer {
            Ok(next) => {
                self.ready(state, next);
                Ok(())
            }
            Err(error) => {
                let (outcome, transactional_id) = (error.outcome, self.config.transactional_id.clone());
                let unknown = TransactionError::Unavailable {
                    transactional_id: transactional_id.clone(),
                    code: error.code,
                    message: error.to_string(),
                };
                let error = TransactionError::from_admin(&transactional_id, error);
                if !matches!(error, TransactionError::Unavailable { .. }) {
                    state.phase = Phase::Dead(error.clone());
                }
                // An attempt whose answer was lost may have ended it, though a later one was refused (the producer was replaced
                // meanwhile, say): nobody must take that for an end of the other kind.
                Err(if outcome == Outcome::Unknown { unknown } else { error })
            }
        }
    }

    fn ready(&self, state: &mut State, next: Session) {
        // In the same session, sequences go on.
        let shared = self.producer.shared();
        if next == state.session {
            shared.lock().mend()
        } else {
            shared.lock().begin_session(next)
        }
        *state = State { session: next, phase: Phase::Ready };
    }

    async fn send_offsets(&self, offsets: &[OffsetToCommit], group: &GroupMetadata) -> Result<(), TransactionError> {
        let refused = |source: CommitError| TransactionError::Offsets {
            transactional_id: self.config.transactional_id.clone(),
            source,
        };
        let session = self.state.lock().await.session;
        let request = v1::CommitOffsetsInTransactionRequest {
            transactional_id: self.config.transactional_id.clone(),
            producer_id: session.id.get(),
            producer_epoch: session.epoch.get().into(),
            group_id: group.group_id.clone(),
            member_id: group.member_id.clone(),
            member_epoch: group.member_epoch.get(),
            instance_id: group.instance_id.clone().unwrap_or_default(),
            offsets: group::offsets::to_wire(&self.client, &group.group_id, offsets).map_err(refused)?,
            ..Default::default()
        };
        let coordinator = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let of_group = || Arc::new(Coordinator::of_group(&self.client, &group.group_id));
            Arc::clone(groups.entry(group.group_id.clone()).or_insert_with(of_group))
        };
        let send = |mut client: CoordinatorClient<_>| {
            let request = request.clone();
            async move {
                let answer = client.commit_offsets_in_transaction(request).await?;
                group::offsets::again_if_retriable(answer, |answer| &answer.partitions)
            }
        };
        // The metadata is of one moment: a stale epoch stays stale.
        let may_repeat = |error: &AdminError| error.code != ErrorCode::StaleMemberEpoch;
        let answer = coordinator.call("add offsets to the transaction", self.deadline(), may_repeat, send).await;
        match answer {
            Ok(answer) => group::offsets::refused(&group.group_id, &answer.partitions).map_err(refused),
            Err(error) if is_fencing(error.code) => {
                Err(TransactionError::from_admin(&self.config.transactional_id, error))
            }
            Err(error) => Err(refused(CommitError::from_admin(&group.group_id, error))),
        }
    }
}

/// The first session of this producer; fences whoever used the id before.
async fn init(
    client: &Arc<ClientInner>,
    coordinator: &Coordinator,
    config: &TransactionalConfig,
) -> Result<Session, TransactionError> {
    let request = v1::InitProducerIdRequest {
        transactional_id: config.transactional_id.clone(),
        // Checked to fit.
        transaction_timeout_ms: config.timeout.as_millis() as u32,
        producer_id: ProducerId::NONE.get(),
        producer_epoch: ProducerEpoch::NONE.get().into(),
    };
    let send = |mut client: CoordinatorClient<_>| {
        let request = request.clone();
        async move { client.init_producer_id(request).await }
    };
    let what = "get the producer id of the transactional id";
    let answer = coordinator.call(what, Instant::now() + client.request_timeout, |_| true, send).await;
    let answer = answer.and_then(|answer| session(what, answer.producer_id, answer.producer_epoch));
    answer.map_err(|error| TransactionError::from_admin(&config.transactional_id, error))
}

fn session(what: &str, id: i64, epoch: i32) -> Result<Session, AdminError> {
    let none = || AdminError::new(what, ErrorCode::Internal, "the answer has no producer id in it");
    Session::from_wire(id, epoch).ok_or_else(none)
}

/// Whether another producer has taken over, or the coordinator ended this one's transaction.
pub(crate) fn is_fencing(code: ErrorCode) -> bool {
    use ErrorCode::{InvalidProducerEpoch, InvalidProducerIdMapping, ProducerFenced};
    matches!(code, ProducerFenced | InvalidProducerEpoch | InvalidProducerIdMapping)
}

impl Shared {
    /// The transaction can only be aborted: what is not sent fails now, what is on its way is not sent again.
    pub fn break_off(&self, code: ErrorCode, why: &str) {
        let settled = {
            let mut accumulator = self.lock();
            let mut error = ProduceError::new("", code, why);
            error.outcome = Outcome::NotApplied;
            accumulator.set_broken(&error);
            accumulator.take_queued()
        };
        self.settle(settled);
    }
}
