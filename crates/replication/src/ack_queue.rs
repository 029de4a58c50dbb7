//! The purgatory of produce requests with `acks=all`: who waits for which offset.
//!
//! A waiter sits here by the offset that the high watermark must reach, not on a task or timer of its own. Offsets are
//! appended in order, so the queue is sorted and completing it costs only what completes.

use std::collections::VecDeque;
use std::time::Duration;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{ErrorCode, Offset};

/// How a wait ended. Anything but `Committed` leaves the outcome unknown: the records are in the leader's log and may
/// yet commit (TRAPS T15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckOutcome {
    Committed,
    /// Reached, but with too few replicas in sync at that moment.
    NotEnoughReplicas,
    TimedOut,
    /// This broker stopped leading the partition in the epoch of the append.
    LeadershipLost,
}

impl AckOutcome {
    /// `None` for success.
    pub fn error(self) -> Option<ErrorCode> {
        match self {
            Self::Committed => None,
            Self::NotEnoughReplicas => Some(ErrorCode::NotEnoughReplicasAfterAppend),
            Self::TimedOut => Some(ErrorCode::RequestTimedOut),
            Self::LeadershipLost if mutation::is_on(Mutation::RefusalWhenDeposed) => Some(ErrorCode::NotLeader),
            // NotLeader would claim that nothing was written.
            Self::LeadershipLost => Some(ErrorCode::Unavailable),
        }
    }
}

#[derive(Debug)]
struct Entry<W> {
    offset: Offset,
    deadline: Duration,
    waiter: W,
}

/// Waiters by offset. Belongs to one leader epoch: [`AckQueue::fail_all`] when it ends.
#[derive(Debug)]
pub struct AckQueue<W> {
    entries: VecDeque<Entry<W>>,
    /// No deadline is earlier; may be too early by waiters that are gone.
    earliest_deadline: Duration,
}

impl<W> Default for AckQueue<W> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), earliest_deadline: Duration::MAX }
    }
}

impl<W> AckQueue<W> {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Waits until the high watermark is at least `offset` (the end of what was appended), until `deadline`.
    pub fn insert(&mut self, offset: Offset, deadline: Duration, waiter: W) {
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        let entry = Entry { offset, deadline, waiter };
        // Almost always at the back: appends come in order of offset.
        let at = self.entries.iter().rposition(|e| e.offset <= offset).map_or(0, |i| i + 1);
        self.entries.insert(at, entry);
    }

    /// Those whose offset the high watermark has reached.
    pub fn complete(&mut self, high_watermark: Offset, has_min_isr: bool) -> impl Iterator<Item = (W, AckOutcome)> {
        let reached = self.entries.partition_point(|e| e.offset <= high_watermark);
        let outcome = if has_min_isr { AckOutcome::Committed } else { AckOutcome::NotEnoughReplicas };
        self.entries.drain(..reached).map(move |e| (e.waiter, outcome))
    }

    /// Those whose deadline has come: [`AckOutcome::TimedOut`].
    pub fn expire(&mut self, now: Duration) -> Vec<W> {
        if now < self.earliest_deadline {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut earliest = Duration::MAX;
        let mut kept = VecDeque::with_capacity(self.entries.len());
        for entry in self.entries.drain(..) {
            if entry.deadline <= now {
                expired.push(entry.waiter);
            } else {
                earliest = earliest.min(entry.deadline);
                kept.push_back(entry);
            }
        }
        self.entries = kept;
        self.earliest_deadline = earliest;
        expired
    }

    /// When [`AckQueue::expire`] is next worth a call.
    pub fn next_deadline(&self) -> Option<Duration> {
        (!self.entries.is_empty()).then_some(self.earliest_deadline)
    }

    /// Everybody, as the epoch ends: [`AckOutcome::LeadershipLost`].
    pub fn fail_all(&mut self) -> Vec<W> {
        self.earliest_deadline = Duration::MAX;
        self.entries.drain(..).map(|e| e.waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_types::Outcome;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn queue() -> AckQueue<&'static str> {
        let mut queue = AckQueue::new();
        queue.insert(Offset::new(5), at(30), "a");
        queue.insert(Offset::new(9), at(10), "b");
        queue.insert(Offset::new(9), at(30), "c");
        queue
    }

    #[test]
    fn completes_exactly_what_the_high_watermark_reached() {
        let mut queue = queue();
        assert_eq!(queue.complete(Offset::new(4), true).count(), 0);
        assert_eq!(queue.complete(Offset::new(5), true).collect::<Vec<_>>(), [("a", AckOutcome::Committed)]);
        assert_eq!(queue.complete(Offset::new(100), true).map(|(w, _)| w).collect::<Vec<_>>(), ["b", "c"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_waiter_for_an_earlier_offset_that_comes_late_is_not_hidden_behind_later_ones() {
        let mut queue = queue();
        queue.insert(Offset::new(6), at(30), "late");
        assert_eq!(queue.complete(Offset::new(6), true).map(|(w, _)| w).collect::<Vec<_>>(), ["a", "late"]);
    }

    #[test]
    fn t15_too_few_replicas_at_completion_is_no_success_and_leaves_the_outcome_unknown() {
        let mut queue = queue();
        let done: Vec<_> = queue.complete(Offset::new(5), false).collect();
        assert_eq!(done, [("a", AckOutcome::NotEnoughReplicas)]);
        for outcome in [AckOutcome::NotEnoughReplicas, AckOutcome::TimedOut, AckOutcome::LeadershipLost] {
            let code = outcome.error().unwrap();
            assert_eq!(code.outcome(), Outcome::Unknown, "{code:?}");
        }
    }

    #[test]
    fn expires_by_deadline_whatever_the_order_of_offsets() {
        let mut queue = queue();
        assert_eq!(queue.next_deadline(), Some(at(10)));
        assert!(queue.expire(at(9)).is_empty());
        assert_eq!(queue.expire(at(10)), ["b"]);
        assert_eq!(queue.next_deadline(), Some(at(30)));
        assert_eq!(queue.expire(at(30)), ["a", "c"]);
        assert_eq!(queue.next_deadline(), None);
    }

    #[test]
    fn t25_loss_of_leadership_ends_every_wait() {
        let mut queue = queue();
        assert_eq!(queue.fail_all(), ["a", "b", "c"]);
        assert!(queue.is_empty());
    }
}
