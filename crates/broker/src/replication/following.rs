//! What a fetcher knows of each partition that it fetches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_replication::Asked;
use highwater_types::TopicPartition;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::partition::{DirtySet, News, Partition, Subscription};

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_millis(500);

pub(super) struct Following {
    pub partition: Arc<Partition>,
    subscription: Arc<Subscription>,
    /// The open fetch: what answers anything else is of the past.
    pub asked: Option<Asked>,
    pub backoff: Backoff,
    /// The disk had no space for what came last; the leader is told, so that it does not wait.
    pub disk_full: bool,
    retry_at: Option<Instant>,
}

/// All partitions that are fetched from one leader.
pub(super) struct Followed {
    partitions: BTreeMap<TopicPartition, Following>,
    /// To ask for records.
    pub want: BTreeSet<TopicPartition>,
    /// To acknowledge what has come to disk.
    pub acknowledge: BTreeSet<TopicPartition>,
    pub forgotten: BTreeSet<TopicPartition>,
    retries: BTreeSet<(Instant, TopicPartition)>,
    pub dirty: Arc<DirtySet>,
}

impl Followed {
    pub(super) fn new() -> Self {
        Self {
            partitions: BTreeMap::new(),
            want: BTreeSet::new(),
            acknowledge: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            retries: BTreeSet::new(),
            dirty: DirtySet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
    pub(super) fn get(&mut self, tp: TopicPartition) -> Option<&mut Following> {
        self.partitions.get_mut(&tp)
    }

    /// Also when it was followed before: the leader epoch is another.
    pub(super) fn add(&mut self, partition: Arc<Partition>) {
        let tp = partition.tp();
        self.drop_one(tp);
        self.forgotten.remove(&tp);
        let subscription = self.dirty.subscription(tp, &[News::DURABLE]);
        partition.subscribe(Arc::clone(&subscription));
        let backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let (asked, retry_at) = (None, None);
        self.partitions.insert(tp, Following { partition, subscription, asked, backoff, disk_full: false, retry_at });
        self.want.insert(tp);
    }

    pub(super) fn remove(&mut self, tp: TopicPartition) {
        if self.drop_one(tp) {
            self.forgotten.insert(tp);
        }
    }

    fn drop_one(&mut self, tp: TopicPartition) -> bool {
        let Some(following) = self.partitions.remove(&tp) else { return false };
        following.partition.unsubscribe(&following.subscription);
        if let Some(at) = following.retry_at {
            self.retries.remove(&(at, tp));
        }
        self.want.remove(&tp);
        self.acknowledge.remove(&tp);
        true
    }

    /// Takes note of what has come to disk.
    pub(super) fn take_news(&mut self) {
        for (tp, _) in self.dirty.take() {
            if self.partitions.contains_key(&tp) {
                self.acknowledge.insert(tp);
            }
        }
    }

    pub(super) fn retry_after(&mut self, tp: TopicPartition, pause: Duration) {
        let Some(following) = self.partitions.get_mut(&tp) else { return };
        let at = Instant::now() + pause;
        if let Some(before) = following.retry_at.replace(at) {
            self.retries.remove(&(before, tp));
        }
        self.retries.insert((at, tp));
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self) {
        let now = Instant::now();
        while let Some((_, tp)) = self.retries.first().copied().filter(|(at, _)| *at <= now) {
            self.retries.pop_first();
            if let Some(following) = self.partitions.get_mut(&tp) {
                following.retry_at = None;
                self.want.insert(tp);
            }
        }
    }

    /// A new session knows nothing: everything is asked for.
    pub(super) fn start_over(&mut self) {
        self.retries.clear();
        self.acknowledge.clear();
        self.forgotten.clear();
        for (tp, following) in &mut self.partitions {
            following.asked = None;
            following.retry_at = None;
            self.want.insert(*tp);
        }
    }

    pub(super) fn has_request(&self) -> bool {
        !self.want.is_empty() || !self.acknowledge.is_empty() || !self.forgotten.is_empty()
    }
}
