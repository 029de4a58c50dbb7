//! What is being read, by partition. Plain data under one lock.
//!
//! Invariants: `ready` has each partition with buffered batches once; `buffered_bytes` is the sum over partitions; an
//! answer counts only if its token is the partition's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_protocol::{code_of, v1};
use highwater_record::BatchError;
use highwater_seams::Entropy;
use highwater_types::{BrokerId, ErrorCode, LeaderEpoch, Offset, TopicId, TopicName, TopicPartition};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ConsumeError;
use crate::backoff::Backoff;
use crate::consumer::aborted::Aborted;
use crate::consumer::partition::{Fetched, PartitionFetch, TakenIn};
use crate::consumer::{ConsumerConfig, OffsetReset, Position};
use crate::metadata::{ClusterMetadata, TopicMetadata};

/// For so long a replica that the leader has named is read from; then the leader is asked again which one is best.
const PREFERRED_FOR: Duration = Duration::from_secs(300);
/// After a replica failed, for so long the leader is read from.
const LEADER_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Damaged answers in a row before a partition fails: the damage may lie on the way, or be healed.
const DAMAGED_MAX: u32 = 3;

#[derive(Default)]
pub(crate) struct Assignment {
    partitions: BTreeMap<TopicPartition, PartitionFetch>,
    pub brokers: BTreeMap<BrokerId, BrokerFetch>,
    ready: VecDeque<TopicPartition>,
    errors: VecDeque<(TopicPartition, ConsumeError)>,
    buffered_bytes: usize,
    tokens: u64,
    /// A topic read as a whole, and how many partitions of it were taken up.
    whole: Option<(TopicId, TopicName, usize)>,
}

#[derive(Default)]
pub(crate) struct BrokerFetch {
    pub wake: Arc<Notify>,
    pub fetcher_runs: bool,
}

/// One partition's entry of a fetch request.
pub(crate) struct Asked {
    pub id: TopicPartition,
    pub token: u64,
    pub next: Position,
    pub epoch: LeaderEpoch,
    /// Who was asked.
    pub broker: BrokerId,
    /// Not to be sent to another replica.
    pub not_elsewhere: bool,
}

/// A batch to hand out.
pub(crate) struct Taken {
    pub id: TopicPartition,
    pub topic: TopicName,
    pub fetched: Fetched,
}

impl Assignment {
    /// Reads these from now on, and nothing else.
    pub fn replace(&mut self, partitions: Vec<(TopicPartition, TopicName, Position)>, image: &ClusterMetadata) {
        self.partitions.clear();
        self.ready.clear();
        self.errors.clear();
        self.buffered_bytes = 0;
        self.whole = None;
        self.add(partitions, image);
    }

    /// Of this topic, partitions that it gets later are read too, from their beginning.
    pub fn keep_whole(&mut self, topic: &TopicMetadata) {
        self.whole = Some((topic.id, topic.name.clone(), topic.partitions.len()));
    }

    /// Reads these too.
    pub fn add(&mut self, partitions: Vec<(TopicPartition, TopicName, Position)>, image: &ClusterMetadata) {
        for (id, topic, next) in partitions {
            self.tokens += 1;
            let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
            self.partitions.insert(id, PartitionFetch::new(id, topic, next, self.tokens, backoff));
        }
        self.refresh(image);
    }

    /// Reads this one no more.
    pub fn remove(&mut self, id: TopicPartition) {
        if let Some(gone) = self.partitions.remove(&id) {
            self.buffered_bytes -= gone.buffered_bytes;
        }
        self.ready.retain(|ready| *ready != id);
        self.errors.retain(|(failed, _)| *failed != id);
        self.brokers.values().for_each(|broker| broker.wake.notify_one());
    }

    pub fn contains(&self, id: TopicPartition) -> bool {
        self.partitions.contains_key(&id)
    }

    pub fn set_paused(&mut self, id: TopicPartition, paused: bool) {
        let Some(partition) = self.partitions.get_mut(&id).filter(|partition| partition.paused != paused) else {
            return;
        };
        partition.paused = paused;
        self.ready.retain(|ready| *ready != id);
        if !paused && !partition.buffered.is_empty() {
            self.ready.push_back(id);
        }
        self.wake_source(id);
    }

    pub fn find(&self, topic: &str, partition: highwater_types::PartitionId) -> Option<&PartitionFetch> {
        self.partitions.values().find(|p| p.id.partition == partition && p.topic.as_str() == topic)
    }

    pub fn iter(&self) -> impl Iterator<Item = &PartitionFetch> {
        self.partitions.values()
    }

    pub fn seek(&mut self, id: TopicPartition, next: Position) {
        self.tokens += 1;
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        self.buffered_bytes -= partition.restart(next, self.tokens);
        self.ready.retain(|ready| *ready != id);
        self.errors.retain(|(failed, _)| *failed != id);
        self.wake_source(id);
    }

    /// Takes over who leads, and fails what is gone.
    pub fn refresh(&mut self, image: &ClusterMetadata) {
        if let Some((id, name, known)) = &mut self.whole
            && let Some(topic) = image.topic(name.as_str()).filter(|topic| topic.id == *id)
            && topic.partitions.len() > *known
        {
            let start = Position { offset: Offset::ZERO, leader_epoch: LeaderEpoch::NONE };
            let new = topic.partitions[*known..].iter();
            let new = new.map(|p| (TopicPartition::new(*id, p.id), name.clone(), start)).collect();
            *known = topic.partitions.len();
            return self.add(new, image);
        }
        let mut gone = Vec::new();
        for (id, partition) in &mut self.partitions {
            let topic = image.topic(partition.topic.as_str());
            let Some(known) =
                topic.filter(|topic| topic.id == id.topic).and_then(|topic| topic.partition(id.partition))
            else {
                gone.push((*id, topic.is_some_and(|topic| topic.id != id.topic)));
                continue;
            };
            if partition.leader == known.leader && partition.epoch == known.leader_epoch {
                continue;
            }
            // What the old leader was asked does not matter any more.
            self.tokens += 1;
            partition.token = self.tokens;
            partition.in_flight = false;
            partition.retry_at = None;
            (partition.leader, partition.epoch) = (known.leader, known.leader_epoch);
            (partition.preferred, partition.leader_until) = (None, None);
            if let Some(leader) = known.leader {
                self.brokers.entry(leader).or_default().wake.notify_one();
            }
        }
        for (id, recreated) in gone {
            self.fail_with(id, |partition| {
                let topic = partition.topic.to_string();
                if recreated { ConsumeError::TopicRecreated { topic } } else { ConsumeError::UnknownTopic { topic } }
            });
        }
    }

    /// What to ask `broker` for now, and when there will be more to ask.
    pub fn due(&mut self, broker: BrokerId, now: Instant, config: &ConsumerConfig) -> (Vec<Asked>, Option<Instant>) {
        let (mut asked, mut next) = (Vec::new(), None::<Instant>);
        if self.buffered_bytes >= config.prefetch_bytes {
            return (asked, next);
        }
        let mut for_leaders = BTreeSet::new();
        for partition in self.partitions.values_mut().filter(|partition| partition.source() == Some(broker)) {
            let full = partition.buffered_bytes >= config.partition_bytes_max as usize;
            if partition.in_flight || partition.failed || partition.paused || full {
                continue;
            }
            if let Some(at) = partition.retry_at.filter(|at| *at > now) {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            partition.retry_at = None;
            if partition.preferred.is_some_and(|(_, until)| until <= now) {
                partition.preferred = None;
                if partition.leader != Some(broker) {
                    for_leaders.extend(partition.leader);
                    continue;
                }
            }
            partition.leader_until.take_if(|until| *until <= now);
            partition.in_flight = true;
            let (id, token, next, epoch) = (partition.id, partition.token, partition.next, partition.epoch);
            let not_elsewhere = partition.leader_until.is_some();
            asked.push(Asked { id, token, next, epoch, broker, not_elsewhere });
        }
        for_leaders.iter().filter_map(|leader| self.brokers.get(leader)).for_each(|leader| leader.wake.notify_one());
        (asked, next)
    }

    /// The leader names another replica to read from.
    pub fn sent_to(&mut self, asked: &Asked, replica: BrokerId, now: Instant) {
        let Some(partition) = self.partitions.get_mut(&asked.id).filter(|p| p.token == asked.token) else { return };
        if partition.leader == Some(asked.broker) && replica != asked.broker {
            tracing::debug!(topic = %partition.topic, partition = %partition.id.partition, %replica, "reading from a replica");
            partition.preferred = Some((replica, now + PREFERRED_FOR));
            self.brokers.entry(replica).or_default().wake.notify_one();
        }
    }

    /// If these were asked of a replica that does not lead, and that has failed: the leader is asked again, which knows what
    /// there is. Whether that was so.
    pub fn back_to_leader(&mut self, asked: &Asked, now: Instant) -> bool {
        let Some(partition) = self.partitions.get_mut(&asked.id).filter(|p| p.token == asked.token) else {
            return false;
        };
        if partition.leader == Some(asked.broker) {
            return false;
        }
        partition.preferred = None;
        partition.leader_until = Some(now + LEADER_AFTER_FAILURE);
        partition.retry_at = None;
        self.wake_source(asked.id);
        true
    }

    /// The request that asked for these is answered, or will never be (`retry_at`).
    pub fn answered(&mut self, asked: &[Asked], retry_at: Option<Instant>) {
        for entry in asked {
            if let Some(partition) = self.partitions.get_mut(&entry.id)
                && partition.token == entry.token
            {
                partition.in_flight = false;
                partition.retry_at = retry_at.or(partition.retry_at);
            }
        }
    }

    /// Takes in records. Whether there is something new to hand out or to report.
    pub fn take_in(
        &mut self,
        asked: &Asked,
        records: Bytes,
        aborted: Aborted,
        now: Instant,
        entropy: &dyn Entropy,
    ) -> bool {
        let Some(partition) = self.partitions.get_mut(&asked.id).filter(|p| p.token == asked.token && !p.failed) else {
            return false;
        };
        let was_empty = partition.buffered.is_empty();
        let TakenIn { bytes: taken, advanced, wrong } = partition.take_in(records, aborted);
        self.buffered_bytes += taken;
        if advanced {
            partition.damaged = 0;
            partition.backoff.reset();
        }
        if taken > 0 && was_empty && !partition.paused {
            self.ready.push_back(asked.id);
        }
        if let Some(source) = wrong {
            if self.back_to_leader(asked, now) {
                return taken > 0;
            }
            let Some(partition) = self.partitions.get_mut(&asked.id) else { return taken > 0 };
            partition.damaged += 1;
            if partition.damaged >= DAMAGED_MAX {
                self.fail_damaged(asked.id, source);
                return true;
            }
            partition.retry_at = Some(now + partition.backoff.next(entropy));
        }
        taken > 0
    }

    /// A batch that was handed over can't be read: forgets what follows it, and reports it at `at`.
    pub fn fail_at(&mut self, id: TopicPartition, at: Position, source: BatchError) {
        self.seek(id, at);
        self.fail_damaged(id, source);
    }

    fn fail_damaged(&mut self, id: TopicPartition, source: BatchError) {
        self.fail_with(id, |partition| ConsumeError::CorruptBatch {
            topic: partition.topic.to_string(),
            partition: partition.id.partition,
            position: partition.next.offset,
            source,
        });
    }

    /// The leader's log is not the one that was read.
    pub fn truncated(&mut self, asked: &Asked, diverged: &v1::EpochEndOffset) {
        self.fail_current(asked, |partition| ConsumeError::LogTruncated {
            topic: partition.topic.to_string(),
            partition: partition.id.partition,
            position: partition.next.offset,
            diverged_at: Offset::new(diverged.end_offset),
            leader_epoch: LeaderEpoch::new(diverged.leader_epoch),
        });
    }

    /// The leader refused one partition.
    pub fn refused(
        &mut self,
        asked: &Asked,
        error: &v1::Error,
        config: &ConsumerConfig,
        now: Instant,
        entropy: &dyn Entropy,
    ) {
        let Some(partition) = self.partitions.get_mut(&asked.id).filter(|p| p.token == asked.token) else { return };
        let code = code_of(error);
        match (code, error.valid_offsets) {
            (ErrorCode::OffsetOutOfRange, Some(valid)) => match config.offset_reset {
                // By duration, it takes a look-up: whoever polls does it.
                OffsetReset::Error | OffsetReset::ByDuration(_) => {
                    self.fail_current(asked, |partition| ConsumeError::OffsetOutOfRange {
                        topic: partition.topic.to_string(),
                        partition: partition.id.partition,
                        position: partition.next.offset,
                        start: Offset::new(valid.start),
                        end: Offset::new(valid.end),
                    })
                }
                reset => {
                    let to = if reset == OffsetReset::Earliest { valid.start } else { valid.end };
                    // What is buffered comes before the gap, and is handed out.
                    partition.next = Position { offset: Offset::new(to), leader_epoch: LeaderEpoch::NONE };
                    tracing::info!(topic = %partition.topic, partition = %partition.id.partition, offset = to,
                        "position was not in the log; reset");
                }
            },
            _ if error.retriable => partition.retry_at = Some(now + partition.backoff.next(entropy)),
            _ => self.fail_current(asked, |partition| ConsumeError::Refused {
                topic: partition.topic.to_string(),
                partition: partition.id.partition,
                code,
                message: error.message.clone(),
            }),
        }
    }

    fn fail_current(&mut self, asked: &Asked, error: impl FnOnce(&PartitionFetch) -> ConsumeError) {
        if self.partitions.get(&asked.id).is_some_and(|partition| partition.token == asked.token) {
            self.fail_with(asked.id, error);
        }
    }

    fn fail_with(&mut self, id: TopicPartition, error: impl FnOnce(&PartitionFetch) -> ConsumeError) {
        if let Some(partition) = self.partitions.get_mut(&id)
            && !partition.failed
        {
            partition.failed = true;
            self.errors.push_back((id, error(partition)));
        }
    }

    /// An error whose partition has nothing left to hand out before it. `in_hand`: the partition of the batch that the
    /// consumer is in the middle of.
    pub fn take_error(&mut self, in_hand: Option<TopicPartition>) -> Option<ConsumeError> {
        let due = |id: &TopicPartition| {
            Some(*id) != in_hand && self.partitions.get(id).is_none_or(|partition| partition.buffered.is_empty())
        };
        let index = self.errors.iter().position(|(id, _)| due(id))?;
        self.errors.remove(index).map(|(_, error)| error)
    }

    /// Whether any partition has failed and not been reported.
    pub fn has_error(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The next batch to hand out; partitions take turns.
    pub fn take(&mut self, config: &ConsumerConfig) -> Option<Taken> {
        let id = self.ready.pop_front()?;
        let partition = self.partitions.get_mut(&id)?;
        let fetched = partition.buffered.pop_front()?;
        let bytes = fetched.batch.bytes().len();
        let was_full = partition.buffered_bytes >= config.partition_bytes_max as usize;
        partition.buffered_bytes -= bytes;
        let has_room = partition.buffered_bytes < config.partition_bytes_max as usize;
        let taken = Taken { id, topic: partition.topic.clone(), fetched };
        if !partition.buffered.is_empty() {
            self.ready.push_back(id);
        }
        let all_were_full = self.buffered_bytes >= config.prefetch_bytes;
        self.buffered_bytes -= bytes;
        if all_were_full && self.buffered_bytes < config.prefetch_bytes {
            self.brokers.values().for_each(|broker| broker.wake.notify_one());
        } else if was_full && has_room {
            self.wake_source(id);
        }
        Some(taken)
    }

    /// Whether fetches of the partition failed so often that its leader may be another.
    pub fn raises_doubt(&self, id: TopicPartition) -> bool {
        self.partitions.get(&id).is_some_and(|partition| partition.backoff.raises_doubt())
    }

    fn wake_source(&self, id: TopicPartition) {
        let source = self.partitions.get(&id).and_then(PartitionFetch::source);
        if let Some(broker) = source.and_then(|source| self.brokers.get(&source)) {
            broker.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::PartitionId;

    use super::*;

    #[test]
    fn the_leader_is_asked_again_now_and_then_which_replica_is_best() {
        let (leader, replica, config) = (BrokerId::new(1), BrokerId::new(2), ConsumerConfig::default());
        let id = TopicPartition::new(TopicId::from_u128(1), PartitionId::new(0));
        let next = Position { offset: Offset::ZERO, leader_epoch: LeaderEpoch::NONE };
        let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        let mut partition = PartitionFetch::new(id, TopicName::new("t").unwrap(), next, 1, backoff);
        partition.leader = Some(leader);
        let mut assignment = Assignment::default();
        assignment.partitions.insert(id, partition);
        let asks = |assignment: &mut Assignment, broker, now| {
            let (asked, _) = assignment.due(broker, now, &config);
            assignment.answered(&asked, None);
            asked.into_iter().next()
        };
        let now = Instant::now();
        let asked = asks(&mut assignment, leader, now).unwrap();
        assignment.sent_to(&asked, replica, now);
        assert!(asks(&mut assignment, leader, now).is_none());
        let asked = asks(&mut assignment, replica, now).unwrap();
        // A replica sends nobody elsewhere.
        assignment.sent_to(&asked, BrokerId::new(3), now);
        let later = now + PREFERRED_FOR;
        assert!(asks(&mut assignment, replica, later).is_none());
        let asked = asks(&mut assignment, leader, later).unwrap();
        assert!(!asked.not_elsewhere);
        // After a failure there, the leader is not left for a while.
        assignment.sent_to(&asked, replica, later);
        let asked = asks(&mut assignment, replica, later).unwrap();
        assert!(assignment.back_to_leader(&asked, later));
        assert!(asks(&mut assignment, leader, later).unwrap().not_elsewhere);
        assert!(!asks(&mut assignment, leader, later + LEADER_AFTER_FAILURE).unwrap().not_elsewhere);
    }
}
