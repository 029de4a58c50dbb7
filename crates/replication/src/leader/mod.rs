//! The leader of one partition in one leader epoch: acknowledgements in, high watermark and ISR proposals out.
//!
//! Made when the controller names this broker leader in a new epoch, after `epochs.assign(leader_epoch, log end)`; dropped when
//! the epoch ends.

mod config;
mod isr;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_record::EpochHistory;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, Offset, PartitionEpoch};

pub use config::LeaderConfig;
pub use isr::{IsrMember, Proposal, ProposalOutcome, isr_error_outcome};
pub use progress::ReplicaProgress;

use crate::error::FetchError;
use crate::fetch::{FetchOutcome, FollowerFetch, divergence};
use crate::view::{LogEnds, PartitionView};
use isr::ProposalSlot;
use progress::Progress;

/// Unfenced brokers that are not shutting down, each in its newest incarnation. One map for all partitions.
pub type AliveBrokers = Arc<BTreeMap<BrokerId, BrokerEpoch>>;

/// What the caller has to do after an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Effects {
    /// The high watermark moved here: wake waiters, tell followers.
    pub high_watermark: Option<Offset>,
    /// To the controller, and its answer to [`Leader::on_proposal_result`]. At most one is in flight.
    pub propose_isr: Option<Proposal>,
}

impl Effects {
    pub const fn is_empty(&self) -> bool {
        self.high_watermark.is_none() && self.propose_isr.is_none()
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Leader {
    me: BrokerId,
    view: PartitionView,
    config: LeaderConfig,
    log: LogEnds,
    high_watermark: Offset,
    /// Where this epoch's records begin.
    epoch_start: Offset,
    /// Every replica but this one.
    followers: BTreeMap<BrokerId, Progress>,
    alive: AliveBrokers,
    slot: ProposalSlot,
    now: Duration,
}

impl Leader {
    /// `high_watermark`: as this replica knew it before. `now` and all later times count from one start.
    pub fn new(
        me: BrokerId,
        view: &PartitionView,
        config: LeaderConfig,
        log: LogEnds,
        high_watermark: Offset,
        alive: &AliveBrokers,
        now: Duration,
    ) -> (Self, Effects) {
        let mut leader = Self {
            me,
            view: view.clone(),
            config,
            log,
            high_watermark: high_watermark.clamp(log.start, log.end),
            epoch_start: log.end,
            followers: BTreeMap::new(),
            alive: Arc::clone(alive),
            slot: ProposalSlot::default(),
            now,
        };
        leader.meet_replicas();
        let effects = leader.settle();
        (leader, effects)
    }

    /// Records were appended; the log ends at `end`.
    pub fn on_append(&mut self, end: Offset, now: Duration) -> Effects {
        self.advance_clock(now);
        let before = self.log.end;
        self.log.end = end;
        for progress in self.followers.values_mut() {
            progress.on_leader_append(before, end, self.config.durability, self.now);
        }
        self.advance_high_watermark()
    }

    /// The own log is on disk below `durable`.
    pub fn on_local_durable(&mut self, durable: Offset, now: Duration) -> Effects {
        self.advance_clock(now);
        self.log.durable = self.log.durable.max(durable.min(self.log.end));
        self.advance_high_watermark()
    }

    /// Retention or delete-records moved the start of the own log.
    pub fn on_log_start(&mut self, start: Offset) -> Effects {
        self.log.start = self.log.start.max(start);
        // Only what is committed is deleted, so this moves nothing but a high watermark that was stale (T5, T6).
        let before = self.high_watermark;
        self.high_watermark = before.max(self.log.start.min(self.log.end));
        Effects { high_watermark: (self.high_watermark > before).then_some(self.high_watermark), propose_isr: None }
    }

    /// A follower's fetch entry: whether it may have records from its fetch offset, and what its acknowledgement changes.
    pub fn on_fetch(
        &mut self,
        fetch: &FollowerFetch,
        now: Duration,
        epochs: &EpochHistory,
    ) -> Result<FetchOutcome, FetchError> {
        self.advance_clock(now);
        let (follower, asked, current) = (fetch.follower, fetch.leader_epoch, self.view.leader_epoch);
        if asked < current {
            return Err(FetchError::FencedLeaderEpoch { follower, asked, current });
        }
        if asked > current {
            return Err(FetchError::UnknownLeaderEpoch { follower, asked, current });
        }
        let Some(progress) = self.followers.get_mut(&follower) else {
            return Err(FetchError::NotReplica { follower });
        };
        // T8: an older incarnation's promises are void; a newer one's start from nothing.
        let newest = progress.broker_epoch().max(self.alive.get(&follower).copied().unwrap_or(BrokerEpoch::NONE));
        if fetch.broker_epoch < newest && !mutation::is_on(Mutation::BrokerEpochNotChecked) {
            return Err(FetchError::StaleBrokerEpoch { follower, asked: fetch.broker_epoch, current: newest });
        }
        if let Some(diverging) = divergence(fetch, epochs, self.log)? {
            return Ok(FetchOutcome { diverging: Some(diverging), effects: Effects::default() });
        }
        progress.acknowledge(fetch, self.log.end, self.config.durability, self.now);
        // A member of the ISR without all that is committed: its disk broke its word. It must not be elected.
        let broke_its_word = fetch.fetch_offset < self.high_watermark && self.view.isr.contains(&follower);
        // Nor does anybody wait out the lag of one that says itself that it can't go on: every write would wait with it.
        let cannot_go_on = fetch.disk_full && !progress.has_all(self.log.end, self.config.durability);
        let is_behind = broke_its_word || cannot_go_on;
        if is_behind {
            progress.forget_caught_up();
        }
        Ok(FetchOutcome { diverging: None, effects: self.settle_with(is_behind) })
    }

    /// The controller's newest decision in this leader epoch, with the configuration and the brokers of the same image:
    /// one call, so that an ISR never meets an older `min.insync.replicas` than it was decided with (TRAPS T16).
    /// What is not newer than known changes no ISR (T13); another leader epoch or leader needs another `Leader`.
    pub fn on_view(
        &mut self,
        view: &PartitionView,
        config: LeaderConfig,
        alive: &AliveBrokers,
        now: Duration,
    ) -> Effects {
        self.advance_clock(now);
        if view.leader_epoch == self.view.leader_epoch && view.partition_epoch > self.view.partition_epoch {
            self.slot.on_newer_view();
            // Whoever was taken out (fenced, behind, its disk unusable) has to show anew that it keeps up: until then nothing
            // waits for it to join again.
            for (_, left) in
                self.followers.iter_mut().filter(|(b, _)| self.view.isr.contains(b) && !view.isr.contains(b))
            {
                left.forget_caught_up();
            }
            // Whoever was taken in for having all there is may not be heard of for long: it has the whole time to show itself.
            for (_, joined) in
                self.followers.iter_mut().filter(|(b, _)| !self.view.isr.contains(b) && view.isr.contains(b))
            {
                joined.start_as_caught_up(self.now);
            }
            self.view = view.clone();
            self.meet_replicas();
        }
        if !Arc::ptr_eq(&self.alive, alive) && self.alive != *alive {
            self.alive = Arc::clone(alive);
            // Who could not join may now.
            self.slot.forget_backoff();
        }
        self.config = config;
        self.settle()
    }

    /// The controller's answer to the proposal made at partition epoch `proposed_at`, or that there was none.
    pub fn on_proposal_result(
        &mut self,
        proposed_at: PartitionEpoch,
        outcome: ProposalOutcome,
        now: Duration,
    ) -> Effects {
        self.advance_clock(now);
        self.slot.on_result(proposed_at, outcome, self.view.partition_epoch, &self.config, self.now);
        self.settle()
    }

    /// Looks for followers that are behind for too long, and whether a proposal is due again. Call it a few times per
    /// `lag_time_max`.
    pub fn tick(&mut self, now: Duration) -> Effects {
        self.advance_clock(now);
        self.settle()
    }

    /// The follower's stream broke. It keeps its place in the ISR for as long as its lag allows (it may come back, and the
    /// controller hears of a death by itself), but nothing waits any more for it to join.
    pub fn on_session_closed(&mut self, follower: BrokerId, now: Duration) -> Effects {
        self.advance_clock(now);
        if let Some(progress) = self.followers.get_mut(&follower) {
            progress.on_session_closed();
            if !self.view.isr.contains(&follower) {
                progress.forget_caught_up();
            }
        }
        self.advance_high_watermark()
    }

    pub const fn leader_epoch(&self) -> LeaderEpoch {
        self.view.leader_epoch
    }
    pub const fn partition_epoch(&self) -> PartitionEpoch {
        self.view.partition_epoch
    }
    pub const fn view(&self) -> &PartitionView {
        &self.view
    }
    /// The end of what is committed: consumers read below it only (TRAPS T26).
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    /// False while the high watermark may be older than one that a previous leader showed: the end of the committed
    /// records is not known yet (TRAPS T6, KIP-207).
    pub fn high_watermark_is_certain(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }
    /// Where this leader's own records begin.
    pub const fn epoch_start(&self) -> Offset {
        self.epoch_start
    }
    /// The committed ISR.
    pub fn isr(&self) -> &[BrokerId] {
        &self.view.isr
    }
    /// Committed ∪ proposed (TRAPS T11): all that the controller may count as in sync by now.
    pub fn maximal_isr(&self) -> BTreeSet<BrokerId> {
        let mut isr: BTreeSet<BrokerId> = self.view.isr.iter().copied().collect();
        isr.insert(self.me);
        isr.extend(self.followers.keys().copied().filter(|b| self.slot.may_have_added(*b)));
        isr
    }
    /// Whether `acks=all` may be appended (TRAPS T15).
    pub fn has_min_isr(&self) -> bool {
        self.view.isr.len() >= self.config.min_insync || mutation::is_on(Mutation::MinIsrNotChecked)
    }
    pub const fn config(&self) -> &LeaderConfig {
        &self.config
    }
    /// The least log start offset over the maximal ISR: what is deleted on every replica that may lead next. `None` below
    /// min.insync.replicas, where replicas outside the ISR may lead as well (ELR).
    pub fn low_watermark(&self) -> Option<Offset> {
        if !self.has_min_isr() {
            return None;
        }
        let isr = self.maximal_isr();
        let followers = self.followers.iter().filter(|(b, _)| isr.contains(b));
        Some(followers.fold(self.log.start, |least, (_, p)| least.min(p.log_start())))
    }
    /// The replica that a reader at `offset` should read from instead of this leader: one of those near it (KIP-392, T26).
    /// `None`: this leader is near as well, or no other can serve the read.
    ///
    /// It must be in sync and have the offset; all such replicas have all that is committed, so that readers are spread over
    /// them: `spread` is any number that a reader keeps.
    pub fn preferred_replica(&self, offset: Offset, near: &BTreeSet<BrokerId>, spread: u64) -> Option<BrokerId> {
        if near.contains(&self.me) {
            return None;
        }
        let can_serve = |broker: &BrokerId, progress: &Progress| {
            near.contains(broker)
                && self.view.isr.contains(broker)
                && self.is_eligible(*broker, progress)
                && progress.log_start() <= offset
                && progress.acknowledged(self.config.durability).is_some_and(|end| offset <= end)
        };
        let able: Vec<BrokerId> = self.followers.iter().filter(|(b, p)| can_serve(b, p)).map(|(b, _)| *b).collect();
        let index = spread.checked_rem(able.len() as u64)?;
        able.get(index as usize).copied()
    }
    /// Whether every other replica has shown, after `since`, that it has nothing from `offset` on: its log is a part of this one
    /// that ends before, so what this one has there is the only copy there is, now and for good. False for a single replica.
    pub fn is_only_copy_from(&self, offset: Offset, since: Duration) -> bool {
        !self.followers.is_empty() && self.followers.values().all(|progress| progress.has_nothing_from(offset, since))
    }
    /// What is known of each replica, this one included.
    pub fn progress(&self) -> Vec<ReplicaProgress> {
        let own = ReplicaProgress {
            broker: self.me,
            in_isr: true,
            log_end: Some(self.log.end),
            durable: Some(self.log.durable),
            log_start: self.log.start,
            behind_for: Some(Duration::ZERO),
        };
        let others = self.followers.iter();
        let others = others.map(|(b, p)| p.report(*b, self.view.isr.contains(b), self.log.end, self.now));
        std::iter::once(own).chain(others).collect()
    }

    fn advance_clock(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    /// One [`Progress`] per replica; a member of the ISR starts as caught up, so that it has the whole time to show it.
    fn meet_replicas(&mut self) {
        let view = &self.view;
        self.followers.retain(|b, _| view.replicas.contains(b) || view.isr.contains(b));
        for &broker in view.replicas.iter().chain(&view.isr).filter(|b| **b != self.me) {
            let in_isr = view.isr.contains(&broker);
            let progress = self.followers.entry(broker).or_insert_with(|| Progress::new(in_isr.then_some(self.now)));
            if in_isr && mutation::is_on(Mutation::TrustIsr) {
                progress.trust(self.log.end);
            }
        }
    }

    /// Everything that time or metadata can change.
    fn settle(&mut self) -> Effects {
        self.settle_with(true)
    }

    /// The high watermark first: who joins must have reached where it is now.
    fn settle_with(&mut self, may_shrink: bool) -> Effects {
        let effects = self.advance_high_watermark();
        Effects { propose_isr: self.propose(may_shrink), ..effects }
    }

    fn advance_high_watermark(&mut self) -> Effects {
        let before = self.high_watermark;
        if let Some(least) = self.least_acknowledged() {
            self.high_watermark = before.max(least);
        }
        Effects { high_watermark: (self.high_watermark > before).then_some(self.high_watermark), propose_isr: None }
    }

    /// The offset below which everybody that counts has everything; `None` while the high watermark must stand still.
    fn least_acknowledged(&self) -> Option<Offset> {
        // T14: below min.insync.replicas those outside the ISR stay eligible (ELR), as nothing is committed without them.
        if !self.has_min_isr() && !mutation::is_on(Mutation::CommitBelowMinIsr) {
            return None;
        }
        let own = match self.config.durability {
            Durability::Sync => self.log.durable,
            Durability::Replicated => self.log.end,
        };
        let mut least = own;
        for (&broker, progress) in &self.followers {
            let counts = self.view.isr.contains(&broker)
                || self.slot.may_have_added(broker)
                || self.is_about_to_join(broker, progress);
            if counts {
                least = least.min(progress.acknowledged(self.config.durability)?);
            }
        }
        Some(least)
    }

    /// T12: a replica that keeps up but is not in the ISR yet could never reach a high watermark that does not wait for it.
    fn is_about_to_join(&self, broker: BrokerId, progress: &Progress) -> bool {
        !mutation::is_on(Mutation::ForgetMaximalIsr)
            && self.is_eligible(broker, progress)
            && progress.is_caught_up(self.log.end, self.config, self.now)
    }

    /// T8, T10: unfenced, not shutting down, in the incarnation that fetches, and its disk can serve. The controller refuses a
    /// proposal for one that may not join, and with it those that may.
    fn is_eligible(&self, broker: BrokerId, progress: &Progress) -> bool {
        if self.view.unusable.contains(&broker) {
            return false;
        }
        if mutation::is_on(Mutation::BrokerEpochNotChecked) {
            return self.alive.contains_key(&broker);
        }
        progress.broker_epoch() != BrokerEpoch::NONE && self.alive.get(&broker) == Some(&progress.broker_epoch())
    }
}
