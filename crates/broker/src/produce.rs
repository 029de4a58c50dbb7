//! Produce requests, for every front door: from bytes to one answer when the last partition of the request is done.
//!
//! **Invariants**: nothing of a refused partition is written; each partition is answered exactly once; what a stream asks is
//! appended in the order in which it calls. A request that waits costs no task and no timer of its own: its waiters sit
//! in the queues of the partitions, and whoever moves a high watermark completes it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use highwater_record::{Batch, ProduceLimits, Step, Validation};
use highwater_replication::AckOutcome;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, TimestampMs, TopicPartition, TransactionalId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::partition::{Partition, PartitionError, ToAppend};
use crate::partitions::Partitions;

/// When a produce request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// At once, whatever becomes of it.
    None,
    /// Once the leader has made it its own, by the topic's durability.
    Leader,
    /// Once it is committed.
    All,
}

/// What is appended to one partition.
#[derive(Debug)]
pub struct ProduceTo {
    pub partition: TopicPartition,
    /// That the client believes in; `NONE` not to check.
    pub leader_epoch: LeaderEpoch,
    /// One or more whole record batches.
    pub records: Bytes,
    /// The memory that they are part of is theirs but for a small part, and nobody else holds it: the log may keep it.
    pub may_keep: bool,
}

/// The transaction that records are part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InTransaction {
    pub id: TransactionalId,
    /// Whether a partition becomes part of it by its first records (KIP-890). Otherwise it must have been added before, as by
    /// producers that keep their epoch from one transaction to the next.
    pub joins: bool,
}

/// A produce request.
#[derive(Debug)]
pub struct ProduceRequest {
    /// Comes back with the answer; the caller's own.
    pub token: u64,
    pub acks: Acks,
    /// If any of the records are part of one.
    pub transaction: Option<InTransaction>,
    pub partitions: Vec<ProduceTo>,
}

/// Where records went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    pub base_offset: Offset,
    /// What all its records have as timestamp, with LogAppendTime.
    pub append_time: Option<TimestampMs>,
    pub log_start: Offset,
    pub leader_epoch: LeaderEpoch,
}

pub type ProduceResult = Result<Produced, PartitionError>;

/// The answer to a request, partition by partition in its order.
#[derive(Debug)]
pub struct ProduceAnswer {
    pub token: u64,
    pub results: Vec<(TopicPartition, ProduceResult)>,
}

/// A request that was taken: completed by the partitions, or given up by its caller.
pub struct PendingProduce {
    token: u64,
    answers: mpsc::UnboundedSender<ProduceAnswer>,
    state: Mutex<Pending>,
}

struct Pending {
    results: Vec<(TopicPartition, Option<ProduceResult>)>,
    /// Partitions without a result. 0: answered.
    open: usize,
    /// What the request takes of the broker's bounds until it is answered.
    permit: Option<OwnedSemaphorePermit>,
}

impl PendingProduce {
    pub(crate) fn new(
        token: u64,
        partitions: impl Iterator<Item = TopicPartition>,
        permit: Option<OwnedSemaphorePermit>,
        answers: mpsc::UnboundedSender<ProduceAnswer>,
    ) -> Arc<Self> {
        let results: Vec<_> = partitions.map(|tp| (tp, None)).collect();
        let state = Mutex::new(Pending { open: results.len(), results, permit });
        Arc::new(Self { token, answers, state })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result of one partition. One that comes after the request was answered is dropped.
    pub(crate) fn complete(&self, slot: u32, result: ProduceResult) {
        let mut state = self.lock();
        let Some((_, present)) = state.results.get_mut(slot as usize) else { return };
        if present.is_none() {
            *present = Some(result);
            state.open -= 1;
            if state.open == 0 {
                self.answer(&mut state);
            }
        }
    }

    /// Its time is over: what has no result yet has an unknown outcome.
    pub fn expire(&self) {
        let mut state = self.lock();
        if state.open > 0 {
            for (_, result) in &mut state.results {
                result.get_or_insert(Err(PartitionError::NotAcknowledged(AckOutcome::TimedOut)));
            }
            state.open = 0;
            self.answer(&mut state);
        }
    }

    /// Whether the answer has been sent.
    pub fn is_answered(&self) -> bool {
        self.lock().open == 0
    }

    fn answer(&self, state: &mut Pending) {
        state.permit = None;
        let results = std::mem::take(&mut state.results);
        let results = results.into_iter().filter_map(|(tp, result)| result.map(|result| (tp, result))).collect();
        // A caller that is gone wants no answer.
        let _ = self.answers.send(ProduceAnswer { token: self.token, results });
    }
}

/// Who waits for an append to be acknowledged.
pub(crate) struct AckWaiter {
    pub request: Arc<PendingProduce>,
    pub slot: u32,
    pub produced: Produced,
}

impl AckWaiter {
    pub fn complete(self, outcome: AckOutcome) {
        let result = match outcome {
            AckOutcome::Committed => Ok(self.produced),
            AckOutcome::LeadershipLost if mutation::is_on(Mutation::SuccessWhenDeposed) => Ok(self.produced),
            other => Err(PartitionError::NotAcknowledged(other)),
        };
        self.request.complete(self.slot, result);
    }
}

/// Of records, unpacked, that are checked before others have a turn: a few milliseconds.
const PIECE_BYTES: usize = 1 << 20;

/// Gives up a request whose caller goes away while it is taken.
struct WhileTaken<'a>(&'a PendingProduce);

impl Drop for WhileTaken<'_> {
    fn drop(&mut self) {
        self.0.expire();
    }
}

impl Partitions {
    /// Appends what `request` asks for, in its order. The answer goes to `answers`, perhaps before this returns; with
    /// `acks` other than all, and by an expiry that the caller decides on, later. What takes long to check is checked piece by piece, while
    /// others have their turns; dropped before its end, this appends nothing more, and what it has appended is not answered.
    pub async fn produce(
        &self,
        request: ProduceRequest,
        decompressed_bytes_max: usize,
        permit: Option<OwnedSemaphorePermit>,
        answers: &mpsc::UnboundedSender<ProduceAnswer>,
    ) -> Arc<PendingProduce> {
        let ProduceRequest { token, acks, transaction, partitions } = request;
        let pending = PendingProduce::new(token, partitions.iter().map(|to| to.partition), permit, answers.clone());
        if partitions.is_empty() {
            pending.answer(&mut pending.lock());
        }
        let taken = WhileTaken(&pending);
        let mut piece = PIECE_BYTES;
        for (slot, mut to) in (0..).zip(partitions) {
            match self.check(&mut to, decompressed_bytes_max, &mut piece).await {
                Ok((partition, batches)) => partition.append(ToAppend {
                    batches,
                    may_keep: to.may_keep,
                    acks,
                    leader_epoch: to.leader_epoch,
                    transaction: transaction.clone(),
                    request: Arc::clone(&pending),
                    slot,
                }),
                Err(error) => pending.complete(slot, Err(error)),
            }
        }
        std::mem::forget(taken);
        pending
    }

    /// Where they go, and the batches that its records are. `piece`: what may be checked until others have a turn.
    async fn check(
        &self,
        to: &mut ProduceTo,
        decompressed_bytes_max: usize,
        piece: &mut usize,
    ) -> Result<(Arc<Partition>, Vec<Batch>), PartitionError> {
        let partition = self.find(to.partition)?;
        // Checked again under the lock; here so that a wrong broker need not read through what is not its own.
        partition.check_leads(to.leader_epoch)?;
        if partition.is_internal() {
            return Err(PartitionError::Internal);
        }
        let batch_bytes_max = partition.batch_bytes_max();
        // A record is bounded as a batch is: compression must not smuggle in what no consumer could take.
        let limits = ProduceLimits {
            batch_bytes_max,
            record_bytes_max: batch_bytes_max,
            decompressed_bytes_max,
            keys_required: partition.keys_required(),
        };
        let mut validation = Validation::new(std::mem::take(&mut to.records), limits);
        let mut large = None;
        loop {
            match validation.advance(piece, large.is_some())? {
                Step::Done(batches) => return Ok((partition, batches)),
                Step::More => {
                    tokio::task::yield_now().await;
                    *piece = PIECE_BYTES;
                }
                // Never closed.
                Step::Large => large = self.large_batches().acquire().await.ok(),
            }
        }
    }
}
