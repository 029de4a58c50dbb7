//! Sends to one broker: fills requests, keeps several in flight on one stream, and deals with the answers.
//!
//! Invariant: each batch taken from the accumulator is given back exactly once, settled or to be tried again, whatever
//! happens to the stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use highwater_protocol::{PartitionKey as _, code_of, error_from_status, topic_id_bytes, v1};
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, Offset, Outcome, TimestampMs, TopicPartition};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::producer::Acks;
use crate::producer::accumulator::{Outgoing, Place};
use crate::producer::batch::Batch;
use crate::producer::delivery::Acknowledged;
use crate::producer::failure::{AttemptFailure, expired};
use crate::producer::outbox::{self, Outbox};
use crate::producer::shared::Shared;

/// How much longer than the broker's own timeout an answer may take.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// How long a deposed leader may still answer before its requests are given up.
const DEPOSED_GRACE: Duration = Duration::from_millis(500);
/// How long the server may take to end the stream after us.
const END_GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Sender {
    shared: Arc<Shared>,
    broker: BrokerId,
    wake: Arc<Notify>,
    stream: Option<Stream>,
    in_flight: VecDeque<InFlight>,
    next_request: u64,
    backoff: Backoff,
    reconnect_at: Option<Instant>,
    generation: u64,
}

struct Stream {
    outbox: Arc<Outbox>,
    state: StreamState,
}

enum StreamState {
    Opening(BoxFuture<'static, Result<Streaming<v1::ProduceResponse>, Status>>),
    Open(Box<Streaming<v1::ProduceResponse>>),
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.outbox.abort();
    }
}

struct InFlight {
    request: u64,
    deadline: Instant,
    parts: Vec<Part>,
}

struct Part {
    place: Place,
    id: TopicPartition,
    epoch: LeaderEpoch,
    batches: Vec<Batch>,
    /// The broker does not lead the partition any more; its answer is awaited until then.
    give_up_at: Option<Instant>,
}

enum Event {
    Answer(Box<v1::ProduceResponse>),
    Broke(Status),
    Taken,
    Timer,
    Woken,
}

impl Sender {
    pub fn new(shared: Arc<Shared>, broker: BrokerId, wake: Arc<Notify>) -> Self {
        let backoff = Backoff::new(shared.config.retry_backoff, shared.config.retry_backoff_max);
        Self {
            shared,
            broker,
            wake,
            stream: None,
            in_flight: VecDeque::new(),
            next_request: 1,
            backoff,
            reconnect_at: None,
            generation: 0,
        }
    }

    /// Runs until the producer is done.
    pub async fn run(mut self) {
        let mut done = self.shared.done.subscribe();
        let wake = Arc::clone(&self.wake);
        loop {
            let mut next = self.send_what_is_due();
            self.watch_the_leadership();
            for request in &self.in_flight {
                next = Some(request.next_deadline().min(next.unwrap_or(request.deadline)));
            }
            let timer = sleep_until(next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
            let event = tokio::select! {
                biased;
                event = next_event(&mut self.stream) => event,
                () = wake.notified() => Event::Woken,
                () = timer => Event::Timer,
                _ = done.wait_for(|done| *done) => break,
            };
            match event {
                Event::Answer(answer) => self.answered(*answer),
                Event::Broke(status) => self.broke(&status),
                Event::Taken => self.taken(),
                Event::Timer => self.timed_out(),
                Event::Woken => {}
            }
        }
        self.end().await;
    }

    /// Sends as many requests as may be in flight. Returns when more will be due.
    fn send_what_is_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(at) = self.reconnect_at {
            if at > now {
                return Some(at);
            }
            self.reconnect_at = None;
        }
        while self.in_flight.len() < self.shared.config.in_flight_max {
            let (outgoing, next) = self.shared.drain(self.broker, now);
            if outgoing.is_empty() {
                return next;
            }
            if self.stream.is_none() && !self.open_stream() {
                self.give_back_unsent(outgoing);
                return self.reconnect_at;
            }
            self.send(outgoing, now);
        }
        None
    }

    fn open_stream(&mut self) -> bool {
        let Some(channel) = self.shared.client.channel(self.broker) else {
            self.reconnect_at = Some(Instant::now() + self.backoff.next(&*self.shared.client.seams.entropy));
            return false;
        };
        let outbox = Arc::new(Outbox::default());
        let opening = Box::pin(outbox::open(channel, Arc::clone(&outbox)));
        self.stream = Some(Stream { outbox, state: StreamState::Opening(opening) });
        true
    }

    fn give_back_unsent(&self, outgoing: Vec<Outgoing>) {
        let failure = AttemptFailure {
            code: ErrorCode::LeaderNotAvailable,
            message: format!("the address of broker {} is not known", self.broker).into(),
            outcome: Outcome::NotApplied,
            retriable: true,
            answered: false,
        };
        for out in outgoing {
            self.shared.attempt_failed(out.place, out.batches, &failure);
        }
    }

    fn send(&mut self, outgoing: Vec<Outgoing>, now: Instant) {
        let Some(stream) = &self.stream else { return self.give_back_unsent(outgoing) };
        let config = &self.shared.config;
        // The broker need not wait longer than the youngest batch lives.
        let deadlines = outgoing.iter().flat_map(|out| &out.batches).map(|batch| batch.deadline);
        let left = deadlines.max().map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
        let wait = config.request_timeout.min(left).max(Duration::from_millis(1));
        let mut request = v1::ProduceRequest {
            transactional_id: self.shared.transactional_id.clone(),
            request_id: self.next_request,
            acks: v1::Acks::from(config.acks).into(),
            timeout_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            partitions: Vec::with_capacity(outgoing.len()),
        };
        let mut payloads = Vec::with_capacity(outgoing.len());
        let mut parts = Vec::with_capacity(outgoing.len());
        for out in outgoing {
            let Some((part, payload)) = build(&self.shared, out) else { continue };
            request.partitions.push(v1::ProducePartition {
                topic_id: topic_id_bytes(part.id.topic),
                partition: part.id.partition.get(),
                leader_epoch: part.epoch.get(),
                records: bytes::Bytes::new(),
            });
            payloads.push(payload);
            parts.push(part);
        }
        if parts.is_empty() {
            return;
        }
        stream.outbox.push(&request, &payloads);
        self.next_request += 1;
        self.in_flight.push_back(InFlight { request: request.request_id, deadline: now + wait + ANSWER_GRACE, parts });
    }

    /// Requests to a leader that has been deposed get an answer soon or none.
    fn watch_the_leadership(&mut self) {
        let generation = self.shared.generation();
        if generation == self.generation || self.in_flight.is_empty() {
            return;
        }
        self.generation = generation;
        let give_up_at = Instant::now() + DEPOSED_GRACE;
        let accumulator = self.shared.lock();
        for part in self.in_flight.iter_mut().flat_map(|request| &mut request.parts) {
            if part.give_up_at.is_none() && accumulator.is_superseded(part.place, part.epoch) {
                part.give_up_at = Some(give_up_at);
            }
        }
    }

    fn answered(&mut self, answer: v1::ProduceResponse) {
        self.backoff.reset();
        let Some(index) = self.in_flight.iter().position(|request| request.request == answer.request_id) else {
            return;
        };
        let Some(request) = self.in_flight.remove(index) else { return };
        if let Some(error) = &answer.error {
            let failure = attempt_failure(error);
            for part in request.parts {
                self.shared.attempt_failed(part.place, part.batches, &failure);
            }
            return;
        }
        let mut results: Vec<_> = answer.partitions.into_iter().map(Some).collect();
        for (index, part) in request.parts.into_iter().enumerate() {
            // Mostly in the request's order.
            let is_it = |result: &Option<v1::ProducePartitionResult>| {
                result.as_ref().is_some_and(|result| result.topic_partition().is_ok_and(|id| id == part.id))
            };
            let found =
                if results.get(index).is_some_and(is_it) { Some(index) } else { results.iter().position(is_it) };
            match found.and_then(|at| results[at].take()) {
                Some(result) => self.partition_answered(part, &result),
                None => {
                    let error =
                        v1::Error::new(ErrorCode::RequestTimedOut, "the broker's answer leaves the partition out");
                    self.shared.attempt_failed(part.place, part.batches, &attempt_failure(&error));
                }
            }
        }
    }

    fn partition_answered(&self, part: Part, result: &v1::ProducePartitionResult) {
        if let Some(error) = &result.error {
            if code_of(error) == ErrorCode::DuplicateSequence && part.batches.iter().all(|b| b.number.is_some()) {
                return self.found_stored(part, error);
            }
            self.shared.attempt_failed(part.place, part.batches, &attempt_failure(error));
            // After that: news of another leader ends the wait before the next attempt.
            self.shared.client.note_leader(part.id, error);
            return;
        }
        let mut next = Offset::new(result.base_offset);
        let append_time = Some(result.log_append_time_ms).filter(|time| *time > 0).map(TimestampMs::new);
        let at = |batch: &Batch| {
            let base_offset = Some(next);
            next = next.plus(batch.records.into());
            Acknowledged { base_offset, append_time }
        };
        self.acknowledged(part, at);
    }

    /// The leader has it, too long to know where.
    fn found_stored(&self, part: Part, error: &v1::Error) {
        if part.batches.len() == 1 {
            let message = &*error.message;
            tracing::debug!(partition = ?part.id, message, "a batch that was sent again is stored, at an unknown offset");
            return self.acknowledged(part, |_| Acknowledged { base_offset: None, append_time: None });
        }
        // Of which of them is that true? Each is asked for alone.
        let failure = AttemptFailure { outcome: Outcome::Unknown, retriable: true, ..attempt_failure(error) };
        self.shared.attempt_failed(part.place, part.batches, &failure);
    }

    fn acknowledged(&self, part: Part, mut at: impl FnMut(&Batch) -> Acknowledged) {
        self.shared.lock().succeeded(part.place);
        let settled = part.batches.into_iter().map(|batch| {
            let at = at(&batch);
            (batch, Ok(at))
        });
        self.shared.settle(settled.collect());
    }

    /// With acks=none, what the transport has taken is settled.
    fn taken(&mut self) {
        if self.shared.config.acks != Acks::None {
            return;
        }
        let taken = self.stream.as_ref().map_or(0, |stream| stream.outbox.taken());
        while self.in_flight.front().is_some_and(|request| request.request <= taken) {
            for part in self.in_flight.pop_front().into_iter().flat_map(|request| request.parts) {
                self.acknowledged(part, |_| Acknowledged { base_offset: None, append_time: None });
            }
        }
    }

    /// The stream ended: what the transport had taken may be in the log, the rest is not.
    fn broke(&mut self, status: &Status) {
        if let Some(stream) = &self.stream {
            // From here on nothing more is taken, and what was not taken never will be.
            stream.outbox.abort();
        }
        self.taken();
        let error = error_from_status(status);
        let taken = self.stream.as_ref().map_or(0, |stream| stream.outbox.taken());
        self.stream = None;
        tracing::debug!(broker = %self.broker, %status, requests = self.in_flight.len(), "produce stream broke");
        self.reconnect_at = Some(Instant::now() + self.backoff.next(&*self.shared.client.seams.entropy));
        let message: Arc<str> = format!("broker {}: {}", self.broker, error.message).into();
        for request in std::mem::take(&mut self.in_flight) {
            let was_sent = request.request <= taken;
            let failure = AttemptFailure {
                code: code_of(&error),
                message: Arc::clone(&message),
                outcome: if was_sent { Outcome::Unknown } else { Outcome::NotApplied },
                // But for a server that has no such service, another attempt or another leader may do.
                retriable: code_of(&error) != ErrorCode::Unsupported,
                answered: false,
            };
            for part in request.parts {
                self.shared.attempt_failed(part.place, part.batches, &failure);
            }
        }
    }

    fn timed_out(&mut self) {
        let now = Instant::now();
        if self.in_flight.iter().any(|request| request.deadline <= now) {
            // The broker answers in time if it can: the stream or the broker is stuck.
            let waited = self.shared.config.request_timeout;
            return self.broke(&Status::deadline_exceeded(format!("no answer within {waited:?}")));
        }
        let deposed = AttemptFailure {
            code: ErrorCode::NotLeader,
            message: format!("broker {} does not lead the partition any more, and did not answer", self.broker).into(),
            outcome: Outcome::Unknown,
            retriable: true,
            answered: false,
        };
        for request in &mut self.in_flight {
            let given_up = request.parts.extract_if(.., |part| part.give_up_at.is_some_and(|at| at <= now));
            for part in given_up {
                self.shared.attempt_failed(part.place, part.batches, &deposed);
            }
            let is_due = |batch: &Batch| batch.deadline <= now && !batch.completion.is_settled();
            if !request.parts.iter().flat_map(|part| &part.batches).any(is_due) {
                continue;
            }
            if self.stream.as_ref().is_some_and(|stream| stream.outbox.retract(request.request)) {
                let unsent = AttemptFailure {
                    code: ErrorCode::Unavailable,
                    message: format!("the connection to broker {} takes nothing", self.broker).into(),
                    outcome: Outcome::NotApplied,
                    retriable: true,
                    answered: false,
                };
                for part in request.parts.drain(..) {
                    self.shared.attempt_failed(part.place, part.batches, &unsent);
                }
                continue;
            }
            for batch in request.parts.iter_mut().flat_map(|part| &mut part.batches).filter(|batch| is_due(batch)) {
                // On its way: it may yet be written.
                batch.maybe_applied = true;
                self.shared.settle_early(batch, Err(expired(batch, None)));
            }
        }
        self.in_flight.retain(|request| !request.parts.is_empty());
    }

    /// Lets the server read all that was sent before the connection goes.
    async fn end(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        stream.outbox.finish();
        let until_the_end = async { while !matches!(next_event(&mut self.stream).await, Event::Broke(_)) {} };
        // If it takes longer, what is settled is settled all the same.
        let _ = timeout(END_GRACE, until_the_end).await;
    }
}

impl InFlight {
    fn next_deadline(&self) -> Instant {
        let give_up = self.parts.iter().filter_map(|part| part.give_up_at);
        let batches = self.parts.iter().flat_map(|part| &part.batches);
        let open = batches.filter(|batch| !batch.completion.is_settled()).map(|batch| batch.deadline);
        give_up.chain(open).fold(self.deadline, Instant::min)
    }
}

/// Compresses and sums up, outside the lock. A batch that can't be built fails alone.
fn build(shared: &Shared, out: Outgoing) -> Option<(Part, Vec<bytes::Bytes>)> {
    let mut payload = Vec::with_capacity(out.batches.len());
    let mut batches = Vec::with_capacity(out.batches.len());
    let mut rest = out.batches.into_iter();
    while let Some(mut batch) = rest.next() {
        match batch.bytes() {
            Ok(bytes) => {
                batch.attempts += 1;
                payload.push(bytes);
                batches.push(batch);
            }
            Err(error) => {
                let failure = batch.failure(error.code(), error.to_string(), Outcome::NotApplied);
                shared.lock().not_built(out.place, &batch, rest.collect());
                shared.settle(vec![(batch, Err(failure))]);
                break;
            }
        }
    }
    if batches.is_empty() {
        shared.lock().succeeded(out.place);
        return None;
    }
    let id = TopicPartition::new(out.topic_id, out.partition);
    Some((Part { place: out.place, id, epoch: out.epoch, batches, give_up_at: None }, payload))
}

fn attempt_failure(error: &v1::Error) -> AttemptFailure {
    let outcome = if error.outcome_unknown { Outcome::Unknown } else { Outcome::NotApplied };
    let (code, message) = (code_of(error), error.message.as_str().into());
    AttemptFailure { code, message, outcome, retriable: error.retriable, answered: true }
}

/// What the stream brings next; never, without one. Dropping this loses nothing.
async fn next_event(stream: &mut Option<Stream>) -> Event {
    let Some(stream) = stream else { return std::future::pending().await };
    let outbox = Arc::clone(&stream.outbox);
    let answer = async {
        loop {
            match &mut stream.state {
                StreamState::Opening(opening) => match opening.as_mut().await {
                    Ok(open) => stream.state = StreamState::Open(Box::new(open)),
                    Err(status) => return Event::Broke(status),
                },
                StreamState::Open(open) => {
                    return match open.message().await {
                        Ok(Some(answer)) => Event::Answer(Box::new(answer)),
                        Ok(None) => Event::Broke(Status::unavailable("it ended the stream")),
                        Err(status) => Event::Broke(status),
                    };
                }
            }
        }
    };
    tokio::select! {
        biased;
        event = answer => event,
        () = outbox.progress.notified() => Event::Taken,
    }
}
