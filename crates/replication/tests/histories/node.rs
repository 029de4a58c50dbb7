//! One broker's replica: a log in memory of which a crash takes what was not synced, and its role.

use std::time::Duration;

use highwater_record::EpochHistory;
use highwater_replication::{
    Effects, Follower, FollowerEffect, FollowerFetch, FollowerReaction, Leader, LeaderConfig, LeaderError,
    LeaderResponse, LogEnds, Proposal, ProposalOutcome,
};
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, Offset};

use crate::controller::Image;

/// A record: who wrote it, and which it is of all ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub epoch: LeaderEpoch,
    pub id: u64,
}

pub enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

pub enum Power {
    Up,
    /// Everything synced first.
    StoppedClean,
    Crashed,
}

pub struct Node {
    pub id: BrokerId,
    pub power: Power,
    pub broker_epoch: BrokerEpoch,
    pub log: Vec<Record>,
    pub durable: usize,
    pub epochs: EpochHistory,
    pub high_watermark: Offset,
    pub role: Role,
    /// Newest version of the metadata that it has seen.
    pub version: usize,
    pub truncated: usize,
}

pub fn offset(index: usize) -> Offset {
    Offset::new(i64::try_from(index).expect("a test's log is short"))
}
pub fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).expect("no negative offsets here")
}

impl Node {
    pub fn new(id: BrokerId) -> Self {
        Self {
            id,
            power: Power::Up,
            broker_epoch: BrokerEpoch::FIRST,
            log: Vec::new(),
            durable: 0,
            epochs: EpochHistory::new(),
            high_watermark: Offset::ZERO,
            role: Role::None,
            version: 0,
            truncated: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.power, Power::Up)
    }
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) if self.is_up() => Some(leader),
            _ => None,
        }
    }
    pub fn ends(&self) -> LogEnds {
        LogEnds::new(Offset::ZERO, offset(self.log.len()), offset(self.durable))
    }

    /// What this replica surely still has after whatever happens to it next.
    pub fn promised(&self, durability: Durability) -> &[Record] {
        match durability {
            Durability::Sync => &self.log[..self.durable],
            Durability::Replicated => &self.log,
        }
    }

    /// Takes the decision of an image.
    pub fn assign(&mut self, image: &Image, config: LeaderConfig, now: Duration) -> Effects {
        let view = &image.view;
        let current = match &self.role {
            Role::None => None,
            Role::Leader(leader) => Some(leader.leader_epoch()),
            Role::Follower(follower) => Some(follower.view().leader_epoch),
        };
        if current == Some(view.leader_epoch) {
            return match &mut self.role {
                Role::Leader(leader) => leader.on_view(view, config, &image.alive, now),
                Role::Follower(follower) => {
                    follower.on_view(view);
                    Effects::default()
                }
                Role::None => Effects::default(),
            };
        }
        match view.leader {
            None => {
                self.role = Role::None;
                Effects::default()
            }
            Some(leader) if leader == self.id => {
                self.epochs.assign(view.leader_epoch, self.ends().end).expect("leader epochs grow");
                let (leader, effects) =
                    Leader::new(self.id, view, config, self.ends(), self.high_watermark, &image.alive, now);
                self.high_watermark = leader.high_watermark();
                self.role = Role::Leader(Box::new(leader));
                effects
            }
            Some(_) => {
                self.truncate(self.log.len());
                let follower = Follower::new(self.id, view, self.ends(), self.high_watermark);
                self.high_watermark = follower.high_watermark();
                self.role = Role::Follower(Box::new(follower));
                Effects::default()
            }
        }
    }

    pub fn append(&mut self, records: u8, next_id: &mut u64, now: Duration) -> Effects {
        let end = self.log.len() + usize::from(records);
        let Role::Leader(leader) = &mut self.role else { return Effects::default() };
        while self.log.len() < end {
            *next_id += 1;
            self.log.push(Record { epoch: leader.leader_epoch(), id: *next_id });
        }
        leader.on_append(offset(end), now)
    }

    pub fn sync(&mut self, now: Duration) -> Effects {
        self.durable = self.log.len();
        match &mut self.role {
            Role::Leader(leader) => leader.on_local_durable(offset(self.durable), now),
            _ => Effects::default(),
        }
    }

    pub fn fetch(&self) -> Option<(BrokerId, FollowerFetch)> {
        let Role::Follower(follower) = &self.role else { return None };
        let fetch = follower.fetch(self.broker_epoch, self.ends(), &self.epochs);
        follower.leader().map(|leader| (leader, fetch))
    }

    pub fn on_response(&mut self, response: &LeaderResponse, records: &[Record]) {
        let ends = self.ends();
        let Role::Follower(follower) = &mut self.role else { return };
        let effects = follower.on_response(response, ends, &self.epochs);
        self.high_watermark = follower.high_watermark();
        self.carry_out(&effects, records);
    }

    pub fn on_error(&mut self, error: &LeaderError) {
        let ends = self.ends();
        let Role::Follower(follower) = &mut self.role else { return };
        if let FollowerReaction::RestartAt(start) = follower.on_error(error, ends, &self.epochs) {
            self.high_watermark = follower.high_watermark();
            self.carry_out(&[FollowerEffect::RestartAt(start)], &[]);
        }
    }

    fn carry_out(&mut self, effects: &[FollowerEffect], records: &[Record]) {
        for effect in effects {
            match *effect {
                FollowerEffect::TruncateTo(to) => self.truncate(index(to)),
                FollowerEffect::RestartAt(start) => {
                    assert_eq!(start, Offset::ZERO, "no log starts later here");
                    self.truncate(0);
                }
                FollowerEffect::Append => {
                    for record in records {
                        self.epochs.assign(record.epoch, offset(self.log.len())).expect("epochs grow along a log");
                        self.log.push(*record);
                    }
                }
                FollowerEffect::AdvanceStart(start) => panic!("no log starts at {start} here"),
                FollowerEffect::AdoptHighWatermark(_) => {}
            }
        }
    }

    fn truncate(&mut self, len: usize) {
        self.truncated += self.log.len() - len;
        self.log.truncate(len);
        self.epochs.truncate_from(offset(len));
        self.durable = self.durable.min(len);
    }

    /// What was not synced is gone; and a clean stop syncs all. Returns how many records were lost.
    pub fn stop(&mut self, clean: bool) -> usize {
        if clean {
            self.durable = self.log.len();
        }
        let lost = self.log.len() - self.durable;
        self.log.truncate(self.durable);
        self.epochs.truncate_from(offset(self.durable));
        self.high_watermark = self.high_watermark.min(offset(self.durable));
        self.role = Role::None;
        self.power = if clean { Power::StoppedClean } else { Power::Crashed };
        lost
    }

    pub fn on_proposal_result(&mut self, proposal: &Proposal, outcome: ProposalOutcome, now: Duration) -> Effects {
        match &mut self.role {
            Role::Leader(leader) if leader.leader_epoch() == proposal.leader_epoch => {
                leader.on_proposal_result(proposal.partition_epoch, outcome, now)
            }
            _ => Effects::default(),
        }
    }
}
