//! One Fetch stream: several requests open at a time, each answered when it has enough or has waited long enough.
//!
//! As for produce, the task that sends the answers reads the requests. An answer holds the log's own bytes; it is made only
//! when the one before has been taken, so a slow reader holds one answer and not many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, Stream};
use highwater_protocol::{Inbound, PartitionKey, code_of, topic_id_bytes, v1};
use highwater_types::{BrokerId, IsolationLevel, LeaderEpoch, Offset};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::deadlines::Deadlines;
use super::error::{invalid, to_wire};
use super::gather::Gathered;
use crate::core::Core;
use crate::fetch::{Attempt, FetchRequest, FetchedPartition, Reader};
use crate::metrics::Api;
use crate::partition::{FetchFrom, FetchWaiter, PartitionError};

/// Field numbers of `FetchResponse.partitions` and `FetchPartitionResult.records`.
const PARTITIONS_FIELD: u32 = 2;
const RECORDS_FIELD: u32 = 7;
/// For a request that states no bound.
const MAX_BYTES_DEFAULT: usize = 16 << 20;
/// Answers being read from files at a time, on one stream.
const READS_MAX: usize = 4;

/// Which request, and when it came.
#[derive(Clone, Copy)]
struct Asked {
    request_id: u64,
    at: Instant,
}

/// A request that waits.
struct Open {
    asked: Asked,
    request: FetchRequest,
    deadline: Instant,
    /// Of the last attempt; gone with it, it fires no more.
    _waiter: Arc<FetchWaiter>,
}

type Read = BoxFuture<'static, (Asked, Vec<FetchedPartition>)>;

struct Session {
    core: Arc<Core>,
    inbound: Option<Inbound<v1::FetchRequest>>,
    open: BTreeMap<u64, Open>,
    reads: FuturesUnordered<Read>,
    deadlines: Deadlines,
    next_token: u64,
    /// Of this stream's reader: see [`Reader`].
    spread: u64,
    ready: mpsc::UnboundedReceiver<u64>,
    ready_to: mpsc::UnboundedSender<u64>,
    broken: Option<Status>,
}

enum Event {
    Read(Asked, Vec<FetchedPartition>),
    Expired(u64),
    Ready(u64),
    Message(Result<Option<v1::FetchRequest>, Status>),
    Stopping,
}

/// The answers to the requests of `inbound`.
pub(crate) fn fetch(
    core: Arc<Core>,
    inbound: Inbound<v1::FetchRequest>,
) -> impl Stream<Item = Result<Gathered, Status>> + Send {
    let (ready_to, ready) = mpsc::unbounded_channel();
    let session = Session {
        spread: core.fetch_streams.fetch_add(1, Ordering::Relaxed),
        core,
        inbound: Some(inbound),
        open: BTreeMap::new(),
        reads: FuturesUnordered::new(),
        deadlines: Deadlines::default(),
        next_token: 0,
        ready,
        ready_to,
        broken: None,
    };
    futures::stream::unfold(session, |mut session| async move { session.next().await.map(|item| (item, session)) })
}

impl Session {
    async fn next(&mut self) -> Option<Result<Gathered, Status>> {
        loop {
            if self.inbound.is_none() && self.open.is_empty() && self.reads.is_empty() {
                return self.broken.take().map(Err);
            }
            let answer = match self.event().await {
                Event::Read(asked, found) => Some(self.encode(asked, found)),
                Event::Expired(token) => {
                    let open = self.open.remove(&token);
                    open.and_then(|open| self.give(open.asked, self.core.partitions.fetch(&open.request, None)))
                }
                Event::Ready(token) => self.look_again(token),
                Event::Message(Ok(Some(request))) => self.take(request),
                Event::Message(Ok(None)) => {
                    self.inbound = None;
                    None
                }
                Event::Message(Err(status)) => {
                    self.inbound = None;
                    self.broken = Some(status);
                    None
                }
                Event::Stopping => self.stop(),
            };
            if let Some(answer) = answer {
                return Some(Ok(answer));
            }
        }
    }

    async fn event(&mut self) -> Event {
        let is_open = self.inbound.is_some();
        let may_read = self.reads.len() < READS_MAX;
        let has_room = self.open.len() < self.core.config.limits.fetch_stream_requests_max;
        let inbound = self.inbound.as_mut().filter(|_| may_read && has_room);
        tokio::select! {
            biased;
            Some((asked, found)) = self.reads.next(), if !self.reads.is_empty() => Event::Read(asked, found),
            token = self.deadlines.next() => Event::Expired(token),
            // The sender is this session's own as well: never closed.
            Some(token) = self.ready.recv(), if may_read => Event::Ready(token),
            () = self.core.stopping.cancelled(), if is_open => Event::Stopping,
            message = async { match inbound {
                Some(inbound) => inbound.message().await,
                None => std::future::pending().await,
            } } => Event::Message(message),
        }
    }

    fn take(&mut self, request: v1::FetchRequest) -> Option<Gathered> {
        let asked = Asked { request_id: request.request_id, at: Instant::now() };
        let token = self.next_token;
        self.next_token += 1;
        let request = match decode(token, request, &self.core, self.spread) {
            Ok(request) => request,
            Err(error) => {
                self.core.partitions.metrics().refused(Api::Fetch, code_of(&error));
                return Some(refused(asked.request_id, error));
            }
        };
        let attempt = self.core.partitions.fetch(&request, None);
        if attempt.is_enough || request.max_wait.is_zero() {
            return self.give(asked, attempt);
        }
        let deadline = Instant::now() + request.max_wait;
        self.wait(asked, request, deadline)
    }

    fn look_again(&mut self, token: u64) -> Option<Gathered> {
        let Open { asked, request, deadline, _waiter } = self.open.remove(&token)?;
        self.deadlines.remove(deadline, token);
        self.wait(asked, request, deadline)
    }

    /// Looks once more, leaving word with each partition that has nothing.
    fn wait(&mut self, asked: Asked, request: FetchRequest, deadline: Instant) -> Option<Gathered> {
        let waiter = FetchWaiter::new(request.token, self.ready_to.clone());
        let attempt = self.core.partitions.fetch(&request, Some(&waiter));
        if attempt.is_enough {
            return self.give(asked, attempt);
        }
        let token = request.token;
        self.deadlines.add(deadline, token);
        self.open.insert(token, Open { asked, request, deadline, _waiter: waiter });
        None
    }

    /// The answer, or none yet if it has to be read.
    fn give(&mut self, asked: Asked, attempt: Attempt) -> Option<Gathered> {
        if !attempt.needs_read {
            return Some(self.encode(asked, attempt.into_answer()));
        }
        let core = Arc::clone(&self.core);
        let bytes: usize = attempt.found.iter().map(|(from, _)| from.max_bytes).sum();
        let read = async move {
            let _permit = core.read_budget.acquire(bytes).await;
            (asked, core.partitions.read(attempt).await)
        };
        self.reads.push(read.boxed());
        None
    }

    /// The broker stops: what waits is told so.
    fn stop(&mut self) -> Option<Gathered> {
        self.inbound = None;
        let error = PartitionError::ShuttingDown;
        let error = to_wire(&error, &self.core.partitions.image());
        self.broken = Some(highwater_protocol::status_from_error(error));
        self.open.clear();
        self.deadlines = Deadlines::default();
        None
    }

    fn encode(&self, asked: Asked, found: Vec<FetchedPartition>) -> Gathered {
        let metrics = self.core.partitions.metrics();
        metrics.fetch_took.record(asked.at.elapsed());
        let request_id = asked.request_id;
        let mut message = Gathered::of(&v1::FetchResponse { request_id, partitions: Vec::new(), error: None });
        for FetchedPartition { partition, result } in found {
            let mut head = v1::FetchPartitionResult {
                topic_id: topic_id_bytes(partition.topic),
                partition: partition.partition.get(),
                high_watermark: -1,
                last_stable_offset: -1,
                log_start_offset: -1,
                leader_epoch: LeaderEpoch::NONE.get(),
                ..v1::FetchPartitionResult::default()
            };
            match result {
                Ok(fetched) => {
                    if let (false, Ok(found)) = (fetched.records.is_empty(), self.core.partitions.find(partition)) {
                        found.counters().sent(&fetched.records);
                    }
                    head.high_watermark = fetched.high_watermark.get();
                    head.last_stable_offset = fetched.last_stable.get();
                    let aborted = fetched.aborted.iter().map(|one| v1::AbortedTransaction {
                        producer_id: one.producer_id.get(),
                        first_offset: one.first_offset.get(),
                    });
                    head.aborted = aborted.collect();
                    head.log_start_offset = fetched.log_start.get();
                    head.leader_epoch = fetched.leader_epoch.get();
                    head.preferred_replica = fetched.preferred.map(BrokerId::get);
                    message.field_with_payload(PARTITIONS_FIELD, &head, RECORDS_FIELD, &fetched.records);
                }
                Err(error) => {
                    metrics.refused(Api::Fetch, error.code());
                    if let PartitionError::LogTruncated { diverging, .. } = &error {
                        head.diverging = Some(v1::EpochEndOffset {
                            leader_epoch: diverging.epoch.get(),
                            end_offset: diverging.end.get(),
                        });
                    }
                    head.error = Some(to_wire(&error, &self.core.partitions.image()));
                    message.field_with_payload(PARTITIONS_FIELD, &head, RECORDS_FIELD, &[]);
                }
            }
        }
        message
    }
}

fn refused(request_id: u64, error: v1::Error) -> Gathered {
    Gathered::of(&v1::FetchResponse { request_id, partitions: Vec::new(), error: Some(error) })
}

/// One that this version does not know can't be taken for another.
pub(crate) fn isolation(level: i32) -> Result<IsolationLevel, v1::Error> {
    match v1::IsolationLevel::try_from(level) {
        Ok(v1::IsolationLevel::ReadUncommitted) => Ok(IsolationLevel::ReadUncommitted),
        Ok(v1::IsolationLevel::ReadCommitted) => Ok(IsolationLevel::ReadCommitted),
        Err(_) => Err(invalid(format!("the isolation level can't be {level}"))),
    }
}

fn decode(token: u64, request: v1::FetchRequest, core: &Core, spread: u64) -> Result<FetchRequest, v1::Error> {
    let limits = &core.config.limits;
    let asked = request.partitions.len();
    if asked > limits.partitions_per_request_max {
        let max = limits.partitions_per_request_max;
        return Err(invalid(format!("{asked} partitions in one request; at most {max} are allowed")));
    }
    let bound = |bytes: u32, default: usize| if bytes == 0 { default } else { bytes as usize };
    let max_bytes = bound(request.max_bytes, MAX_BYTES_DEFAULT).min(limits.fetch_bytes_max);
    let isolation = isolation(request.isolation_level)?;
    let mut partitions = Vec::with_capacity(asked);
    for from in request.partitions {
        partitions.push(FetchFrom {
            partition: from.topic_partition()?,
            offset: Offset::new(from.fetch_offset),
            leader_epoch: LeaderEpoch::new(from.leader_epoch),
            last_fetched_epoch: LeaderEpoch::new(from.last_fetched_epoch),
            isolation,
            max_bytes: bound(from.max_bytes, max_bytes).min(max_bytes),
            not_elsewhere: from.not_elsewhere,
        });
    }
    Ok(FetchRequest {
        token,
        max_wait: Duration::from_millis(request.max_wait_ms.min(limits.wait_ms_max).into()),
        min_bytes: (request.min_bytes as usize).min(max_bytes),
        max_bytes,
        partitions,
        near: Some(request.rack).filter(|rack| !rack.is_empty()).map(|rack| Reader { rack, spread }),
        with_empty: false,
    })
}
