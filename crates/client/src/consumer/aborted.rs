//! Which batches of an answer belong to aborted transactions (KIP-98), for readers of committed records only.
//!
//! The broker names the transactions aborted among the records of an answer, by producer and first offset. Such a
//! producer's transactional batches are dropped from there up to its next control batch, which ends that transaction.

use std::collections::{BTreeSet, VecDeque};

use highwater_protocol::v1;
use highwater_record::BatchHeader;
use highwater_types::{Offset, ProducerId};

#[derive(Debug, Default)]
pub(crate) struct Aborted {
    /// Not begun yet, by first offset.
    ahead: VecDeque<(Offset, ProducerId)>,
    open: BTreeSet<ProducerId>,
}

impl Aborted {
    /// Of one answer.
    pub fn new(named: &[v1::AbortedTransaction]) -> Self {
        let one =
            |named: &v1::AbortedTransaction| (Offset::new(named.first_offset), ProducerId::new(named.producer_id));
        let mut ahead: Vec<_> = named.iter().map(one).collect();
        ahead.sort_unstable();
        Self { ahead: ahead.into(), open: BTreeSet::new() }
    }

    /// Whether the records of the next batch of the answer are not to be seen.
    pub fn hides(&mut self, batch: &BatchHeader) -> bool {
        while let Some((_, producer)) = self.ahead.pop_front_if(|(first, _)| *first <= batch.last_offset()) {
            self.open.insert(producer);
        }
        if batch.attributes.is_control() {
            self.open.remove(&batch.producer_id);
            return true;
        }
        batch.attributes.is_transactional() && self.open.contains(&batch.producer_id)
    }
}
