//! The leader of one partition in one leader epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater_record::EpochHistory;
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, Offset, PartitionEpoch};

use crate::progress::ReplicaProgress;
use crate::view::{LogEnds, PartitionView};

/// What of the configuration matters to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderConfig {
    /// `min.insync.replicas`, already bounded by the replication factor (T15).
    pub min_insync: usize,
    pub durability: Durability,
    /// How long a follower may be behind before it is proposed to leave the ISR.
    pub lag_time_max: Duration,
}

/// What a follower's fetch says of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFetch {
    pub follower: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    /// Its log end.
    pub fetch_offset: Offset,
    /// Its log is on its disk below this.
    pub durable_offset: Offset,
    pub last_fetched_epoch: LeaderEpoch,
}

/// Why a follower's fetch moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("the fetch is of leader epoch {asked}; this leader's is {current}")]
    FencedEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("the fetch is of leader epoch {asked}, which this broker has yet to learn; it knows {current}")]
    UnknownEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    #[error("broker {0} is no replica of this partition")]
    NotReplica(BrokerId),
    #[error("broker {follower} fetched as epoch {stated}; its present epoch is {current}")]
    StaleBrokerEpoch { follower: BrokerId, stated: BrokerEpoch, current: BrokerEpoch },
    #[error("offset {asked} is outside the leader's log, {start} to {end}")]
    OutOfRange { asked: Offset, start: Offset, end: Offset },
}

/// A fetch that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchOutcome {
    /// The follower's log is not a prefix of this one: where the leader's last epoch not above the follower's ends (T2).
    /// [`LeaderEpoch::NONE`] with the log start if that epoch is gone from here. Nothing was acknowledged.
    pub diverging: Option<(LeaderEpoch, Offset)>,
    pub effects: Vec<Effect>,
}

/// What the owner is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Records below this are committed: wake who waits for them.
    HighWatermark(Offset),
    /// Ask the controller; answer with [`Leader::on_proposal_outcome`].
    Propose(Proposal),
}

/// A member of a proposed ISR, with the incarnation that the leader knows (KIP-903).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsrMember {
    pub broker: BrokerId,
    /// [`BrokerEpoch::NONE`] for the leader itself and for members that have not fetched in this epoch.
    pub broker_epoch: BrokerEpoch,
}

/// An ISR that the leader wants: compare-and-set on the partition epoch (KIP-497).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<IsrMember>,
    /// Ends recovery after an unclean election.
    pub recovered: bool,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProposalOutcome {
    Applied {
        partition_epoch: PartitionEpoch,
        isr: Vec<BrokerId>,
    },
    /// Refused for good, nothing changed: the reason to propose it may come again with the next fetch or tick.
    Refused,
    /// The partition has another version by now: wait for the controller's news of it.
    Outdated,
    /// Nobody knows whether it was applied: it is sent again with the next tick, and counts as possible until then.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Sent,
    /// Sent, fate unknown: to be sent again.
    Resend,
    /// The controller's state moved on: may or may not hold this proposal.
    AwaitingView,
}

/// The leader's state machine.
#[derive(Debug, Clone)]
pub struct Leader {
    me: BrokerId,
    config: LeaderConfig,
    view: PartitionView,
    /// Where this leader's own epoch starts: its log end when it was elected.
    epoch_start: Offset,
    log: LogEnds,
    high_watermark: Offset,
    followers: BTreeMap<BrokerId, ReplicaProgress>,
    /// Unfenced brokers that are not shutting down, by the last metadata: only these may join (T10).
    eligible: BTreeMap<BrokerId, BrokerEpoch>,
    in_flight: Option<(Proposal, InFlight)>,
}

impl Leader {
    /// `high_watermark` is what the replica knew before; it may be stale until it passes the start of this epoch (T6).
    pub fn new(
        me: BrokerId,
        view: PartitionView,
        eligible: BTreeMap<BrokerId, BrokerEpoch>,
        config: LeaderConfig,
        log: LogEnds,
        high_watermark: Offset,
        now: Duration,
    ) -> (Self, Vec<Effect>) {
        let followers = view
            .replicas
            .iter()
            .filter(|&&broker| broker != me)
            .map(|&broker| (broker, ReplicaProgress::new(now, log.end)))
            .collect();
        let mut leader = Self {
            me,
            config,
            epoch_start: log.end,
            log,
            high_watermark: high_watermark.clamp(log.start, log.end),
            followers,
            eligible,
            in_flight: None,
            view,
        };
        let mut effects = Vec::new();
        if leader.view.recovering {
            let isr = leader.view.isr.clone();
            leader.propose(isr, &mut effects);
        }
        leader.advance(now, &mut effects);
        (leader, effects)
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    /// Whether the high watermark is this epoch's own, and so no older than any that was ever shown (T6, KIP-207).
    pub fn high_watermark_is_certain(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }
    pub fn view(&self) -> &PartitionView {
        &self.view
    }
    pub fn isr(&self) -> &[BrokerId] {
        &self.view.isr
    }
    pub fn log_ends(&self) -> LogEnds {
        self.log
    }
    /// Whether `acks=all` may be taken and may succeed (T15).
    pub fn has_min_isr(&self) -> bool {
        self.view.isr.len() >= self.config.min_insync
    }
    pub fn min_insync(&self) -> usize {
        self.config.min_insync
    }
    pub fn followers(&self) -> &BTreeMap<BrokerId, ReplicaProgress> {
        &self.followers
    }
    /// The leader's own acknowledged offset, by the topic's durability.
    pub fn own_offset(&self) -> Offset {
        match self.config.durability {
            Durability::Sync => self.log.durable,
            Durability::Replicated => self.log.end,
        }
    }
    /// All who are in the ISR, or will be if the proposal under way is applied (T11).
    pub fn maximal_isr(&self) -> BTreeSet<BrokerId> {
        let proposed = self.in_flight.iter().flat_map(|(p, _)| p.isr.iter().map(|member| member.broker));
        self.view.isr.iter().copied().chain(proposed).collect()
    }

    /// The log has grown to `end`.
    pub fn on_append(&mut self, end: Offset, now: Duration) -> Vec<Effect> {
        self.log.end = end;
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        effects
    }

    /// The log is on the disk below `durable`.
    pub fn on_durable(&mut self, durable: Offset, now: Duration) -> Vec<Effect> {
        self.log.durable = durable.min(self.log.end);
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        effects
    }

    /// The log now starts at `start` (retention, delete-records); never above the high watermark.
    pub fn on_log_start(&mut self, start: Offset) {
        self.log.start = self.log.start.max(start);
    }

    /// A follower asks for more, and so acknowledges what it has (T7).
    pub fn on_fetch(
        &mut self,
        fetch: &FollowerFetch,
        epochs: &EpochHistory,
        now: Duration,
    ) -> Result<FetchOutcome, FetchError> {
        self.check_fetch(fetch)?;
        if let Some(diverging) = self.divergence(fetch, epochs) {
            return Ok(FetchOutcome { diverging: Some(diverging), effects: Vec::new() });
        }
        if fetch.fetch_offset < self.log.start || fetch.fetch_offset > self.log.end {
            return Err(FetchError::OutOfRange { asked: fetch.fetch_offset, start: self.log.start, end: self.log.end });
        }
        let acknowledged = match self.config.durability {
            Durability::Sync => fetch.durable_offset.min(fetch.fetch_offset),
            Durability::Replicated => fetch.fetch_offset,
        };
        let leader_end = self.log.end;
        if let Some(progress) = self.followers.get_mut(&fetch.follower) {
            progress.on_fetch(acknowledged, fetch.broker_epoch, leader_end, now);
        }
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        self.propose_join(fetch.follower, now, &mut effects);
        Ok(FetchOutcome { diverging: None, effects })
    }

    /// News from the controller; returns without effect if it is old (T13). A new leader epoch is not for this machine.
    pub fn on_view(
        &mut self,
        view: PartitionView,
        eligible: BTreeMap<BrokerId, BrokerEpoch>,
        now: Duration,
    ) -> Vec<Effect> {
        self.eligible = eligible;
        let mut effects = Vec::new();
        if view.leader_epoch == self.view.leader_epoch && view.partition_epoch > self.view.partition_epoch {
            self.adopt(view, now);
        }
        self.advance(now, &mut effects);
        effects
    }

    /// The topic's configuration changed.
    pub fn on_config(&mut self, config: LeaderConfig, now: Duration) -> Vec<Effect> {
        self.config = config;
        let mut effects = Vec::new();
        self.advance(now, &mut effects);
        effects
    }

    /// The controller's answer to `proposal`, or its absence.
    pub fn on_proposal_outcome(&mut self, proposal: &Proposal, outcome: ProposalOutcome, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some((current, state)) = &mut self.in_flight else { return effects };
        if current != proposal {
            return effects;
        }
        match outcome {
            ProposalOutcome::Unknown => *state = InFlight::Resend,
            ProposalOutcome::Outdated => *state = InFlight::AwaitingView,
            ProposalOutcome::Refused => self.in_flight = None,
            ProposalOutcome::Applied { partition_epoch, isr } => {
                if partition_epoch > self.view.partition_epoch {
                    let mut view = self.view.clone();
                    view.partition_epoch = partition_epoch;
                    view.isr = isr;
                    view.recovering = view.recovering && !proposal.recovered;
                    self.adopt(view, now);
                } else {
                    self.in_flight = None;
                }
            }
        }
        self.advance(now, &mut effects);
        effects
    }

    /// Time has passed: laggards leave (T22), proposals of unknown fate are sent again.
    pub fn tick(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &mut self.in_flight {
            Some((proposal, state)) => {
                if *state == InFlight::Resend {
                    *state = InFlight::Sent;
                    effects.push(Effect::Propose(proposal.clone()));
                }
            }
            None if self.view.recovering => {
                let isr = self.view.isr.clone();
                self.propose(isr, &mut effects);
            }
            None => {
                let remaining: Vec<BrokerId> =
                    self.view.isr.iter().copied().filter(|&broker| !self.lags(broker, now)).collect();
                if remaining.len() < self.view.isr.len() {
                    self.propose(remaining, &mut effects);
                }
            }
        }
        self.advance(now, &mut effects);
        effects
    }

    fn adopt(&mut self, view: PartitionView, now: Duration) {
        let leader_end = self.log.end;
        self.followers.retain(|broker, _| view.replicas.contains(broker));
        for &broker in view.replicas.iter().filter(|&&broker| broker != self.me) {
            self.followers.entry(broker).or_insert_with(|| ReplicaProgress::new(now, leader_end));
        }
        self.view = view;
        // Whatever was under way was made on an older version: it is applied in this one, or never will be.
        self.in_flight = None;
    }

    fn check_fetch(&self, fetch: &FollowerFetch) -> Result<(), FetchError> {
        let current = self.view.leader_epoch;
        let asked = fetch.leader_epoch;
        if asked < current {
            return Err(FetchError::FencedEpoch { asked, current });
        }
        if asked > current {
            return Err(FetchError::UnknownEpoch { asked, current });
        }
        if !self.followers.contains_key(&fetch.follower) {
            return Err(FetchError::NotReplica(fetch.follower));
        }
        match self.eligible.get(&fetch.follower) {
            Some(&current) if fetch.broker_epoch < current => {
                Err(FetchError::StaleBrokerEpoch { follower: fetch.follower, stated: fetch.broker_epoch, current })
            }
            _ => Ok(()),
        }
    }

    /// Where the follower's log leaves this one, if it does (T1, T2).
    fn divergence(&self, fetch: &FollowerFetch, epochs: &EpochHistory) -> Option<(LeaderEpoch, Offset)> {
        if fetch.last_fetched_epoch == LeaderEpoch::NONE {
            return None;
        }
        match epochs.end_of(fetch.last_fetched_epoch, self.log.end) {
            Some((epoch, end)) => {
                let differs = epoch != fetch.last_fetched_epoch || end < fetch.fetch_offset;
                // What the follower has of epochs that are gone here from the log's start lies below it.
                differs.then_some((epoch, end))
            }
            None => (fetch.fetch_offset > self.log.start).then_some((LeaderEpoch::NONE, self.log.start)),
        }
    }

    fn lags(&self, broker: BrokerId, now: Duration) -> bool {
        self.followers
            .get(&broker)
            .is_some_and(|progress| !progress.is_caught_up(self.log.end, now, self.config.lag_time_max))
    }

    /// T8, T9, T10, T14: in this epoch, at or past the high watermark and the epoch's start, not behind in time, alive,
    /// and of the incarnation that the controller knows.
    fn may_join(&self, broker: BrokerId, now: Duration) -> bool {
        let Some(progress) = self.followers.get(&broker) else { return false };
        let Some(acknowledged) = progress.acknowledged else { return false };
        acknowledged >= self.high_watermark
            && acknowledged >= self.epoch_start
            && progress.is_caught_up(self.log.end, now, self.config.lag_time_max)
            && self.eligible.get(&broker) == Some(&progress.broker_epoch)
    }

    fn propose_join(&mut self, broker: BrokerId, now: Duration, effects: &mut Vec<Effect>) {
        if self.in_flight.is_some() || self.view.isr.contains(&broker) || !self.may_join(broker, now) {
            return;
        }
        let mut isr = self.view.isr.clone();
        isr.push(broker);
        self.propose(isr, effects);
    }

    fn propose(&mut self, isr: Vec<BrokerId>, effects: &mut Vec<Effect>) {
        let isr = isr
            .into_iter()
            .map(|broker| IsrMember {
                broker,
                broker_epoch: self.followers.get(&broker).map_or(BrokerEpoch::NONE, |progress| progress.broker_epoch),
            })
            .collect();
        let proposal = Proposal {
            leader_epoch: self.view.leader_epoch,
            partition_epoch: self.view.partition_epoch,
            isr,
            recovered: self.view.recovering,
        };
        self.in_flight = Some((proposal.clone(), InFlight::Sent));
        effects.push(Effect::Propose(proposal));
    }

    /// Moves the high watermark to what the maximal ISR has acknowledged, if it may move (T11, T12, T14).
    fn advance(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.has_min_isr() {
            return;
        }
        let maximal = self.maximal_isr();
        let mut committed = self.own_offset();
        for (&broker, progress) in &self.followers {
            let acknowledged = progress.acknowledged.unwrap_or(Offset::ZERO);
            if maximal.contains(&broker) {
                committed = committed.min(acknowledged);
            } else if acknowledged >= self.high_watermark && self.may_join(broker, now) {
                // About to join: not to be overtaken, or it would never get in (T12).
                committed = committed.min(acknowledged);
            }
        }
        if committed > self.high_watermark {
            self.high_watermark = committed;
            effects.push(Effect::HighWatermark(committed));
        }
    }
}
