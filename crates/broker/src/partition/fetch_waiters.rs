//! The purgatory of consumers' fetch requests: who wants to look again when there is something new to read.
//!
//! **Invariant**: a waiter fires at most once; a request that goes on waiting registers a new one. What is gone by itself
//! (answered, timed out, disconnected) is swept out as others come, so idle partitions hold no garbage for long.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::mpsc;

/// One look of one request that found too little.
pub struct FetchWaiter {
    token: u64,
    fired: AtomicBool,
    ready: mpsc::UnboundedSender<u64>,
}

impl FetchWaiter {
    /// Sends `token` to `ready` when it fires.
    pub fn new(token: u64, ready: mpsc::UnboundedSender<u64>) -> Arc<Self> {
        Arc::new(Self { token, fired: AtomicBool::new(false), ready })
    }

    pub(crate) fn fire(&self) {
        if !self.fired.swap(true, Ordering::AcqRel) {
            // A session that is gone waits for nothing.
            let _ = self.ready.send(self.token);
        }
    }
}

/// Below this many nothing is swept.
const SWEEP_MIN: usize = 16;

/// The waiters of one partition.
#[derive(Default)]
pub(super) struct FetchWaiters {
    waiters: Vec<Weak<FetchWaiter>>,
    sweep_at: usize,
}

impl FetchWaiters {
    pub(super) fn register(&mut self, waiter: &Arc<FetchWaiter>) {
        if self.waiters.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.waiters.retain(|waiter| waiter.strong_count() > 0);
            self.sweep_at = self.waiters.len() * 2;
        }
        self.waiters.push(Arc::downgrade(waiter));
    }

    /// All of them, to be fired outside the partition's lock.
    pub(super) fn take(&mut self) -> Vec<Weak<FetchWaiter>> {
        self.sweep_at = 0;
        std::mem::take(&mut self.waiters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_that_are_gone_do_not_pile_up_in_an_idle_partition() {
        let (ready, _fired) = mpsc::unbounded_channel();
        let mut waiters = FetchWaiters::default();
        let lasting = FetchWaiter::new(0, ready.clone());
        waiters.register(&lasting);
        for token in 1..10_000 {
            waiters.register(&FetchWaiter::new(token, ready.clone()));
            assert!(waiters.waiters.len() <= SWEEP_MIN + 1);
        }
        assert!(waiters.take().iter().any(|waiter| waiter.strong_count() > 0));
    }

    #[test]
    fn a_waiter_fires_once() {
        let (ready, mut fired) = mpsc::unbounded_channel();
        let waiter = FetchWaiter::new(7, ready);
        waiter.fire();
        waiter.fire();
        assert_eq!(fired.try_recv(), Ok(7));
        assert!(fired.try_recv().is_err());
    }
}
