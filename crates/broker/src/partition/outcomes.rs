//! What becomes of appends that wait for an acknowledgement when this broker stops leading.
//!
//! Their records are still in this log. As long as nothing of it is cut, a high watermark beyond them means that they are
//! committed, whoever leads and says so: then the client hears of a success, and need not write them twice. If that is not known
//! soon, the client is told that the outcome is unknown.
//!
//! **Invariant**: an outcome is `Committed` only if the records were never cut from this log and lie below a high watermark that
//! was taken from a leader whose log this one is a prefix of, or found as leader.

use std::time::Duration;

use highwater_replication::AckOutcome;
use highwater_types::LeaderEpoch;
use highwater_types::mutation::{self, Mutation};

use super::{Partition, Role, State, Wakes};

/// For the next leader to commit what this one has appended. Clients wait meanwhile.
const OUTCOME_WAIT: Duration = Duration::from_secs(2);

impl State {
    /// This broker does not lead any more, or in another epoch. What is looked for by others than producers ends at once.
    pub(super) fn leave_waiters_behind(&mut self, partition: &Partition, wakes: &mut Wakes) {
        self.give_up_verifications(partition, wakes);
        wakes.fetches(self.fetching.take());
        self.deleting.clear();
        // That it is on this disk says nothing any more.
        let synced = self.syncing.fail_all();
        wakes.acknowledged(synced.into_iter().map(|waiter| (waiter, AckOutcome::LeadershipLost)));
        if mutation::is_on(Mutation::SuccessWhenDeposed) || mutation::is_on(Mutation::RefusalWhenDeposed) {
            return self.give_up_waiters(wakes);
        }
        if !self.committing.is_empty() && self.outcome_by.is_none() {
            self.outcome_by = Some(partition.env.clock.now() + OUTCOME_WAIT);
        }
    }

    /// Records were cut from the log, or nothing will be heard of them here any more.
    pub(super) fn give_up_waiters(&mut self, wakes: &mut Wakes) {
        self.outcome_by = None;
        let waiting = self.committing.fail_all().into_iter().chain(self.syncing.fail_all());
        wakes.acknowledged(waiting.map(|waiter| (waiter, AckOutcome::LeadershipLost)));
        wakes.fetches(self.fetching.take());
        self.deleting.clear();
    }

    /// Nothing of them is written: the next leader asks for itself.
    fn give_up_verifications(&mut self, partition: &Partition, wakes: &mut Wakes) {
        for to in self.verifying.give_up() {
            let error = self.not_leading(partition.env.me, LeaderEpoch::NONE);
            wakes.answer(to, Err(error));
        }
    }

    /// As a follower: of what was appended as leader before, and of what consumers wait for here.
    pub(super) fn heard_of_high_watermark(&mut self, high_watermark: highwater_types::Offset, wakes: &mut Wakes) {
        wakes.fetches(self.fetching.take());
        if !self.committing.is_empty() {
            wakes.acknowledged(self.committing.complete(high_watermark, true));
        }
    }

    /// Time has passed.
    pub(super) fn give_up_late_waiters(&mut self, now: Duration, wakes: &mut Wakes) {
        match (&self.role, self.outcome_by) {
            // Leading again, it finds out by itself.
            (Role::Leader(_), Some(_)) => self.outcome_by = None,
            (_, Some(by)) if now >= by => self.give_up_waiters(wakes),
            _ => {}
        }
    }
}

impl Partition {
    /// Whether producers wait here to hear what became of their records.
    pub(crate) fn has_open_outcomes(&self) -> bool {
        !self.lock().committing.is_empty()
    }
}
