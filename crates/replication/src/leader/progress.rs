//! What a leader knows of one follower.

use std::time::Duration;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerEpoch, BrokerId, Durability, Offset};

use super::LeaderConfig;
use crate::fetch::FollowerFetch;

/// A replica as its leader sees it, for describing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaProgress {
    pub broker: BrokerId,
    pub in_isr: bool,
    /// `None`: has not fetched in this leader epoch.
    pub log_end: Option<Offset>,
    pub durable: Option<Offset>,
    pub log_start: Offset,
    /// Time since it was last known to have all of the leader's log; `None`: never.
    pub behind_for: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    log_end: Offset,
    durable: Offset,
}

/// Lag is time, not records (TRAPS T22): the last moment at which the follower is known to have had all that the leader
/// had. Each entry could state it for the entry before; but with acknowledgements that come faster than a disk syncs, the
/// one before is always too recent. So one mark is kept until it is reached.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// The incarnation that the rest is about.
    broker_epoch: BrokerEpoch,
    acknowledged: Option<Acknowledged>,
    log_start: Offset,
    /// When it last acknowledged anything.
    heard_at: Duration,
    caught_up_at: Option<Duration>,
    /// Where the leader's log ended at some time after `caught_up_at`.
    mark: Option<(Offset, Duration)>,
    /// The stream that acknowledged is open, as far as is known: what it said holds, though it says nothing new.
    is_open: bool,
}

impl Progress {
    pub(super) const fn new(caught_up_at: Option<Duration>) -> Self {
        Self {
            broker_epoch: BrokerEpoch::NONE,
            acknowledged: None,
            log_start: Offset::ZERO,
            heard_at: Duration::ZERO,
            caught_up_at,
            mark: None,
            is_open: false,
        }
    }

    pub(super) const fn broker_epoch(&self) -> BrokerEpoch {
        self.broker_epoch
    }
    pub(super) const fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset below which the follower has, as durably as promised, what the leader has.
    pub(super) fn acknowledged(&self, durability: Durability) -> Option<Offset> {
        self.acknowledged.map(|a| match durability {
            Durability::Sync => a.durable,
            Durability::Replicated => a.log_end,
        })
    }

    /// A valid entry: epoch, incarnation and history are checked.
    pub(super) fn acknowledge(
        &mut self,
        fetch: &FollowerFetch,
        leader_end: Offset,
        durability: Durability,
        now: Duration,
    ) {
        if self.broker_epoch != fetch.broker_epoch {
            // What an earlier incarnation had, this one may have lost.
            if self.broker_epoch != BrokerEpoch::NONE && !mutation::is_on(Mutation::BrokerEpochNotChecked) {
                *self = Self::new(None);
            }
            self.broker_epoch = fetch.broker_epoch;
        }
        let durable = fetch.durable_offset.min(fetch.fetch_offset);
        self.acknowledged = Some(Acknowledged { log_end: fetch.fetch_offset, durable });
        self.log_start = fetch.log_start_offset;
        self.heard_at = now;
        self.is_open = true;
        self.note_caught_up(leader_end, durability, now);
    }

    /// The log grew from `before` to `end`: who had all until now was caught up until now.
    pub(super) fn on_leader_append(&mut self, before: Offset, end: Offset, durability: Durability, now: Duration) {
        if self.acknowledged(durability).is_some_and(|a| a >= before) && end > before {
            self.caught_up_at = self.caught_up_at.max(Some(now));
            self.mark = Some((end, now));
        }
    }

    /// Unless it has acknowledged something: for [`Mutation::TrustIsr`].
    pub(super) fn trust(&mut self, end: Offset) {
        self.acknowledged.get_or_insert(Acknowledged { log_end: end, durable: end });
    }

    /// It has said after `since`, in this leader epoch, that its log does not go beyond `offset`.
    pub(super) fn has_nothing_from(&self, offset: Offset, since: Duration) -> bool {
        self.heard_at > since && self.acknowledged.is_some_and(|a| a.log_end <= offset)
    }

    pub(super) fn forget_caught_up(&mut self) {
        self.caught_up_at = None;
        self.mark = None;
    }

    pub(super) fn start_as_caught_up(&mut self, now: Duration) {
        self.caught_up_at.get_or_insert(now);
    }

    pub(super) fn on_session_closed(&mut self) {
        self.is_open = false;
    }

    /// It has all that the leader has, and would have said so again if anything were new. Where nothing is written nothing else
    /// is ever heard of it.
    pub(super) fn has_all(&self, leader_end: Offset, durability: Durability) -> bool {
        self.is_open && self.acknowledged(durability).is_some_and(|a| a >= leader_end)
    }

    pub(super) fn is_caught_up(&self, leader_end: Offset, config: LeaderConfig, now: Duration) -> bool {
        let Some(at) = self.caught_up_at else { return false };
        self.acknowledged(config.durability).is_some_and(|a| a >= leader_end)
            || now.saturating_sub(at) <= config.lag_time_max
    }

    pub(super) fn report(&self, broker: BrokerId, in_isr: bool, leader_end: Offset, now: Duration) -> ReplicaProgress {
        let has_all = self.acknowledged.is_some_and(|a| a.log_end >= leader_end);
        let behind_for = self.caught_up_at.map(|at| now.saturating_sub(at));
        ReplicaProgress {
            broker,
            in_isr,
            log_end: self.acknowledged.map(|a| a.log_end),
            durable: self.acknowledged.map(|a| a.durable),
            log_start: self.log_start,
            behind_for: if has_all { Some(Duration::ZERO) } else { behind_for },
        }
    }

    fn note_caught_up(&mut self, leader_end: Offset, durability: Durability, now: Duration) {
        let Some(acknowledged) = self.acknowledged(durability) else { return };
        if acknowledged >= leader_end {
            self.caught_up_at = Some(now);
            self.mark = None;
            return;
        }
        match self.mark {
            Some((offset, at)) if acknowledged >= offset => {
                self.caught_up_at = self.caught_up_at.max(Some(at));
                self.mark = Some((leader_end, now));
            }
            Some(_) => {}
            None => self.mark = Some((leader_end, now)),
        }
    }
}
