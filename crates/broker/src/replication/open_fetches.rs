//! What a session knows of each partition: the follower's last entry, and how far its answer is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use highwater_replication::FollowerFetch;
use highwater_types::{Offset, TopicPartition};

use crate::partition::{DirtySet, News, Partition, Subscription};

/// How far the answer to an entry that asks for records is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Open {
    /// Answered, or never asked.
    No,
    /// The follower has all there is.
    Waiting,
    /// There are records; its turn comes.
    Ready,
    /// Its records are being read from a file.
    Reading,
}

pub(super) struct Entry {
    pub partition: Arc<Partition>,
    subscription: Arc<Subscription>,
    pub fetch: FollowerFetch,
    pub open: Open,
    /// The follower's log is known to be a prefix of this one. Only then may it hear of a high watermark: what it has below
    /// might not be committed (T4).
    pub matches: bool,
    /// High watermark and log start that the follower has been told.
    pub told: Option<(Offset, Offset)>,
}

/// All partitions of a session.
pub(super) struct OpenFetches {
    entries: BTreeMap<TopicPartition, Entry>,
    /// In the order of their turns; may hold some that are not ready any more.
    ready: VecDeque<TopicPartition>,
    pub dirty: Arc<DirtySet>,
}

impl OpenFetches {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), ready: VecDeque::new(), dirty: DirtySet::new() }
    }

    pub(super) fn get(&mut self, tp: TopicPartition) -> Option<&mut Entry> {
        self.entries.get_mut(&tp)
    }

    /// Notes the entry; `partition` is asked for when the session does not know it yet. From here on its news are heard, so
    /// that nothing that is new after a look at it is missed.
    pub(super) fn note<E>(
        &mut self,
        tp: TopicPartition,
        fetch: FollowerFetch,
        partition: impl FnOnce() -> Result<Arc<Partition>, E>,
    ) -> Result<&mut Entry, E> {
        use std::collections::btree_map::Entry as Slot;
        match self.entries.entry(tp) {
            Slot::Occupied(slot) => {
                let entry = slot.into_mut();
                if entry.fetch.leader_epoch != fetch.leader_epoch {
                    entry.told = None;
                    entry.matches = false;
                    entry.open = Open::No;
                }
                entry.fetch = fetch;
                Ok(entry)
            }
            Slot::Vacant(slot) => {
                let partition = partition()?;
                let subscription = self.dirty.subscription(tp, &[News::LOG_END, News::POSITIONS, News::ROLE]);
                partition.subscribe(Arc::clone(&subscription));
                Ok(slot.insert(Entry { partition, subscription, fetch, open: Open::No, matches: false, told: None }))
            }
        }
    }

    /// There are records for it: its turn comes.
    pub(super) fn make_ready(&mut self, tp: TopicPartition) {
        if let Some(entry) = self.entries.get_mut(&tp) {
            if entry.open != Open::Ready {
                self.ready.push_back(tp);
            }
            entry.open = Open::Ready;
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whose turn it is.
    pub(super) fn next_ready(&mut self) -> Option<TopicPartition> {
        while let Some(tp) = self.ready.pop_front() {
            if self.entries.get(&tp).is_some_and(|entry| entry.open == Open::Ready) {
                return Some(tp);
            }
        }
        None
    }

    /// It is still its turn, in the next answer.
    pub(super) fn put_back(&mut self, tp: TopicPartition) {
        self.ready.push_front(tp);
    }

    /// Whether a fetch was open.
    pub(super) fn forget(&mut self, tp: TopicPartition) -> bool {
        let Some(entry) = self.entries.remove(&tp) else { return false };
        entry.partition.unsubscribe(&entry.subscription);
        entry.open != Open::No
    }

    /// Ends all: the partitions that were in it.
    pub(super) fn close(&mut self) -> Vec<Arc<Partition>> {
        self.ready.clear();
        let entries = std::mem::take(&mut self.entries).into_values();
        entries
            .map(|entry| {
                entry.partition.unsubscribe(&entry.subscription);
                entry.partition
            })
            .collect()
    }
}
