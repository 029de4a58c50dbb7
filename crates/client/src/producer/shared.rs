//! What a producer's handles and tasks share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_types::{BrokerId, TimestampMs};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::ProduceError;
use crate::client::ClientInner;
use crate::metadata::TopicMetadata;
use crate::producer::accumulator::{Accumulator, Appended, Outgoing, Place, Settled};
use crate::producer::batch::Batch;
use crate::producer::failure::AttemptFailure;
use crate::producer::numbering::Mode;
use crate::producer::{ProducerConfig, ProducerRecord};

pub(crate) struct Shared {
    pub client: Arc<ClientInner>,
    pub config: ProducerConfig,
    /// Empty without transactions.
    pub transactional_id: String,
    /// One permit for each byte of the buffer that is free.
    pub buffer: Semaphore,
    accumulator: Mutex<Accumulator>,
    /// Bytes accepted since the last turn of other tasks.
    turn_bytes: AtomicUsize,
    /// Grows with each change of who leads.
    generation: AtomicU64,
    /// Fires whenever batches were settled.
    pub settled: Notify,
    /// Fires when the supervisor has something to do.
    pub attention: Notify,
    /// Fires when something waits for a session to be numbered in.
    pub session_wanted: Notify,
    /// True once the producer is closed and nothing is left to send: tasks end.
    pub done: watch::Sender<bool>,
    /// True once all tasks have ended.
    pub ended: watch::Sender<bool>,
}

impl Shared {
    /// `transactional_id`: empty for a producer without transactions.
    pub fn new(client: Arc<ClientInner>, config: ProducerConfig, transactional_id: String) -> Self {
        let mode = match (transactional_id.is_empty(), config.is_idempotent()) {
            (false, _) => Mode::Transactional,
            (true, true) => Mode::Idempotent,
            (true, false) => Mode::Plain,
        };
        let buffer = Semaphore::new(config.buffer_bytes);
        Self {
            client,
            config,
            transactional_id,
            buffer,
            accumulator: Mutex::new(Accumulator::new(mode)),
            turn_bytes: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            settled: Notify::new(),
            attention: Notify::new(),
            session_wanted: Notify::new(),
            done: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Accumulator> {
        self.accumulator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn append(&self, record: ProducerRecord, reserved: usize) -> Appended {
        let timestamp = record.timestamp.unwrap_or_else(|| TimestampMs::new(self.client.seams.clock.now_ms()));
        self.turn_bytes.fetch_add(reserved, Ordering::Relaxed);
        self.lock().append(record, reserved, timestamp, &self.config, &*self.client.seams.entropy)
    }

    /// Whether it is the turn of other tasks. A loop that sends without ever waiting would keep the senders from a
    /// runtime of one thread; a turn for each record, or few, would make the requests small.
    pub fn takes_turn(&self) -> bool {
        let due = self.turn_bytes.load(Ordering::Relaxed) >= self.config.batch_bytes;
        if due {
            self.turn_bytes.store(0, Ordering::Relaxed);
        }
        due
    }

    pub fn add_topic(&self, topic: &Arc<TopicMetadata>) {
        self.lock().add_topic(topic, &self.config);
        // It may have leaders that no sender serves yet, and may have changed since it was looked up.
        self.attention.notify_one();
    }

    /// A request for `broker`, or when there will be one.
    pub fn drain(&self, broker: BrokerId, now: Instant) -> (Vec<Outgoing>, Option<Instant>) {
        let mut accumulator = self.lock();
        let drained = accumulator.drain(broker, now, &self.config);
        if accumulator.session_wanted {
            self.session_wanted.notify_one();
        }
        drained
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes over the cluster's state, fails what is too old, and says when the next batch will be.
    pub fn refresh(&self, now: Instant) -> Option<Instant> {
        let image = self.client.image();
        let (removed, expired, next) = {
            let mut accumulator = self.lock();
            let removed = accumulator.refresh(&image, &self.config);
            self.generation.fetch_add(1, Ordering::AcqRel);
            let (expired, next) = accumulator.expire(now);
            (removed, expired, next)
        };
        self.settle(removed);
        self.settle(expired);
        next
    }

    /// The batches of one partition come back unsettled: those that may be are tried again.
    pub fn attempt_failed(&self, place: Place, batches: Vec<Batch>, failure: &AttemptFailure) {
        let entropy = &*self.client.seams.entropy;
        let (settled, doubt) = {
            let mut accumulator = self.lock();
            let settled = accumulator.failed(place, batches, failure, Instant::now(), entropy);
            (settled, accumulator.raises_doubt(place))
        };
        self.settle(settled);
        if doubt {
            self.client.doubt_metadata();
        }
    }

    /// Tells the senders of these records what became of them, and frees their part of the buffer.
    pub fn settle(&self, settled: Vec<Settled>) {
        if settled.is_empty() {
            return;
        }
        let mut freed = 0;
        for (batch, result) in &settled {
            freed += batch.reserved;
            self.settle_early(batch, result.clone());
        }
        self.buffer.add_permits(freed);
        let (idle, broken_off) = {
            let mut accumulator = self.lock();
            (accumulator.forget(&settled) && accumulator.closed, accumulator.take_queued())
        };
        if idle {
            self.done.send_replace(true);
        }
        self.settled.notify_waiters();
        // If that broke a transaction off, the rest of it need not be tried.
        self.settle(broken_off);
    }

    /// Settles a batch that is still in flight and keeps its place.
    pub fn settle_early(&self, batch: &Batch, result: Result<crate::producer::delivery::Acknowledged, ProduceError>) {
        let failure = result.as_ref().err().cloned();
        if batch.completion.settle(result)
            && let Some(error) = failure
        {
            self.lock().note_failure(batch.records, &error);
        }
    }

    /// Refuses further records; tasks end once all accepted ones are settled.
    pub fn close(&self) {
        let idle = {
            let mut accumulator = self.lock();
            accumulator.closed = true;
            accumulator.wake_all();
            accumulator.is_idle()
        };
        self.buffer.close();
        if idle {
            self.done.send_replace(true);
        }
    }
}
