//! The waiters of `acks=all` of one partition, in order of the offset that they wait for.

use std::collections::VecDeque;

use highwater_types::Offset;

/// What became of an append that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckOutcome {
    /// On every in-sync replica, and there were enough of them.
    Committed,
    /// In the high watermark, but the in-sync replicas fell below `min.insync.replicas` meanwhile: may be lost with the
    /// few that have it (T15).
    TooFewReplicas,
    /// This replica leads no more: the next leader may or may not have it.
    LeadershipLost,
}

/// Waiters by offset. Appends come in offset order, so the queue is sorted by construction.
#[derive(Debug, Clone)]
pub struct AckQueue<W> {
    waiting: VecDeque<(Offset, W)>,
}

impl<W> Default for AckQueue<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

impl<W> AckQueue<W> {
    pub fn new() -> Self {
        Self::default()
    }

    /// `waiter` waits until the high watermark is `end`, the offset after its last record.
    pub fn push(&mut self, end: Offset, waiter: W) {
        debug_assert!(self.waiting.back().is_none_or(|(last, _)| *last <= end), "appends come in offset order");
        self.waiting.push_back((end, waiter));
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes out everybody whose records are below `high_watermark`.
    pub fn complete(&mut self, high_watermark: Offset, has_min_isr: bool) -> Vec<(W, AckOutcome)> {
        let outcome = if has_min_isr { AckOutcome::Committed } else { AckOutcome::TooFewReplicas };
        let ready = self.waiting.partition_point(|(end, _)| *end <= high_watermark);
        self.waiting.drain(..ready).map(|(_, waiter)| (waiter, outcome)).collect()
    }

    /// Takes out everybody: the replica leads no more. What was committed before is not unknown.
    pub fn lose_leadership(&mut self, high_watermark: Offset) -> Vec<(W, AckOutcome)> {
        let committed = |end: Offset| end <= high_watermark;
        self.waiting
            .drain(..)
            .map(|(end, waiter)| {
                (waiter, if committed(end) { AckOutcome::Committed } else { AckOutcome::LeadershipLost })
            })
            .collect()
    }

    /// Drops the waiters that `is_gone` says nobody listens to.
    pub fn forget(&mut self, mut is_gone: impl FnMut(&W) -> bool) {
        self.waiting.retain(|(_, waiter)| !is_gone(waiter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_complete_in_order_and_only_below_the_high_watermark() {
        let mut queue = AckQueue::new();
        for (end, name) in [(3, "a"), (5, "b"), (9, "c")] {
            queue.push(Offset::new(end), name);
        }
        assert_eq!(queue.complete(Offset::new(5), true), [("a", AckOutcome::Committed), ("b", AckOutcome::Committed)]);
        assert!(queue.complete(Offset::new(8), true).is_empty());
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn t15_min_insync_is_checked_again_at_completion() {
        let mut queue = AckQueue::new();
        queue.push(Offset::new(3), ());
        assert_eq!(queue.complete(Offset::new(3), false), [((), AckOutcome::TooFewReplicas)]);
    }

    #[test]
    fn losing_leadership_makes_the_outcome_unknown() {
        let mut queue = AckQueue::new();
        queue.push(Offset::new(3), 1);
        queue.push(Offset::new(6), 2);
        assert_eq!(
            queue.lose_leadership(Offset::new(3)),
            [(1, AckOutcome::Committed), (2, AckOutcome::LeadershipLost)]
        );
        assert!(queue.is_empty());
    }
}
