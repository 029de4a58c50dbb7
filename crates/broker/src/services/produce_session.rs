//! One Produce stream: requests in their order, answers as they come.
//!
//! One task does both, that of the answers: requests are read only while answers are taken, so a client that does not read
//! its answers is not read either. What is not yet answered is bounded in bytes, on the stream and over the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use highwater_protocol::{Inbound, PartitionKey, code_of, topic_id_bytes, v1};
use highwater_types::{LeaderEpoch, Offset, TimestampMs, TransactionalId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tonic::Status;

use super::deadlines::Deadlines;
use super::error::{invalid, to_wire};
use super::gather::Gathered;
use crate::core::Core;
use crate::metrics::Api;
use crate::produce::{Acks, InTransaction, PendingProduce, ProduceAnswer, ProduceRequest, ProduceTo};

/// For a request that does not say how long the broker may wait.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// What a request takes of the bounds beside its records.
const OVERHEAD_BYTES: usize = 512;

/// A request that was taken.
struct Open {
    request_id: u64,
    began: Instant,
    deadline: Instant,
    bytes: usize,
    pending: Arc<PendingProduce>,
    wants_answer: bool,
}

/// A request that waits for its share of the broker's bounds.
struct Waiting {
    request: v1::ProduceRequest,
    began: Instant,
    bytes: usize,
    permit: BoxFuture<'static, Option<OwnedSemaphorePermit>>,
}

struct Session {
    core: Arc<Core>,
    /// `None`: the client sends no more, or the broker stops.
    inbound: Option<Inbound<v1::ProduceRequest>>,
    waiting: Option<Waiting>,
    open: BTreeMap<u64, Open>,
    bytes: usize,
    deadlines: Deadlines,
    next_token: u64,
    answers: mpsc::UnboundedReceiver<ProduceAnswer>,
    answer_to: mpsc::UnboundedSender<ProduceAnswer>,
    /// The stream broke; it ends with this once what was taken is answered.
    broken: Option<Status>,
}

/// The client is gone: what it waited for keeps nothing of the broker's bounds any more.
impl Drop for Session {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.pending.expire());
    }
}

enum Event {
    Answer(ProduceAnswer),
    Expired(u64),
    Permit(Option<OwnedSemaphorePermit>),
    Message(Result<Option<v1::ProduceRequest>, Status>),
    Stopping,
}

/// The answers to the requests of `inbound`.
pub(crate) fn produce(
    core: Arc<Core>,
    inbound: Inbound<v1::ProduceRequest>,
) -> impl Stream<Item = Result<Gathered, Status>> + Send {
    let (answer_to, answers) = mpsc::unbounded_channel();
    let session = Session {
        core,
        inbound: Some(inbound),
        waiting: None,
        open: BTreeMap::new(),
        bytes: 0,
        deadlines: Deadlines::default(),
        next_token: 0,
        answers,
        answer_to,
        broken: None,
    };
    futures::stream::unfold(session, |mut session| async move {
        let answer = session.next().await?;
        Some((answer.map(|response| Gathered::of(&response)), session))
    })
}

impl Session {
    async fn next(&mut self) -> Option<Result<v1::ProduceResponse, Status>> {
        loop {
            if self.inbound.is_none() && self.waiting.is_none() && self.open.is_empty() {
                return self.broken.take().map(Err);
            }
            match self.event().await {
                Event::Answer(answer) => {
                    if let Some(response) = self.answer(answer) {
                        return Some(Ok(response));
                    }
                }
                Event::Expired(token) => {
                    if let Some(open) = self.open.get(&token) {
                        open.pending.expire();
                    }
                }
                Event::Permit(permit) => {
                    if let Some(waiting) = self.waiting.take()
                        && let Some(response) = self.take(waiting.request, waiting.began, waiting.bytes, permit).await
                    {
                        return Some(Ok(response));
                    }
                }
                Event::Message(Ok(Some(request))) => {
                    let records: usize = request.partitions.iter().map(|to| to.records.len()).sum();
                    let (bytes, began) = (records + OVERHEAD_BYTES, Instant::now());
                    let Some(permit) = self.core.produce_budget.try_acquire(bytes) else {
                        self.core.partitions.metrics().produce_throttled.inc();
                        let core = Arc::clone(&self.core);
                        let permit = Box::pin(async move { core.produce_budget.acquire(bytes).await });
                        self.waiting = Some(Waiting { request, began, bytes, permit });
                        continue;
                    };
                    if let Some(response) = self.take(request, began, bytes, Some(permit)).await {
                        return Some(Ok(response));
                    }
                }
                Event::Message(Ok(None)) => self.inbound = None,
                Event::Message(Err(status)) => {
                    self.inbound = None;
                    self.broken = Some(status);
                }
                Event::Stopping => {
                    self.inbound = None;
                    self.waiting = None;
                }
            }
        }
    }

    async fn event(&mut self) -> Event {
        let reads = self.waiting.is_none() && self.bytes < self.core.config.limits.produce_stream_bytes_max;
        let accepts = self.inbound.is_some() || self.waiting.is_some();
        let waiting = self.waiting.as_mut().map(|waiting| &mut waiting.permit);
        let inbound = self.inbound.as_mut().filter(|_| reads);
        tokio::select! {
            biased;
            // The sender is this session's own as well: never closed.
            Some(answer) = self.answers.recv() => Event::Answer(answer),
            token = self.deadlines.next() => Event::Expired(token),
            () = self.core.stopping.cancelled(), if accepts => Event::Stopping,
            permit = async { match waiting {
                Some(permit) => permit.await,
                None => std::future::pending().await,
            } } => Event::Permit(permit),
            message = async { match inbound {
                Some(inbound) => inbound.message().await,
                None => std::future::pending().await,
            } } => Event::Message(message),
        }
    }

    /// Takes a request. Returns the answer of one that is refused as a whole.
    async fn take(
        &mut self,
        request: v1::ProduceRequest,
        began: Instant,
        bytes: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<v1::ProduceResponse> {
        let (request_id, timeout_ms) = (request.request_id, request.timeout_ms);
        let token = self.next_token;
        self.next_token += 1;
        let request = match decode(token, request, self.core.config.limits.partitions_per_request_max) {
            Ok(request) => request,
            Err(error) => {
                self.core.partitions.metrics().refused(Api::Produce, code_of(&error));
                return Some(v1::ProduceResponse { request_id, partitions: Vec::new(), error: Some(error) });
            }
        };
        let limits = &self.core.config.limits;
        let timeout = match timeout_ms {
            0 => TIMEOUT_DEFAULT,
            ms => Duration::from_millis(ms.min(limits.wait_ms_max).into()),
        };
        let wants_answer = request.acks != Acks::None;
        let pending =
            self.core.partitions.produce(request, limits.decompressed_bytes_max, permit, &self.answer_to).await;
        let deadline = Instant::now() + timeout;
        if !pending.is_answered() {
            self.deadlines.add(deadline, token);
        }
        self.bytes += bytes;
        self.open.insert(token, Open { request_id, began, deadline, bytes, pending, wants_answer });
        None
    }

    fn answer(&mut self, answer: ProduceAnswer) -> Option<v1::ProduceResponse> {
        let open = self.open.remove(&answer.token)?;
        self.bytes -= open.bytes;
        self.deadlines.remove(open.deadline, answer.token);
        self.core.partitions.metrics().produce_took.record(open.began.elapsed());
        open.wants_answer.then(|| self.encode(open.request_id, answer))
    }

    fn encode(&self, request_id: u64, answer: ProduceAnswer) -> v1::ProduceResponse {
        let encode = |(tp, result): (highwater_types::TopicPartition, crate::produce::ProduceResult)| {
            let named = v1::ProducePartitionResult {
                topic_id: topic_id_bytes(tp.topic),
                partition: tp.partition.get(),
                base_offset: -1,
                log_append_time_ms: TimestampMs::NONE.get(),
                log_start_offset: -1,
                leader_epoch: LeaderEpoch::NONE.get(),
                error: None,
            };
            match result {
                Ok(crate::produce::Produced { base_offset, append_time, log_start, leader_epoch }) => {
                    v1::ProducePartitionResult {
                        base_offset: Offset::get(base_offset),
                        log_append_time_ms: append_time.unwrap_or(TimestampMs::NONE).get(),
                        log_start_offset: log_start.get(),
                        leader_epoch: leader_epoch.get(),
                        ..named
                    }
                }
                Err(error) => {
                    self.core.partitions.metrics().refused(Api::Produce, error.code());
                    v1::ProducePartitionResult { error: Some(to_wire(&error, &self.core.partitions.image())), ..named }
                }
            }
        };
        let partitions = answer.results.into_iter().map(encode).collect();
        v1::ProduceResponse { request_id, partitions, error: None }
    }
}

fn decode(token: u64, request: v1::ProduceRequest, partitions_max: usize) -> Result<ProduceRequest, v1::Error> {
    let acks = match v1::Acks::try_from(request.acks) {
        Ok(v1::Acks::None) => Acks::None,
        Ok(v1::Acks::Leader) => Acks::Leader,
        Ok(v1::Acks::All | v1::Acks::Unspecified) => Acks::All,
        Err(_) => return Err(invalid(format!("acks can't be {}", request.acks))),
    };
    if request.partitions.len() > partitions_max {
        let asked = request.partitions.len();
        return Err(invalid(format!("{asked} partitions in one request; at most {partitions_max} are allowed")));
    }
    let mut partitions = Vec::with_capacity(request.partitions.len());
    for to in request.partitions {
        let partition = to.topic_partition()?;
        partitions.push(ProduceTo {
            partition,
            leader_epoch: LeaderEpoch::new(to.leader_epoch),
            records: to.records,
            // They may be a small part of a frame.
            may_keep: false,
        });
    }
    let transaction = match request.transactional_id {
        none if none.is_empty() => None,
        text => {
            let id = TransactionalId::new(text).map_err(|error| invalid(error.to_string()))?;
            Some(InTransaction { id, joins: true })
        }
    };
    Ok(ProduceRequest { token, acks, transaction, partitions })
}
