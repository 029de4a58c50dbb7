//! Fetches from one broker, ahead of what is polled.
//!
//! A request asks for every partition that has room; while it is open (it waits at the broker for records), partitions
//! that get room later go into another. Fetching changes nothing at the broker, so whatever breaks is asked again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use highwater_protocol::{MESSAGE_SIZE_MAX, PartitionKey as _, topic_id_bytes, v1};
use highwater_types::{BrokerId, TopicPartition};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Response, Status, Streaming};
use v1::data_client::DataClient;

use crate::backoff::Backoff;
use crate::consumer::aborted::Aborted;
use crate::consumer::assignment::Asked;
use crate::consumer::shared::Shared;
use crate::offsets;

/// How much longer than the longest wait at the broker an answer may take.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// Requests open at once. Each has other partitions, so more of them are of little use.
const OPEN_MAX: usize = 8;

pub(crate) struct Fetcher {
    shared: Arc<Shared>,
    broker: BrokerId,
    wake: Arc<Notify>,
    stream: Option<Stream>,
    open: BTreeMap<u64, Open>,
    next_request: u64,
    backoff: Backoff,
    reconnect_at: Option<Instant>,
}

struct Stream {
    // Unbounded, but never more than the requests open.
    requests: mpsc::UnboundedSender<v1::FetchRequest>,
    state: StreamState,
}

type Answers = Streaming<v1::FetchResponse>;

enum StreamState {
    Opening(BoxFuture<'static, Result<Response<Answers>, Status>>),
    Open(Box<Answers>),
}

struct Open {
    deadline: Instant,
    asked: Vec<Asked>,
}

impl Fetcher {
    pub fn new(shared: Arc<Shared>, broker: BrokerId, wake: Arc<Notify>) -> Self {
        Self {
            shared,
            broker,
            wake,
            stream: None,
            open: BTreeMap::new(),
            next_request: 1,
            backoff: Backoff::new(Duration::from_millis(20), Duration::from_secs(1)),
            reconnect_at: None,
        }
    }

    /// Runs until it is aborted.
    pub async fn run(mut self) {
        let wake = Arc::clone(&self.wake);
        loop {
            let next = self.ask_for_what_has_room();
            let deadline = self.open.values().map(|open| open.deadline).min();
            let timer = [next, deadline].into_iter().flatten().min();
            let timer = sleep_until(timer.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
            tokio::select! {
                biased;
                answer = next_answer(&mut self.stream) => match answer {
                    Ok(answer) => self.answered(answer),
                    Err(status) => self.broke(&status),
                },
                () = wake.notified() => {}
                () = timer => self.timed_out(),
            }
        }
    }

    fn ask_for_what_has_room(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(at) = self.reconnect_at {
            if at > now {
                return Some(at);
            }
            self.reconnect_at = None;
        }
        if self.open.len() >= OPEN_MAX {
            return None;
        }
        let config = &self.shared.config;
        let (asked, next) = self.shared.lock().due(self.broker, now, config);
        if asked.is_empty() {
            return next;
        }
        let partition = |asked: &Asked| v1::FetchPartition {
            topic_id: topic_id_bytes(asked.id.topic),
            partition: asked.id.partition.get(),
            fetch_offset: asked.next.offset.get(),
            leader_epoch: asked.epoch.get(),
            last_fetched_epoch: asked.next.leader_epoch.get(),
            max_bytes: config.partition_bytes_max,
            not_elsewhere: asked.not_elsewhere,
        };
        let request = v1::FetchRequest {
            isolation_level: offsets::isolation_to_wire(config.isolation),
            request_id: self.next_request,
            max_wait_ms: u32::try_from(config.fetch_wait_max.as_millis()).unwrap_or(u32::MAX),
            min_bytes: config.fetch_bytes_min,
            max_bytes: config.fetch_bytes_max,
            partitions: asked.iter().map(partition).collect(),
            rack: config.rack.clone().unwrap_or_default(),
        };
        let deadline = now + config.fetch_wait_max + ANSWER_GRACE;
        self.open.insert(self.next_request, Open { deadline, asked });
        self.next_request += 1;
        if self.stream.is_none() {
            self.stream = self.connect();
        }
        let sent = self.stream.as_ref().is_some_and(|stream| stream.requests.send(request).is_ok());
        if !sent {
            self.broke(&Status::unavailable("the broker's address is not known, or it ended the stream"));
            return self.reconnect_at;
        }
        next
    }

    fn connect(&self) -> Option<Stream> {
        let channel = self.shared.client.channel(self.broker)?;
        let (requests, receiver) = mpsc::unbounded_channel();
        let opening = async move {
            let mut client = DataClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
            client.fetch(UnboundedReceiverStream::new(receiver)).await
        };
        Some(Stream { requests, state: StreamState::Opening(Box::pin(opening)) })
    }

    fn answered(&mut self, answer: v1::FetchResponse) {
        self.backoff.reset();
        let Some(open) = self.open.remove(&answer.request_id) else { return };
        let (now, entropy) = (Instant::now(), &*self.shared.client.seams.entropy);
        if let Some(error) = &answer.error {
            tracing::debug!(broker = %self.broker, error = %error.message, "fetch refused");
            let mut assignment = self.shared.lock();
            assignment.answered(&open.asked, None);
            for asked in &open.asked {
                if assignment.back_to_leader(asked, now) {
                    continue;
                }
                assignment.refused(asked, error, &self.shared.config, now, entropy);
            }
            drop(assignment);
            self.shared.arrived.notify_one();
            return;
        }
        let asked: BTreeMap<TopicPartition, &Asked> = open.asked.iter().map(|asked| (asked.id, asked)).collect();
        let mut hints = Vec::new();
        let (mut news, mut sent_elsewhere) = (false, false);
        {
            let mut assignment = self.shared.lock();
            assignment.answered(&open.asked, None);
            for result in answer.partitions {
                let Some(asked) = result.topic_partition().ok().and_then(|id| asked.get(&id)) else { continue };
                if let Some(error) = &result.error
                    && assignment.back_to_leader(asked, now)
                {
                    tracing::debug!(broker = %self.broker, error = %error.message, "back to the leader");
                } else if let Some(replica) = result.preferred_replica {
                    assignment.sent_to(asked, BrokerId::new(replica), now);
                    sent_elsewhere = true;
                } else if let Some(diverged) = &result.diverging {
                    assignment.truncated(asked, diverged);
                    news = true;
                } else if let Some(error) = result.error {
                    assignment.refused(asked, &error, &self.shared.config, now, entropy);
                    news |= !error.retriable;
                    hints.push((asked.id, error));
                } else if !result.records.is_empty() {
                    let aborted = Aborted::new(&result.aborted);
                    news |= assignment.take_in(asked, result.records, aborted, now, entropy);
                }
            }
        }
        if sent_elsewhere {
            // That broker may have no fetcher yet.
            self.shared.attention.notify_one();
        }
        if hints.iter().any(|(id, _)| self.shared.lock().raises_doubt(*id)) {
            self.shared.client.doubt_metadata();
        }
        for (id, error) in &hints {
            self.shared.client.note_leader(*id, error);
        }
        if news {
            self.shared.arrived.notify_one();
        }
    }

    fn broke(&mut self, status: &Status) {
        tracing::debug!(broker = %self.broker, %status, "fetch stream broke");
        self.stream = None;
        let at = Instant::now() + self.backoff.next(&*self.shared.client.seams.entropy);
        self.reconnect_at = Some(at);
        if self.backoff.raises_doubt() {
            self.shared.client.doubt_metadata();
        }
        let mut assignment = self.shared.lock();
        for open in std::mem::take(&mut self.open).into_values() {
            assignment.answered(&open.asked, Some(at));
            for asked in &open.asked {
                assignment.back_to_leader(asked, Instant::now());
            }
        }
    }

    fn timed_out(&mut self) {
        let now = Instant::now();
        if self.open.values().any(|open| open.deadline <= now) {
            self.broke(&Status::deadline_exceeded("no answer to a fetch in time"));
        }
    }
}

/// What the stream brings next; never, without one. Dropping this loses nothing.
async fn next_answer(stream: &mut Option<Stream>) -> Result<v1::FetchResponse, Status> {
    let Some(stream) = stream else { return std::future::pending().await };
    loop {
        match &mut stream.state {
            StreamState::Opening(opening) => {
                let open = opening.as_mut().await?.into_inner();
                stream.state = StreamState::Open(Box::new(open));
            }
            StreamState::Open(open) => {
                let ended = || Status::unavailable("it ended the stream");
                return open.message().await?.ok_or_else(ended);
            }
        }
    }
}
