//! All replicas, the controller, and the messages between them.

use std::time::Duration;

use highwater_replication::{
    Asked, Effects, FollowerFetch, LeaderConfig, LeaderError, LeaderResponse, Proposal, ProposalOutcome,
};
use highwater_types::{BrokerId, Durability, Offset};

use crate::controller::Controller;
use crate::events::Event;
use crate::invariants;
use crate::node::{Node, Power, Record, Role, index, offset};

const LAG: Duration = Duration::from_secs(10);
const MESSAGES_MAX: usize = 40;

#[derive(Debug, Clone)]
enum Body {
    Fetch(FollowerFetch),
    Response(LeaderResponse, Vec<Record>),
    Error(LeaderError),
    Proposal(Proposal, Duration),
    Outcome(Proposal, ProposalOutcome),
}

#[derive(Debug, Clone)]
struct Message {
    from: BrokerId,
    /// `None`: the controller.
    to: Option<BrokerId>,
    body: Body,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    pub committed: usize,
    pub elections: usize,
    pub truncated: usize,
    pub joins: usize,
    pub shrinks: usize,
    pub crashes_with_loss: usize,
}

impl Seen {
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.elections += other.elections;
        self.truncated += other.truncated;
        self.joins += other.joins;
        self.shrinks += other.shrinks;
        self.crashes_with_loss += other.crashes_with_loss;
    }
}

pub struct World {
    pub durability: Durability,
    pub nodes: Vec<Node>,
    pub controller: Controller,
    /// Every record that was ever below the high watermark of a leader, by offset.
    pub committed: Vec<Record>,
    pub seen: Seen,
    messages: Vec<Message>,
    now: Duration,
    next_id: u64,
}

impl World {
    pub fn new(nodes: usize, min_insync: usize, durability: Durability) -> Self {
        let ids: Vec<_> = (1..=nodes).map(|id| BrokerId::new(u32::try_from(id).unwrap())).collect();
        let mut world = Self {
            durability,
            nodes: ids.iter().map(|id| Node::new(*id)).collect(),
            controller: Controller::new(&ids, min_insync, durability),
            committed: Vec::new(),
            seen: Seen::default(),
            messages: Vec::new(),
            now: Duration::from_secs(1),
            next_id: 0,
        };
        for node in 0..nodes {
            world.see(node, 0);
        }
        world
    }

    pub fn node(&self, id: BrokerId) -> &Node {
        &self.nodes[id.get() as usize - 1]
    }

    fn choose(&self, number: u8) -> usize {
        usize::from(number) % self.nodes.len()
    }

    pub fn apply(&mut self, event: Event) {
        self.now += Duration::from_millis(1);
        match event {
            Event::Append { node, records } => {
                // Among those who believe to lead, if any.
                let leaders: Vec<_> = (0..self.nodes.len()).filter(|i| self.nodes[*i].leader().is_some()).collect();
                if let Some(&at) = leaders.get(usize::from(node) % leaders.len().max(1)) {
                    let effects = self.nodes[at].append(records, &mut self.next_id, self.now);
                    self.carry_out(at, effects);
                }
            }
            Event::Sync { node } => {
                let at = self.choose(node);
                if self.nodes[at].is_up() {
                    let effects = self.nodes[at].sync(self.now);
                    self.carry_out(at, effects);
                }
            }
            Event::Fetch { node } => self.fetch(self.choose(node)),
            Event::Deliver { message } => {
                if let Some(at) = self.message(message) {
                    let message = self.messages.remove(at);
                    self.deliver(message);
                }
            }
            Event::Repeat { message } => {
                if let Some(at) = self.message(message) {
                    self.deliver(self.messages[at].clone());
                }
            }
            Event::Lose { message } => {
                if let Some(at) = self.message(message) {
                    self.lose(at);
                }
            }
            Event::Metadata { node, images } => {
                let at = self.choose(node);
                let version = self.nodes[at].version + usize::from(images);
                self.see(at, version);
            }
            Event::Crash { node } => self.stop(self.choose(node), false),
            Event::StopClean { node } => self.stop(self.choose(node), true),
            Event::Start { node } => self.start(self.choose(node)),
            Event::Fence { node } => self.controller.fence(self.nodes[self.choose(node)].id),
            Event::Unfence { node } => self.unfence(self.choose(node)),
            Event::Tick { node, ms } => {
                self.now += Duration::from_millis(u64::from(ms));
                self.tick(self.choose(node));
            }
            Event::MinInsync { replicas } => self.controller.set_min_insync(usize::from(replicas)),
            Event::CloseSession { leader, follower } => {
                let (leader, follower) = (self.choose(leader), self.nodes[self.choose(follower)].id);
                let now = self.now;
                if let Role::Leader(role) = &mut self.nodes[leader].role {
                    let effects = role.on_session_closed(follower, now);
                    self.carry_out(leader, effects);
                }
            }
            Event::Calm { rounds } => (0..rounds).for_each(|_| self.calm_round()),
        }
        self.seen.committed = self.committed.len();
        self.seen.truncated = self.nodes.iter().map(|n| n.truncated).sum();
        let Controller { elections, joins, shrinks, .. } = &self.controller;
        (self.seen.elections, self.seen.joins, self.seen.shrinks) = (*elections, *joins, *shrinks);
    }

    /// Everything up and connected: the partition has one log again, all of it committed, and everybody is in the ISR,
    /// provided that somebody was left who may lead.
    pub fn heal(&mut self) {
        while !self.messages.is_empty() {
            self.lose(0);
        }
        for at in 0..self.nodes.len() {
            self.start(at);
            self.unfence(at);
        }
        for _ in 0..12 {
            self.calm_round();
            self.now += Duration::from_secs(2);
        }
        let image = self.controller.now().clone();
        let Some(leader) = image.view.leader else {
            assert_eq!(self.durability, Durability::Replicated, "under sync no crash makes a replica ineligible");
            return;
        };
        // Idle for so long that lag would show.
        assert_eq!(image.view.isr.len(), self.nodes.len(), "{image:?}");
        let leader = self.node(leader);
        assert_eq!(leader.high_watermark, offset(leader.log.len()), "all is committed");
        assert!(leader.leader().unwrap().high_watermark_is_certain());
        for node in &self.nodes {
            assert_eq!(node.log, leader.log, "one log");
        }
    }

    /// Everybody up sees all metadata, fetches, syncs, acknowledges, and every message arrives.
    fn calm_round(&mut self) {
        for at in 0..self.nodes.len() {
            self.see(at, usize::MAX);
            self.tick(at);
        }
        for _ in 0..6 {
            self.now += Duration::from_millis(100);
            for at in 0..self.nodes.len() {
                self.fetch(at);
            }
            self.deliver_all();
            for at in 0..self.nodes.len() {
                if self.nodes[at].is_up() {
                    let effects = self.nodes[at].sync(self.now);
                    self.carry_out(at, effects);
                }
            }
        }
        self.deliver_all();
    }

    fn deliver_all(&mut self) {
        while !self.messages.is_empty() {
            let message = self.messages.remove(0);
            self.deliver(message);
        }
    }

    fn message(&self, number: u8) -> Option<usize> {
        (!self.messages.is_empty()).then(|| usize::from(number) % self.messages.len())
    }

    fn send(&mut self, from: BrokerId, to: Option<BrokerId>, body: Body) {
        self.messages.push(Message { from, to, body });
        if self.messages.len() > MESSAGES_MAX {
            self.lose(0);
        }
    }

    /// The caller of a lost proposal, or of one whose answer is lost, hears of it: no answer came.
    fn lose(&mut self, at: usize) {
        let message = self.messages.remove(at);
        let (caller, proposal) = match message.body {
            Body::Proposal(proposal, _) => (message.from, proposal),
            Body::Outcome(proposal, _) => (message.to.unwrap(), proposal),
            _ => return,
        };
        let at = caller.get() as usize - 1;
        if self.nodes[at].is_up() {
            let effects = self.nodes[at].on_proposal_result(&proposal, ProposalOutcome::Unknown, self.now);
            self.carry_out(at, effects);
        }
    }

    fn fetch(&mut self, at: usize) {
        let node = &self.nodes[at];
        if let Some((leader, fetch)) = node.fetch().filter(|_| node.is_up()) {
            self.send(node.id, Some(leader), Body::Fetch(fetch));
        }
    }

    fn deliver(&mut self, message: Message) {
        let Message { from, to, body } = message;
        let Some(to) = to else {
            let Body::Proposal(proposal, sent_at) = body else { return };
            let outcome = self.controller.alter(from, &proposal, sent_at, self.now);
            return self.send(from, Some(from), Body::Outcome(proposal, outcome));
        };
        let at = to.get() as usize - 1;
        if !self.nodes[at].is_up() {
            return;
        }
        match body {
            Body::Fetch(fetch) => self.serve(at, &fetch),
            Body::Response(response, records) => self.nodes[at].on_response(&response, &records),
            Body::Error(error) => self.nodes[at].on_error(&error),
            Body::Outcome(proposal, outcome) => {
                let effects = self.nodes[at].on_proposal_result(&proposal, outcome, self.now);
                self.carry_out(at, effects);
            }
            Body::Proposal(..) => {}
        }
    }

    fn serve(&mut self, at: usize, fetch: &FollowerFetch) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let Role::Leader(leader) = &mut node.role else { return };
        let asked = Asked::from(fetch);
        let body = match leader.on_fetch(fetch, now, &node.epochs) {
            Ok(outcome) => {
                // At most two records an answer, so that there is much to lose on the way.
                let from = index(fetch.fetch_offset);
                let records: Vec<_> = match outcome.diverging {
                    None => node.log[from..].iter().take(2).copied().collect(),
                    Some(_) => Vec::new(),
                };
                let response = LeaderResponse {
                    asked,
                    high_watermark: leader.high_watermark(),
                    log_start_offset: Offset::ZERO,
                    diverging: outcome.diverging,
                    records: (!records.is_empty()).then(|| (fetch.fetch_offset, offset(from + records.len()))),
                };
                self.carry_out(at, outcome.effects);
                Body::Response(response, records)
            }
            Err(error) => {
                let valid_offsets = match error {
                    highwater_replication::FetchError::OffsetOutOfRange { start, end, .. } => Some((start, end)),
                    _ => None,
                };
                Body::Error(LeaderError { asked, code: error.code(), valid_offsets })
            }
        };
        self.send(self.nodes[at].id, Some(fetch.follower), body);
    }

    fn carry_out(&mut self, at: usize, effects: Effects) {
        let id = self.nodes[at].id;
        if let Some(high_watermark) = effects.high_watermark {
            self.nodes[at].high_watermark = high_watermark;
            invariants::on_commit(self, at);
            let log = &self.nodes[at].log[..index(high_watermark)];
            if log.len() > self.committed.len() {
                self.committed = log.to_vec();
            }
        }
        if let Some(proposal) = effects.propose_isr {
            self.send(id, None, Body::Proposal(proposal, self.now));
        }
    }

    fn see(&mut self, at: usize, version: usize) {
        if !self.nodes[at].is_up() {
            return;
        }
        let version = version.min(self.controller.images.len() - 1).max(self.nodes[at].version);
        let image = self.controller.images[version].clone();
        let config = LeaderConfig::new(image.min_insync, self.durability, LAG);
        self.nodes[at].version = version;
        let effects = self.nodes[at].assign(&image, config, self.now);
        self.carry_out(at, effects);
    }

    fn tick(&mut self, at: usize) {
        let now = self.now;
        // Who is down has no role.
        if let Role::Leader(leader) = &mut self.nodes[at].role {
            let effects = leader.tick(now);
            self.carry_out(at, effects);
        }
    }

    fn stop(&mut self, at: usize, clean: bool) {
        if self.nodes[at].is_up() {
            let lost = self.nodes[at].stop(clean);
            self.seen.crashes_with_loss += usize::from(lost > 0);
        }
    }

    /// Registers anew, and sees the metadata of that moment.
    fn start(&mut self, at: usize) {
        if self.nodes[at].is_up() {
            return;
        }
        let clean = matches!(self.nodes[at].power, Power::StoppedClean);
        let epoch = self.controller.register(self.nodes[at].id, clean);
        let node = &mut self.nodes[at];
        (node.power, node.broker_epoch) = (Power::Up, epoch);
        node.version = self.controller.images.len() - 1;
        self.see(at, usize::MAX);
    }

    /// A broker that is up and has seen its own incarnation.
    fn unfence(&mut self, at: usize) {
        if self.nodes[at].is_up() {
            self.controller.unfence(self.nodes[at].id);
        }
    }
}
