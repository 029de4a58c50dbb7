//! How a partition tells those who follow it that something is new: it marks itself in their set of dirty partitions,
//! and wakes them once. Whoever follows looks at the partition itself for what is new.
//!
//! **Invariant**: a change after [`DirtySet::take`] returned marks anew, so nothing is missed; a partition is in a set at most
//! once, so a set is never larger than what it follows.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_types::TopicPartition;
use tokio::sync::Notify;

/// What may be new in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    bits: u8,
}

impl News {
    /// The end of the log moved: there are records to take (leader), or to be acknowledged (follower).
    pub const LOG_END: Self = Self { bits: 1 };
    /// High watermark or log start moved.
    pub const POSITIONS: Self = Self { bits: 2 };
    /// The end of what is on disk moved.
    pub const DURABLE: Self = Self { bits: 4 };
    /// Leader, leader epoch, role, or whether the storage can be used.
    pub const ROLE: Self = Self { bits: 8 };

    pub const fn has(self, other: Self) -> bool {
        self.bits & other.bits != 0
    }
    pub(crate) const fn and(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits }
    }
    pub(crate) const fn is_empty(self) -> bool {
        self.bits == 0
    }
}

/// The dirty partitions of one follower of partitions (a fetch session, a fetcher).
#[derive(Default)]
pub struct DirtySet {
    partitions: Mutex<Vec<Arc<Subscription>>>,
    notify: Notify,
}

/// One partition's entry in one [`DirtySet`].
pub struct Subscription {
    partition: TopicPartition,
    set: Arc<DirtySet>,
    /// News not yet taken.
    news: AtomicU8,
    /// Which news it wants.
    wants: News,
}

impl DirtySet {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// To be given to [`super::Partition::subscribe`].
    pub fn subscription(self: &Arc<Self>, partition: TopicPartition, wants: &[News]) -> Arc<Subscription> {
        let wants = wants.iter().fold(News::default(), |all, one| all.and(*one));
        Arc::new(Subscription { partition, set: Arc::clone(self), news: AtomicU8::new(0), wants })
    }

    /// The dirty partitions, with what is new in each; clean from here on. To be called before looking at them.
    pub fn take(&self) -> Vec<(TopicPartition, News)> {
        let taken = std::mem::take(&mut *self.partitions.lock().unwrap_or_else(PoisonError::into_inner));
        let take = |entry: Arc<Subscription>| (entry.partition, News { bits: entry.news.swap(0, Ordering::AcqRel) });
        taken.into_iter().map(take).collect()
    }

    /// Resolves when there may be something to take. One waiter at a time; can be dropped and called again.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Wakes the waiter without news, as for something else that it looks at.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

impl Subscription {
    /// Marks the partition as dirty, as the partition itself does: for a session's first look at it.
    pub fn mark(self: &Arc<Self>, news: News) {
        let news = News { bits: news.bits & self.wants.bits };
        if !news.is_empty() && self.news.fetch_or(news.bits, Ordering::AcqRel) == 0 {
            self.set.partitions.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(self));
            self.set.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_types::{PartitionId, TopicId};

    use super::*;

    fn tp() -> TopicPartition {
        TopicPartition::new(TopicId::from_u128(1), PartitionId::new(0))
    }

    #[tokio::test]
    async fn many_changes_are_one_entry_with_all_news_and_one_wake_up() {
        let set = DirtySet::new();
        let entry = set.subscription(tp(), &[News::LOG_END, News::POSITIONS]);
        entry.mark(News::LOG_END);
        entry.mark(News::LOG_END);
        entry.mark(News::POSITIONS);
        set.changed().await;
        let taken = set.take();
        assert_eq!(taken, [(tp(), News::LOG_END.and(News::POSITIONS))]);
        assert!(set.take().is_empty());
        entry.mark(News::POSITIONS);
        assert_eq!(set.take(), [(tp(), News::POSITIONS)], "a change after the take marks anew");
    }

    #[test]
    fn unwanted_news_mark_nothing() {
        let set = DirtySet::new();
        let entry = set.subscription(tp(), &[News::DURABLE]);
        entry.mark(News::LOG_END);
        assert!(set.take().is_empty());
    }
}
