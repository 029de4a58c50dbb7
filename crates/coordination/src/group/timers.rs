//! When something happens to a group by itself: what does not outlive the coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_types::{GroupId, MemberId};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The member was not heard of.
    Session(MemberId),
    /// It did not give up what it should (KIP-848).
    Rebalance(MemberId),
    /// A classic member was not heard of.
    ClassicSession(MemberId),
    /// One that was given an id did not join with it.
    Pending(MemberId),
    /// A classic group has waited for long enough for its members to join.
    Join,
    /// And for them to ask for their assignments.
    Sync,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    at: BTreeMap<(GroupId, Timer), Duration>,
    by_time: BTreeSet<(Duration, GroupId, Timer)>,
}

impl Timers {
    pub(super) fn set(&mut self, group: &GroupId, timer: Timer, at: Option<Duration>) {
        let key = (group.clone(), timer);
        if let Some(before) = self.at.remove(&key) {
            self.by_time.remove(&(before, key.0.clone(), key.1.clone()));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key.0.clone(), key.1.clone()));
            self.at.insert(key, at);
        }
    }

    pub(super) fn is_set(&self, group: &GroupId, timer: Timer) -> bool {
        self.at.contains_key(&(group.clone(), timer))
    }

    /// All of a member.
    pub(super) fn clear(&mut self, group: &GroupId, member: &MemberId) {
        let of = [Timer::Session, Timer::Rebalance, Timer::ClassicSession, Timer::Pending];
        of.into_iter().for_each(|timer| self.set(group, timer(member.clone()), None));
    }

    /// How many ids were given that nobody has joined with.
    pub(super) fn pending(&self, group: &GroupId) -> usize {
        // They come right before that of all who join.
        let before = self.at.range(..(group.clone(), Timer::Join)).rev();
        before.take_while(|((of, timer), _)| of == group && matches!(timer, Timer::Pending(_))).count()
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.by_time.first().map(|(at, ..)| *at)
    }

    /// The first that is due, in the order of time.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<(GroupId, Timer)> {
        self.by_time.first().filter(|(at, ..)| *at <= now)?;
        let (_, group, timer) = self.by_time.pop_first()?;
        self.at.remove(&(group.clone(), timer.clone()));
        Some((group, timer))
    }
}
