//! Traffic by topic.
//!
//! **Invariant**: the number of topics with counters of their own is bounded; those beyond share one, named
//! [`Topics::OTHERS`], so that a cluster with many topics does not drown who scrapes it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use highwater_metrics::Counter;
use highwater_record::BatchHeader;
use highwater_types::TopicId;

const TOPICS_MAX: usize = 500;

/// Of one topic, over its partitions on this broker.
#[derive(Debug, Default)]
pub(crate) struct TopicCounters {
    pub bytes_in: Counter,
    pub records_in: Counter,
    pub bytes_out: Counter,
    pub records_out: Counter,
    /// Offsets.
    pub committed: Counter,
}

impl TopicCounters {
    pub fn appended(&self, bytes: u64, records: u64) {
        self.bytes_in.add(bytes);
        self.records_in.add(records);
    }

    /// Whole batches went to a consumer.
    pub fn sent(&self, pieces: &[Bytes]) {
        self.bytes_out.add(pieces.iter().map(|piece| piece.len() as u64).sum());
        self.records_out.add(pieces.iter().map(|piece| records_in(piece)).sum());
    }
}

/// By the headers of its batches.
fn records_in(mut piece: &[u8]) -> u64 {
    let mut records = 0;
    while let Ok(header) = BatchHeader::parse(piece) {
        records += u64::try_from(header.record_count).unwrap_or(0);
        let Some(rest) = piece.get(header.total_len()..) else { break };
        piece = rest;
    }
    records
}

/// See the module.
#[derive(Default)]
pub(crate) struct Topics {
    own: Mutex<BTreeMap<TopicId, Arc<TopicCounters>>>,
    others: Arc<TopicCounters>,
}

impl Topics {
    pub const OTHERS: &str = "(others)";

    /// To be kept by each partition: a look-up takes a lock.
    pub fn of(&self, topic: TopicId) -> Arc<TopicCounters> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= TOPICS_MAX && !own.contains_key(&topic) {
            return Arc::clone(&self.others);
        }
        Arc::clone(own.entry(topic).or_default())
    }

    /// Forgets the topics that are not `known` and that no partition uses any more.
    pub(super) fn all(&self, known: impl Fn(TopicId) -> bool) -> (Vec<(TopicId, Arc<TopicCounters>)>, &TopicCounters) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.retain(|topic, counters| known(*topic) || Arc::strong_count(counters) > 1);
        (own.iter().map(|(topic, counters)| (*topic, Arc::clone(counters))).collect(), &self.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::harness::batch;

    #[test]
    fn topics_beyond_the_bound_share_counters_and_forgotten_ones_make_room() {
        let topics = Topics::default();
        let id = |n: usize| TopicId::from_u128(n as u128 + 1);
        let kept: Vec<_> = (0..TOPICS_MAX).map(|n| topics.of(id(n))).collect();
        topics.of(id(TOPICS_MAX)).bytes_in.add(7);
        assert_eq!(topics.others.bytes_in.get(), 7);
        assert!(Arc::ptr_eq(&topics.of(id(0)), &kept[0]));
        drop(kept);
        assert_eq!(topics.all(|topic| topic == id(3)).0.len(), 1);
        topics.of(id(TOPICS_MAX)).bytes_in.inc();
        assert_eq!(topics.others.bytes_in.get(), 7);
    }

    #[test]
    fn records_are_counted_by_batch_headers_also_of_several_batches_in_one_piece() {
        let two = [batch(&["a", "b"]), batch(&["c"])].concat();
        let counters = TopicCounters::default();
        counters.sent(&[Bytes::from(two.clone()), batch(&["d"])]);
        assert_eq!(counters.records_out.get(), 4);
        assert_eq!(counters.bytes_out.get() as usize, two.len() + batch(&["d"]).len());
    }
}
