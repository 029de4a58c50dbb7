//! One broker, as far as one replica goes: its log, its role, and what it carries out.

use std::collections::BTreeMap;
use std::time::Duration;

use highwater_replication::{
    AckOutcome, AckQueue, AliveBrokers, Effects, Follower, FollowerEffect, FollowerFetch, FollowerReaction, Leader,
    LeaderConfig, LeaderError, LeaderResponse, Proposal,
};
use highwater_types::{BrokerEpoch, BrokerId, Durability, Offset};

use crate::controller::Image;
use crate::log::{Entry, ReplicaLog, index};

/// A leader and what the model knows of it, by which to judge it.
#[derive(Debug)]
pub struct Reign {
    pub leader: Leader,
    pub waiting: AckQueue<(usize, Entry)>,
    /// What each follower really acknowledged in this reign, as durably as promised, and in which incarnation.
    pub acknowledged: BTreeMap<BrokerId, (BrokerEpoch, usize)>,
}

#[derive(Debug, Default)]
pub enum Role {
    #[default]
    None,
    Leader(Box<Reign>),
    Follower(Box<Follower>),
}

#[derive(Debug)]
pub struct Node {
    pub id: BrokerId,
    pub log: ReplicaLog,
    pub role: Role,
    /// The process runs.
    pub up: bool,
    /// As registered by the process that runs.
    pub broker_epoch: BrokerEpoch,
    /// Its last end may have taken records that it had acknowledged, and the controller does not know yet.
    pub lost_power: bool,
    /// Index of the newest metadata image that it has.
    pub image: usize,
    /// What a restart finds.
    pub checkpointed: Offset,
}

impl Node {
    pub fn new(id: BrokerId, broker_epoch: BrokerEpoch) -> Self {
        Self {
            id,
            log: ReplicaLog::default(),
            role: Role::None,
            up: true,
            broker_epoch,
            lost_power: false,
            image: 0,
            checkpointed: Offset::ZERO,
        }
    }

    pub fn reign(&self) -> Option<&Reign> {
        match &self.role {
            Role::Leader(reign) if self.up => Some(reign),
            _ => None,
        }
    }
    pub fn reign_mut(&mut self) -> Option<&mut Reign> {
        match &mut self.role {
            Role::Leader(reign) if self.up => Some(reign),
            _ => None,
        }
    }

    pub fn high_watermark(&self) -> Offset {
        match &self.role {
            Role::Leader(reign) => reign.leader.high_watermark(),
            Role::Follower(follower) => follower.high_watermark(),
            Role::None => self.checkpointed,
        }
    }

    /// The metadata says so: leads, follows or waits.
    pub fn on_image(&mut self, image: &Image, config: LeaderConfig, now: Duration) -> Effects {
        let Image { view, alive } = image;
        match &mut self.role {
            Role::Leader(reign) if reign.leader.leader_epoch() == view.leader_epoch => {
                return reign.leader.on_view(view, config, alive, now);
            }
            Role::Follower(follower) if follower.view().leader_epoch == view.leader_epoch => {
                follower.on_view(view);
                return Effects::default();
            }
            _ => {}
        }
        let high_watermark = self.high_watermark();
        self.checkpointed = high_watermark;
        if view.leader == Some(self.id) {
            return self.lead(image, config, high_watermark, now);
        }
        self.log.end_reign();
        self.role = match view.leader {
            Some(_) => Role::Follower(Box::new(Follower::new(self.id, view, self.log.ends(), high_watermark))),
            None => Role::None,
        };
        Effects::default()
    }

    fn lead(&mut self, image: &Image, config: LeaderConfig, high_watermark: Offset, now: Duration) -> Effects {
        self.log.begin_epoch(image.view.leader_epoch);
        let alive: &AliveBrokers = &image.alive;
        let (leader, effects) = Leader::new(self.id, &image.view, config, self.log.ends(), high_watermark, alive, now);
        self.role = Role::Leader(Box::new(Reign { leader, waiting: AckQueue::new(), acknowledged: BTreeMap::new() }));
        effects
    }

    /// A follower's entry at this leader: the answer, what it changed, and the records that go with it.
    pub fn on_fetch(
        &mut self,
        fetch: &FollowerFetch,
        durability: Durability,
        now: Duration,
    ) -> (Result<(LeaderResponse, Vec<Entry>), LeaderError>, Effects) {
        const RECORDS_MAX: usize = 4;
        let asked = fetch.into();
        let Role::Leader(reign) = &mut self.role else {
            let code = highwater_types::ErrorCode::NotLeader;
            return (Err(LeaderError { asked, code, valid_offsets: None }), Effects::default());
        };
        let outcome = match reign.leader.on_fetch(fetch, now, &self.log.epochs) {
            Ok(outcome) => outcome,
            Err(error) => {
                let ends = self.log.ends();
                let valid_offsets = Some((ends.start, ends.end));
                return (Err(LeaderError { asked, code: error.code(), valid_offsets }), Effects::default());
            }
        };
        let mut records = Vec::new();
        let from = index(fetch.fetch_offset);
        if outcome.diverging.is_none() {
            records = self.log.read(from, RECORDS_MAX);
            let had = match durability {
                Durability::Sync => index(fetch.durable_offset),
                Durability::Replicated => from,
            };
            let known = reign.acknowledged.entry(fetch.follower).or_insert((fetch.broker_epoch, 0));
            if known.0 < fetch.broker_epoch {
                *known = (fetch.broker_epoch, 0);
            }
            // What an incarnation before had counts for nothing (T8).
            if known.0 == fetch.broker_epoch {
                known.1 = known.1.max(had);
            }
        }
        let response = LeaderResponse {
            asked,
            high_watermark: reign.leader.high_watermark(),
            log_start_offset: self.log.ends().start,
            diverging: outcome.diverging,
            records: (!records.is_empty()).then(|| (fetch.fetch_offset, crate::log::offset(from + records.len()))),
        };
        (Ok((response, records)), outcome.effects)
    }

    /// The leader's answer at this follower.
    pub fn on_answer(&mut self, answer: &Result<(LeaderResponse, Vec<Entry>), LeaderError>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let ends = self.log.ends();
        let (effects, records) = match answer {
            Ok((response, records)) => (follower.on_response(response, ends, &self.log.epochs), records.as_slice()),
            Err(error) => match follower.on_error(error, ends, &self.log.epochs) {
                FollowerReaction::RestartAt(offset) => (vec![FollowerEffect::RestartAt(offset)], &[][..]),
                _ => return,
            },
        };
        for effect in effects {
            match effect {
                FollowerEffect::TruncateTo(offset) => self.log.truncate_to(index(offset)),
                FollowerEffect::RestartAt(offset) => self.log.restart_at(index(offset)),
                FollowerEffect::Append => records.iter().for_each(|entry| self.log.append(*entry)),
                FollowerEffect::AdvanceStart(offset) => self.log.advance_start(index(offset)),
                FollowerEffect::AdoptHighWatermark(offset) => assert!(index(offset) <= self.log.end()),
            }
        }
    }

    /// Wakes who waits for the high watermark: what is acknowledged to producers now.
    pub fn carry_out(&mut self, effects: Effects) -> (Vec<(usize, Entry)>, Option<Proposal>) {
        let mut acknowledged = Vec::new();
        if let Role::Leader(reign) = &mut self.role
            && let Some(high_watermark) = effects.high_watermark
        {
            let has_min_isr = reign.leader.has_min_isr();
            let done = reign.waiting.complete(high_watermark, has_min_isr);
            acknowledged = done.filter(|(_, outcome)| *outcome == AckOutcome::Committed).map(|(w, _)| w).collect();
        }
        (acknowledged, effects.propose_isr)
    }

    /// The process is gone. `kept`: up to where the page cache happened to be written out.
    pub fn stop(&mut self, kept: usize) {
        let shown = self.high_watermark();
        self.log.lose_from(kept);
        self.log.end_reign();
        self.role = Role::None;
        self.up = false;
        let ends = self.log.ends();
        self.checkpointed = self.checkpointed.min(shown).clamp(ends.start, ends.end);
    }
}
