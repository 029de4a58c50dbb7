//! Who is to be woken once a partition's lock is free.

use std::sync::{Arc, Weak};

use highwater_replication::AckOutcome;

use super::append::ToAppend;
use super::{FetchWaiter, News, Partition, Subscription};
use crate::produce::{AckWaiter, ProduceResult};

/// Collected under the lock, run after it: a woken task finds the lock free.
#[derive(Default)]
pub(super) struct Wakes {
    acks: Vec<(AckWaiter, AckOutcome)>,
    answers: Vec<(ToAppend, ProduceResult)>,
    fetches: Vec<Weak<FetchWaiter>>,
    subscriptions: Vec<(Arc<Subscription>, News)>,
    flush: bool,
    unusable: bool,
}

impl Wakes {
    pub(super) fn acknowledged(&mut self, completed: impl Iterator<Item = (AckWaiter, AckOutcome)>) {
        self.acks.extend(completed);
    }

    pub(super) fn answer(&mut self, to: ToAppend, result: ProduceResult) {
        self.answers.push((to, result));
    }

    pub(super) fn fetches(&mut self, waiters: Vec<Weak<FetchWaiter>>) {
        if self.fetches.is_empty() {
            self.fetches = waiters;
        } else {
            self.fetches.extend(waiters);
        }
    }

    pub(super) fn news(&mut self, subscriptions: &[Arc<Subscription>], news: News) {
        for subscription in subscriptions {
            match self.subscriptions.iter_mut().find(|(one, _)| Arc::ptr_eq(one, subscription)) {
                Some((_, all)) => *all = all.and(news),
                None => self.subscriptions.push((Arc::clone(subscription), news)),
            }
        }
    }

    /// What was written is to be synced.
    pub(super) fn flush(&mut self) {
        self.flush = true;
    }

    /// What the broker can't serve has changed.
    pub(super) fn unusable(&mut self) {
        self.unusable = true;
    }

    pub(super) fn run(self, partition: &Partition) {
        if self.flush {
            partition.request_flush();
        }
        for (subscription, news) in &self.subscriptions {
            subscription.mark(*news);
        }
        for (to, result) in self.answers {
            to.complete(result);
        }
        for (waiter, outcome) in self.acks {
            waiter.complete(outcome);
        }
        for waiter in self.fetches {
            if let Some(waiter) = waiter.upgrade() {
                waiter.fire();
            }
        }
        if self.unusable {
            partition.env.unusable.notify_one();
        }
    }
}
