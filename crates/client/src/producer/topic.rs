//! The queues of one topic, and the choice among them.

use std::sync::Arc;

use highwater_record::{HEADER_LEN, partition_for_key};
use highwater_seams::Entropy;
use highwater_types::PartitionId;

use crate::backoff::Backoff;
use crate::metadata::TopicMetadata;
use crate::producer::queue::PartitionQueue;
use crate::producer::{Partitioning, Placement, ProducerConfig, ProducerRecord};

pub(crate) struct TopicQueues {
    pub topic: Arc<TopicMetadata>,
    pub queues: Vec<PartitionQueue>,
    /// Deleted: nothing is accepted or sent any more. Its place in the list stays, for what is in flight.
    pub removed: bool,
    /// Bytes at which its batches are closed.
    pub batch_bytes: usize,
    /// Bytes of the largest batch that the topic takes.
    pub batch_bytes_max: usize,
    sticky: Option<PartitionId>,
    sticky_bytes: usize,
    turn: u32,
}

impl TopicQueues {
    pub fn new(topic: Arc<TopicMetadata>) -> Self {
        let queues = Vec::new();
        Self {
            topic,
            queues,
            removed: false,
            batch_bytes: 0,
            batch_bytes_max: 0,
            sticky: None,
            sticky_bytes: 0,
            turn: 0,
        }
    }

    /// Takes over what changed of the topic's shape; who leads is for the caller.
    pub fn reshape(&mut self, topic: &Arc<TopicMetadata>, config: &ProducerConfig) {
        self.topic = Arc::clone(topic);
        self.batch_bytes_max = topic.batch_bytes_max();
        self.batch_bytes = config.batch_bytes.min(self.batch_bytes_max);
        for index in self.queues.len()..topic.partitions.len() {
            let backoff = Backoff::new(config.retry_backoff, config.retry_backoff_max);
            self.queues.push(PartitionQueue::new(PartitionId::new(index as u32), backoff));
        }
    }

    /// The partition for `record`, which may not exist: a custom partitioner's word is not checked here.
    pub fn place(
        &mut self,
        record: &ProducerRecord,
        partitioning: &Partitioning,
        entropy: &dyn Entropy,
    ) -> PartitionId {
        if let Some(partition) = record.partition {
            return partition;
        }
        let count = self.queues.len() as u32;
        match (partitioning, &record.key) {
            (Partitioning::Custom(custom), _) => custom.partition(&Placement {
                topic: &self.topic.name,
                partitions: count,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
            }),
            (Partitioning::RoundRobin, _) => {
                let next = self.turn % count.max(1);
                self.turn = next + 1;
                PartitionId::new(next)
            }
            (Partitioning::KeyOrSticky, Some(key)) => partition_for_key(key, count),
            (Partitioning::KeyOrSticky, None) => self.sticky(entropy),
        }
    }

    /// The current sticky partition, or a new one: of two at random, the one with less to send (KIP-480, KIP-794).
    fn sticky(&mut self, entropy: &dyn Entropy) -> PartitionId {
        if let Some(partition) = self.sticky
            && self.queues.get(partition.get() as usize).is_some_and(|queue| queue.leader.is_some())
        {
            return partition;
        }
        let led: Vec<_> = self.queues.iter().filter(|queue| queue.leader.is_some()).collect();
        let among: Vec<_> = if led.is_empty() { self.queues.iter().collect() } else { led };
        let pick = || among[entropy.below(among.len() as u64) as usize];
        let (one, other) = (pick(), pick());
        let chosen = if one.queued_bytes() <= other.queued_bytes() { one.id } else { other.id };
        self.sticky = Some(chosen);
        self.sticky_bytes = 0;
        chosen
    }

    /// Tells that so many bytes went to `partition`.
    pub fn placed(&mut self, partition: PartitionId, bytes: usize) {
        if self.sticky == Some(partition) {
            self.sticky_bytes += bytes;
            if self.sticky_bytes + HEADER_LEN >= self.batch_bytes {
                self.sticky = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_seams::SeededEntropy;
    use highwater_types::{BrokerId, LeaderEpoch, TopicId, TopicName};

    use super::*;
    use crate::metadata::PartitionMetadata;

    fn queues(partitions: u32) -> TopicQueues {
        let partition = |id| PartitionMetadata {
            id: PartitionId::new(id),
            leader: Some(BrokerId::new(1)),
            leader_epoch: LeaderEpoch::FIRST,
            replicas: vec![],
            isr: vec![],
            elr: vec![],
        };
        let topic = Arc::new(TopicMetadata {
            id: TopicId::from_u128(1),
            name: TopicName::new("t").unwrap(),
            partitions: (0..partitions).map(partition).collect(),
            configs: BTreeMap::new(),
        });
        let mut queues = TopicQueues::new(Arc::clone(&topic));
        queues.reshape(&topic, &ProducerConfig { batch_bytes: 1000, ..Default::default() });
        queues.queues.iter_mut().for_each(|queue| queue.leader = Some(BrokerId::new(1)));
        queues
    }

    fn places(queues: &mut TopicQueues, how: &Partitioning, record: &ProducerRecord, times: usize) -> Vec<u32> {
        let entropy = SeededEntropy::new(7);
        let mut one = || {
            let partition = queues.place(record, how, &entropy);
            queues.placed(partition, 100);
            partition.get()
        };
        (0..times).map(|_| one()).collect()
    }

    #[test]
    fn keys_go_where_kafkas_default_puts_them_and_an_explicit_partition_wins() {
        let how = Partitioning::KeyOrSticky;
        let keyed = ProducerRecord::new("t").key("foobar");
        let expected = partition_for_key(b"foobar", 6).get();
        assert_eq!(places(&mut queues(6), &how, &keyed, 2), [expected, expected]);
        assert_eq!(places(&mut queues(6), &how, &keyed.partition(4), 1), [4]);
    }

    #[test]
    fn keyless_records_stay_with_a_partition_for_a_batch_then_move_on() {
        let found = places(&mut queues(50), &Partitioning::KeyOrSticky, &ProducerRecord::new("t"), 30);
        for run in found.chunks(10) {
            assert!(run.iter().all(|partition| *partition == run[0]), "{found:?}");
        }
        assert!(found[0] != found[10] || found[10] != found[20]);
    }

    #[test]
    fn keyless_records_avoid_partitions_without_a_leader() {
        let mut queues = queues(2);
        queues.queues[0].leader = None;
        let found = places(&mut queues, &Partitioning::KeyOrSticky, &ProducerRecord::new("t"), 50);
        assert!(found.iter().all(|partition| *partition == 1));
    }

    #[test]
    fn round_robin_takes_turns_and_a_custom_one_decides_alone() {
        let record = ProducerRecord::new("t").key("k");
        assert_eq!(places(&mut queues(3), &Partitioning::RoundRobin, &record, 5), [0, 1, 2, 0, 1]);
        let last = |placement: &Placement<'_>| PartitionId::new(placement.partitions - 1);
        assert_eq!(places(&mut queues(3), &Partitioning::Custom(Arc::new(last)), &record, 2), [2, 2]);
    }
}
