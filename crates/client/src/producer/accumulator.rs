//! All that is accepted and not settled, by partition. Plain data under one lock; what must not happen under it (waking
//! senders of records, compressing) is handed out.
//!
//! Invariants: a partition is in its leader's `active` set exactly if it has batches, none of them in flight, and a
//! leader. `unsettled` has the id of every batch that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use highwater_record::{BatchBuilder, Compression};
use highwater_seams::Entropy;
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, Outcome, PartitionId, TimestampMs, TopicId, TopicName};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metadata::{ClusterMetadata, TopicMetadata};
use crate::producer::batch::Batch;
use crate::producer::delivery::{Completion, Delivery};
use crate::producer::failure::{AttemptFailure, expired};
use crate::producer::numbering::{Mode, Session};
use crate::producer::queue::Due;
use crate::producer::sessions::breaks_off;
use crate::producer::topic::TopicQueues;
use crate::producer::{ProducerConfig, ProducerRecord};
use crate::{FlushError, ProduceError};

/// A partition's place in the accumulator. Never given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub topic: usize,
    pub partition: usize,
}

/// What goes to one partition in one request.
pub(crate) struct Outgoing {
    pub place: Place,
    pub topic_id: TopicId,
    pub partition: PartitionId,
    pub epoch: LeaderEpoch,
    pub batches: Vec<Batch>,
}

/// A batch, and what becomes of its records.
pub(crate) type Settled = (Batch, Result<crate::producer::delivery::Acknowledged, ProduceError>);

/// One broker's part.
#[derive(Default)]
pub(crate) struct BrokerQueue {
    pub(super) active: BTreeSet<Place>,
    turn: usize,
    pub wake: Arc<Notify>,
    pub sender_runs: bool,
}

pub(crate) enum Appended {
    Accepted(Delivery),
    /// Ask for the topic's metadata, then again.
    TopicUnknown(ProducerRecord),
    Refused(ProduceError),
}

const TOPIC_DELETED: &str = "the topic was deleted before the record was acknowledged";

pub(crate) struct Accumulator {
    pub(super) topics: Vec<TopicQueues>,
    by_name: BTreeMap<TopicName, usize>,
    pub brokers: BTreeMap<BrokerId, BrokerQueue>,
    next_id: u64,
    pub(super) unsettled: BTreeSet<u64>,
    /// Batches with ids below this do not linger.
    hurry_below: u64,
    pub closed: bool,
    failed: Option<FlushError>,
    pub(super) mode: Mode,
    /// In which partitions begin to number.
    pub(super) session: Option<Session>,
    /// Something waits for a session.
    pub session_wanted: bool,
    /// Why the transaction can only be aborted.
    pub(super) broken: Option<ProduceError>,
}

impl Accumulator {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            session: None,
            session_wanted: false,
            broken: None,
            topics: Vec::new(),
            by_name: BTreeMap::new(),
            brokers: BTreeMap::new(),
            next_id: 0,
            unsettled: BTreeSet::new(),
            hurry_below: 0,
            closed: false,
            failed: None,
        }
    }

    /// Accepts a record that holds `reserved` bytes of the buffer, or gives the reason why not.
    pub fn append(
        &mut self,
        record: ProducerRecord,
        reserved: usize,
        timestamp: TimestampMs,
        config: &ProducerConfig,
        entropy: &dyn Entropy,
    ) -> Appended {
        let name = record.topic.as_str();
        if self.closed {
            return Appended::Refused(ProduceError::unsent(name, ErrorCode::InvalidRequest, "the producer is closed"));
        }
        if let Some((code, why)) = self.breach() {
            return Appended::Refused(ProduceError::unsent(name, code, why));
        }
        let Some(&index) = self.by_name.get(name) else { return Appended::TopicUnknown(record) };
        let topic = &mut self.topics[index];
        let partition = topic.place(&record, &config.partitioning, entropy);
        let Some(queue) = topic.queues.get_mut(partition.get() as usize) else {
            let count = topic.queues.len();
            let why = format!("it has {count} partitions, numbered from 0; there is no partition {partition}");
            return Appended::Refused(ProduceError::unsent(name, ErrorCode::UnknownPartition, why));
        };
        // Compressed, it may still fit: then the broker decides.
        if reserved > topic.batch_bytes
            && config.compression == Compression::None
            && record.batch_bytes_min() > topic.batch_bytes_max
        {
            let (size, max) = (record.batch_bytes_min(), topic.batch_bytes_max);
            let why = format!("the record makes a batch of {size} bytes; the topic's max.message.bytes is {max}");
            return Appended::Refused(ProduceError::unsent(name, ErrorCode::RecordTooLarge, why));
        }
        let was_empty = queue.is_empty();
        let mut closed = false;
        if let Some(open) = &queue.open
            && open.size() + reserved > topic.batch_bytes
        {
            queue.close();
            closed = true;
        }
        let batch = queue.open.get_or_insert_with(|| {
            let id = self.next_id;
            self.next_id += 1;
            self.unsettled.insert(id);
            let room = queue.batch_bytes_hint.clamp(reserved, topic.batch_bytes.max(reserved));
            let mut builder = BatchBuilder::with_capacity(config.compression, config.compression_level, room);
            builder.set_transactional(self.mode == Mode::Transactional);
            let completion = Completion::new(topic.topic.name.clone(), partition);
            let now = Instant::now();
            Batch::new(id, completion, builder, now, now + config.delivery_timeout)
        });
        let headers = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
        let appended = match batch.builder() {
            Some(builder) => builder.append_with(timestamp, record.key.as_deref(), record.value.as_deref(), headers),
            None => Ok(0),
        };
        let delivery = match appended {
            Ok(index) => {
                batch.records += 1;
                batch.reserved += reserved;
                Ok(Delivery::new(Arc::clone(&batch.completion), index, timestamp))
            }
            Err(error) => Err(ProduceError::unsent(name, error.code(), error.to_string())),
        };
        if batch.records == 0 {
            self.unsettled.remove(&batch.id);
            // Empty, so nobody waits for it.
            queue.open = None;
        }
        if !queue.is_empty()
            && !queue.in_flight
            && (was_empty || closed)
            && let Some(leader) = queue.leader
        {
            let broker = self.brokers.entry(leader).or_default();
            broker.active.insert(Place { topic: index, partition: partition.get() as usize });
            broker.wake.notify_one();
        }
        topic.placed(partition, reserved);
        match delivery {
            Ok(delivery) => Appended::Accepted(delivery),
            Err(error) => Appended::Refused(error),
        }
    }

    /// Takes a request for `broker`, if something is due; otherwise says when something will be.
    pub fn drain(
        &mut self,
        broker: BrokerId,
        now: Instant,
        config: &ProducerConfig,
    ) -> (Vec<Outgoing>, Option<Instant>) {
        let due =
            Due { now, linger: config.linger, hurry_below: if self.closed { u64::MAX } else { self.hurry_below } };
        let Some(queue) = self.brokers.get_mut(&broker) else { return (Vec::new(), None) };
        let (mut out, mut bytes, mut next) = (Vec::new(), 0, None::<Instant>);
        let places: Vec<Place> = queue.active.iter().copied().collect();
        queue.turn = queue.turn.wrapping_add(1);
        for index in 0..places.len() {
            // A partition with much to send must not keep the others from every request.
            let place = places[(index + queue.turn) % places.len()];
            let topic = &mut self.topics[place.topic];
            let (topic_id, partition) = (topic.topic.id, &mut topic.queues[place.partition]);
            let Some(at) = partition.due_at(&due) else { continue };
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            if self.mode != Mode::Plain && !partition.can_number(self.session) {
                self.session_wanted = true;
                continue;
            }
            let batches = partition.take(&due, config.request_bytes_max.saturating_sub(bytes), self.mode);
            bytes += batches.iter().map(Batch::size).sum::<usize>();
            queue.active.remove(&place);
            out.push(Outgoing { place, topic_id, partition: partition.id, epoch: partition.epoch, batches });
            if bytes >= config.request_bytes_max {
                break;
            }
        }
        (out, next)
    }

    /// The batches of `place` that were in flight are settled.
    pub fn succeeded(&mut self, place: Place) {
        let queue = &mut self.topics[place.topic].queues[place.partition];
        queue.in_flight = false;
        queue.backoff.reset();
        queue.last_failure = None;
        self.activate(place);
    }

    /// The batches of `place` that were in flight come back. Those that may be tried again go to the front of their
    /// queue; the others are returned with their error.
    #[must_use]
    pub fn failed(
        &mut self,
        place: Place,
        batches: Vec<Batch>,
        failure: &AttemptFailure,
        now: Instant,
        entropy: &dyn Entropy,
    ) -> Vec<Settled> {
        let breach = self.breach();
        let topic = &mut self.topics[place.topic];
        let removed = topic.removed;
        let queue = &mut topic.queues[place.partition];
        queue.in_flight = false;
        let never_sent = !failure.answered && failure.outcome == Outcome::NotApplied;
        if !never_sent || queue.last_failure.as_ref().is_none_or(|last| last.refusal.is_none()) {
            queue.last_failure = Some(failure.noted());
        }
        // The numbering broke off: what is surely not in the log goes on in another session. What may be there can't
        // be sent in another one without risking a duplicate, and its own does not take it any more.
        let broke_off = self.mode == Mode::Idempotent && failure.answered && breaks_off(failure.code);
        let mut settled = Vec::new();
        let mut retried = Vec::new();
        for mut batch in batches {
            let was_in_doubt = batch.maybe_applied;
            batch.maybe_applied |= failure.outcome == Outcome::Unknown;
            let retriable = failure.retriable || (broke_off && !was_in_doubt && batch.number.is_some());
            if let Some((code, why)) = breach.as_ref().filter(|_| retriable) {
                let error = batch.failure(*code, Arc::clone(why), failure.outcome);
                settled.push((batch, Err(error)));
                continue;
            }
            if batch.completion.is_settled() || (retriable && !removed && batch.deadline <= now) {
                let error = expired(&batch, queue.last_failure.as_ref());
                settled.push((batch, Err(error)));
            } else if retriable && !removed {
                retried.push(batch);
            } else {
                // Of a topic that is gone, whatever the last attempt met is beside the point.
                let (code, message) = match removed && retriable {
                    true => (ErrorCode::UnknownTopic, TOPIC_DELETED.into()),
                    false => (failure.code, Arc::clone(&failure.message)),
                };
                let error = batch.failure(code, message, failure.outcome);
                settled.push((batch, Err(error)));
            }
        }
        if failure.retriable || !retried.is_empty() {
            let pause = queue.backoff.next(entropy);
            // The transaction before ends within some milliseconds.
            let soon = failure.code == ErrorCode::ConcurrentTransactions;
            queue.retry_at = Some(now + if soon { pause / 10 } else { pause });
        }
        let lost = if broke_off { retried.iter().find_map(|batch| batch.number) } else { None };
        for batch in retried.into_iter().rev() {
            queue.ready.push_front(batch);
        }
        if let Some(number) = lost {
            queue.leave(number.session);
            self.leave_session(number.session);
        }
        for (batch, _) in &settled {
            self.gave_up(place, batch);
        }
        self.activate(place);
        settled
    }

    /// Whether attempts at the partition failed so often that its leader may be another.
    pub fn raises_doubt(&self, place: Place) -> bool {
        self.topics[place.topic].queues[place.partition].backoff.raises_doubt()
    }

    /// Whether the partition has a newer leader epoch than the one that a request was sent in.
    pub fn is_superseded(&self, place: Place, epoch: LeaderEpoch) -> bool {
        self.topics[place.topic].queues[place.partition].epoch > epoch
    }

    fn activate(&mut self, place: Place) {
        let queue = &self.topics[place.topic].queues[place.partition];
        if !queue.is_empty()
            && !queue.in_flight
            && let Some(leader) = queue.leader
        {
            let broker = self.brokers.entry(leader).or_default();
            broker.active.insert(place);
            broker.wake.notify_one();
        }
    }

    /// Notes that batches are settled. Whether nothing is left.
    pub fn forget<'a>(&mut self, settled: impl IntoIterator<Item = &'a Settled>) -> bool {
        for (batch, _) in settled {
            self.unsettled.remove(&batch.id);
        }
        self.unsettled.is_empty()
    }

    pub fn note_failure(&mut self, records: u32, error: &ProduceError) {
        self.set_broken(error);
        match &mut self.failed {
            Some(failed) => failed.failed += u64::from(records),
            None => self.failed = Some(FlushError { failed: records.into(), first: error.clone() }),
        }
    }

    pub fn take_failure(&mut self) -> Option<FlushError> {
        self.failed.take()
    }

    /// Lets everything accepted so far go at once, and returns what to wait for.
    pub fn hurry(&mut self) -> u64 {
        self.hurry_below = self.next_id;
        self.wake_all();
        self.next_id
    }

    pub fn wake_all(&self) {
        self.brokers.values().for_each(|broker| broker.wake.notify_one());
    }

    pub fn is_settled_below(&self, id: u64) -> bool {
        self.unsettled.first().is_none_or(|first| *first >= id)
    }

    pub fn is_idle(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Takes up a topic, unless it is known already.
    pub fn add_topic(&mut self, topic: &Arc<TopicMetadata>, config: &ProducerConfig) {
        if self.by_name.get(&topic.name).is_some_and(|index| self.topics[*index].topic.id == topic.id) {
            return;
        }
        self.by_name.insert(topic.name.clone(), self.topics.len());
        self.topics.push(TopicQueues::new(Arc::clone(topic)));
        self.reshape(self.topics.len() - 1, topic, config);
    }

    /// Takes over what changed in the cluster. Returns what can't be delivered any more.
    #[must_use]
    pub fn refresh(&mut self, image: &ClusterMetadata, config: &ProducerConfig) -> Vec<Settled> {
        let mut settled = Vec::new();
        for index in 0..self.topics.len() {
            if self.topics[index].removed {
                continue;
            }
            let (name, id) = (self.topics[index].topic.name.clone(), self.topics[index].topic.id);
            match image.topic(name.as_str()).filter(|topic| topic.id == id) {
                Some(topic) => self.reshape(index, topic, config),
                None => settled.extend(self.remove_topic(index)),
            }
        }
        settled
    }

    fn reshape(&mut self, index: usize, topic: &Arc<TopicMetadata>, config: &ProducerConfig) {
        self.topics[index].reshape(topic, config);
        for (number, known) in topic.partitions.iter().enumerate() {
            let place = Place { topic: index, partition: number };
            let queue = &mut self.topics[index].queues[number];
            if queue.epoch == known.leader_epoch && queue.leader == known.leader {
                continue;
            }
            if let Some(old) = queue.leader.and_then(|leader| self.brokers.get_mut(&leader)) {
                old.active.remove(&place);
            }
            // Whatever failed before, it failed at another leader.
            queue.retry_at = None;
            queue.backoff.reset();
            (queue.leader, queue.epoch) = (known.leader, known.leader_epoch);
            if let Some(leader) = queue.leader {
                self.brokers.entry(leader).or_default();
            }
            self.activate(place);
        }
    }

    /// A topic is gone; one created anew under its name is another topic (T21).
    fn remove_topic(&mut self, index: usize) -> Vec<Settled> {
        let topic = &mut self.topics[index];
        topic.removed = true;
        if self.by_name.get(&topic.topic.name) == Some(&index) {
            self.by_name.remove(&topic.topic.name);
        }
        let mut settled = Vec::new();
        for (number, queue) in topic.queues.iter_mut().enumerate() {
            if let Some(broker) = queue.leader.and_then(|leader| self.brokers.get_mut(&leader)) {
                broker.active.remove(&Place { topic: index, partition: number });
            }
            queue.close();
            for batch in queue.ready.drain(..) {
                let error = batch.failure(ErrorCode::UnknownTopic, TOPIC_DELETED, Outcome::NotApplied);
                settled.push((batch, Err(error)));
            }
        }
        settled
    }

    /// Takes out the batches whose time is up while they wait, and says when the next will be. Those in flight are for
    /// their sender.
    #[must_use]
    pub fn expire(&mut self, now: Instant) -> (Vec<Settled>, Option<Instant>) {
        let mut settled = Vec::new();
        let mut in_doubt = Vec::new();
        let mut next = None::<Instant>;
        for (index, topic) in self.topics.iter_mut().enumerate().filter(|(_, topic)| !topic.removed) {
            for (number, queue) in topic.queues.iter_mut().enumerate() {
                for batch in queue.take_expired(now) {
                    let error = expired(&batch, queue.last_failure.as_ref());
                    in_doubt.extend(queue.gave_up(&batch));
                    settled.push((batch, Err(error)));
                }
                if queue.is_empty()
                    && let Some(broker) = queue.leader.and_then(|leader| self.brokers.get_mut(&leader))
                {
                    broker.active.remove(&Place { topic: index, partition: number });
                }
                if let Some(deadline) = queue.first_deadline() {
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                }
            }
        }
        for session in in_doubt {
            self.leave_session(session);
        }
        (settled, next)
    }
}
