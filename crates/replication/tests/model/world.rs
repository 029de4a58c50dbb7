//! Nodes, controller, and what is between them.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_replication::{
    Effects, FollowerFetch, LeaderConfig, LeaderError, LeaderResponse, Proposal, ProposalOutcome,
};
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, PartitionEpoch};

use crate::controller::{Controller, Image};
use crate::log::{Entry, index, offset};
use crate::node::{Node, Role};
use crate::steps::{Fate, Setup, Step, Traffic};

const IN_FLIGHT_MAX: usize = 24;
const NEVER: Duration = Duration::MAX;

#[derive(Debug, Clone)]
pub struct Answer {
    to: BrokerId,
    to_epoch: BrokerEpoch,
    body: Result<(LeaderResponse, Vec<Entry>), LeaderError>,
}

#[derive(Debug, Clone)]
pub struct SentProposal {
    call: u64,
    from: BrokerId,
    from_epoch: BrokerEpoch,
    proposal: Proposal,
    sent_at: Duration,
}

/// A leader waits for the answer to a proposal.
#[derive(Debug, Clone)]
pub struct Call {
    id: u64,
    from: BrokerId,
    from_epoch: BrokerEpoch,
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
}

#[derive(Debug)]
pub struct World {
    pub setup: Setup,
    pub config: LeaderConfig,
    pub now: Duration,
    pub nodes: Vec<Node>,
    pub controller: Controller,
    fetches: Vec<(BrokerId, FollowerFetch)>,
    answers: Vec<Answer>,
    proposals: Vec<SentProposal>,
    decisions: Vec<(u64, ProposalOutcome)>,
    calls: Vec<Call>,
    /// Calls whose proposal arrives more than once.
    repeated: BTreeSet<u64>,
    next_call: u64,
    next_value: u64,
    /// What stood below a leader's high watermark when it got there, by offset.
    pub shown: Vec<Entry>,
    /// What producers with `acks=all` were told is committed.
    pub acknowledged: Vec<(usize, Entry)>,
    /// Who joined the ISR in the last step.
    pub joined: Vec<BrokerId>,
    /// Whose high watermark moved in the last step.
    pub advanced: Vec<BrokerId>,
    /// Below the high watermark of a leader at the time, and something else than was shown before.
    pub rewritten: Option<String>,
    pub proposed: usize,
}

impl World {
    pub fn new(setup: &Setup) -> Self {
        let ids: Vec<BrokerId> = (1..=setup.nodes).map(|id| BrokerId::new(u32::try_from(id).unwrap())).collect();
        let min_insync = setup.min_insync.min(setup.nodes);
        let controller = Controller::new(&ids, min_insync);
        let nodes = ids.iter().map(|id| Node::new(*id, controller.epoch_of(*id))).collect();
        let config = LeaderConfig {
            proposal_lifetime: Duration::from_secs(4),
            ..LeaderConfig::new(min_insync, setup.durability, Duration::from_secs(3))
        };
        let mut world = Self {
            setup: *setup,
            config,
            now: Duration::ZERO,
            nodes,
            controller,
            fetches: Vec::new(),
            answers: Vec::new(),
            proposals: Vec::new(),
            decisions: Vec::new(),
            calls: Vec::new(),
            repeated: BTreeSet::new(),
            next_call: 0,
            next_value: 0,
            shown: Vec::new(),
            acknowledged: Vec::new(),
            joined: Vec::new(),
            advanced: Vec::new(),
            rewritten: None,
            proposed: 0,
        };
        for node in 0..world.nodes.len() {
            world.deliver_image(node, 0);
        }
        world
    }

    pub fn node(&self, broker: BrokerId) -> &Node {
        &self.nodes[slot(broker)]
    }

    pub fn apply(&mut self, step: &Step) {
        self.joined.clear();
        self.advanced.clear();
        let count = self.nodes.len();
        match *step {
            Step::Append { leader, count, acks_all } => {
                if let Some(node) = self.reigning(leader) {
                    self.append(node, count, acks_all);
                }
            }
            Step::Fetch(node) => self.fetch(node % count),
            Step::Exchange(node) => self.exchange(node % count),
            Step::Message { of, at, fate } => self.message(of, at, fate),
            Step::Unanswered(at) => {
                if !self.calls.is_empty() {
                    let call = self.calls[at % self.calls.len()].id;
                    self.decide(call, ProposalOutcome::Unknown);
                }
            }
            Step::Sync { node, sixteenths } => self.sync(node % count, sixteenths),
            Step::Metadata { node, all } => {
                let node = node % count;
                let newest = self.controller.images.len() - 1;
                let next = if all { newest } else { newest.min(self.nodes[node].image + 1) };
                self.deliver_image(node, next);
            }
            Step::OldView { node, back } => self.old_view(node % count, back),
            Step::Time { ms } => self.pass(Duration::from_millis(ms)),
            Step::SessionClosed { leader, follower } => {
                let (now, follower) = (self.now, self.nodes[follower % count].id);
                if let Some(node) = self.reigning(leader)
                    && let Some(reign) = self.nodes[node].reign_mut()
                {
                    let effects = reign.leader.on_session_closed(follower, now);
                    self.carry_out(node, effects);
                }
            }
            Step::Crash(node) => {
                let node = node % count;
                self.stop(node, 16);
            }
            Step::PowerLoss { node, sixteenths } => {
                let node = node % count;
                if self.nodes[node].up {
                    self.nodes[node].lost_power |= self.setup.durability == Durability::Replicated;
                }
                self.stop(node, sixteenths);
            }
            Step::Restart { node, unfence, choice } => self.restart(node % count, unfence, choice),
            Step::Fence { node, choice } => self.controller.set_fenced(self.nodes[node % count].id, true, choice),
            Step::Unfence { node, choice } => self.unfence(node % count, choice),
            Step::Shutdown { node, choice } => {
                let Node { id, up, .. } = self.nodes[node % count];
                if up && !self.controller.brokers[&id].fenced {
                    self.controller.begin_shutdown(id, choice);
                }
            }
            Step::Elect(node) => self.controller.elect(self.nodes[node % count].id),
            Step::Failover { node, count: records } => {
                let node = node % count;
                self.controller.elect(self.nodes[node].id);
                self.deliver_image(node, self.controller.images.len() - 1);
                self.append(node, records, false);
            }
            Step::DeleteRecords { leader, sixteenths } => {
                if let Some(node) = self.reigning(leader) {
                    self.delete_records(node, sixteenths);
                }
            }
            Step::Checkpoint(node) => {
                let node = &mut self.nodes[node % count];
                node.checkpointed = node.high_watermark();
            }
        }
    }

    fn reigning(&self, choice: usize) -> Option<usize> {
        let reigning: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].reign().is_some()).collect();
        (!reigning.is_empty()).then(|| reigning[choice % reigning.len()])
    }

    pub fn append(&mut self, node: usize, count: usize, acks_all: bool) {
        let now = self.now;
        let value = self.next_value;
        let Node { role: Role::Leader(reign), log, .. } = &mut self.nodes[node] else { return };
        // T15
        if acks_all && !reign.leader.has_min_isr() {
            return;
        }
        for value in (value..).take(count) {
            let entry = Entry { epoch: reign.leader.leader_epoch(), value };
            if acks_all {
                reign.waiting.insert(offset(log.end() + 1), NEVER, (log.end(), entry));
            }
            log.append(entry);
        }
        self.next_value += u64::try_from(count).unwrap();
        let effects = reign.leader.on_append(offset(log.end()), now);
        self.carry_out(node, effects);
    }

    fn fetch_of(&self, node: usize) -> Option<(BrokerId, FollowerFetch)> {
        let node = &self.nodes[node];
        match &node.role {
            Role::Follower(follower) if node.up => {
                let fetch = follower.fetch(node.broker_epoch, node.log.ends(), &node.log.epochs);
                follower.leader().map(|leader| (leader, fetch))
            }
            _ => None,
        }
    }

    fn fetch(&mut self, node: usize) {
        if let Some(sent) = self.fetch_of(node) {
            push(&mut self.fetches, sent);
        }
    }

    pub fn exchange(&mut self, node: usize) {
        if let Some((to, fetch)) = self.fetch_of(node)
            && let Some(answer) = self.serve(to, &fetch)
        {
            self.answer(&answer);
        }
        self.sync(node, 16);
    }

    fn serve(&mut self, to: BrokerId, fetch: &FollowerFetch) -> Option<Answer> {
        let (now, durability) = (self.now, self.setup.durability);
        let node = slot(to);
        if !self.nodes[node].up {
            return None;
        }
        let (body, effects) = self.nodes[node].on_fetch(fetch, durability, now);
        self.carry_out(node, effects);
        Some(Answer { to: fetch.follower, to_epoch: fetch.broker_epoch, body })
    }

    fn answer(&mut self, answer: &Answer) {
        let node = &mut self.nodes[slot(answer.to)];
        // A stream ends with the process.
        if node.up && node.broker_epoch == answer.to_epoch {
            node.on_answer(&answer.body);
        }
    }

    fn message(&mut self, of: Traffic, at: usize, fate: Fate) {
        match of {
            Traffic::Fetches => {
                if let Some((to, fetch)) = take(&mut self.fetches, at, fate)
                    && let Some(answer) = self.serve(to, &fetch)
                {
                    push(&mut self.answers, answer);
                }
            }
            Traffic::Answers => {
                if let Some(answer) = take(&mut self.answers, at, fate) {
                    self.answer(&answer);
                }
            }
            Traffic::Proposals => {
                let sent = take(&mut self.proposals, at, fate);
                if let (Some(sent), Fate::Repeats) = (&sent, fate) {
                    self.repeated.insert(sent.call);
                }
                if let Some(sent) = sent
                    && let Some(outcome) = self.propose(&sent)
                {
                    push(&mut self.decisions, (sent.call, outcome));
                }
            }
            Traffic::Decisions => {
                if let Some((call, outcome)) = take(&mut self.decisions, at, fate) {
                    self.decide(call, outcome);
                }
            }
        }
    }

    fn propose(&mut self, sent: &SentProposal) -> Option<ProposalOutcome> {
        // Its deadline is over: nobody carries it out any more.
        if self.now > sent.sent_at + self.config.proposal_lifetime {
            return None;
        }
        let before = self.controller.view.isr.clone();
        let outcome = self.controller.alter(sent.from, sent.from_epoch, &sent.proposal);
        self.joined.extend(self.controller.view.isr.iter().copied().filter(|b| !before.contains(b)));
        // What refuses one attempt may have passed when the other one arrives.
        let is_open = outcome == ProposalOutcome::Refused && self.repeated.contains(&sent.call);
        Some(if is_open { ProposalOutcome::Unknown } else { outcome })
    }

    fn decide(&mut self, call: u64, outcome: ProposalOutcome) {
        // One answer to a call.
        let Some(open) = self.calls.iter().position(|c| c.id == call) else { return };
        let call = self.calls.swap_remove(open);
        let (now, node) = (self.now, slot(call.from));
        if self.nodes[node].broker_epoch != call.from_epoch {
            return;
        }
        if let Some(reign) = self.nodes[node].reign_mut()
            && reign.leader.leader_epoch() == call.leader_epoch
        {
            let effects = reign.leader.on_proposal_result(call.partition_epoch, outcome, now);
            self.carry_out(node, effects);
        }
    }

    pub fn sync(&mut self, node: usize, sixteenths: usize) {
        let now = self.now;
        let Node { role, log, up: true, .. } = &mut self.nodes[node] else { return };
        log.sync(log.durable() + (log.end() - log.durable()) * sixteenths / 16);
        if let Role::Leader(reign) = role {
            let effects = reign.leader.on_local_durable(offset(log.durable()), now);
            self.carry_out(node, effects);
        }
    }

    pub fn deliver_image(&mut self, node: usize, image: usize) {
        if self.nodes[node].up {
            self.nodes[node].image = image;
            let effects = self.nodes[node].on_image(&self.controller.images[image], self.config, self.now);
            self.carry_out(node, effects);
        }
    }

    fn old_view(&mut self, node: usize, back: usize) {
        if !self.nodes[node].up || self.nodes[node].reign().is_none() {
            return;
        }
        let newest = self.nodes[node].image;
        let alive = self.controller.images[newest].alive.clone();
        let view = self.controller.images[newest.saturating_sub(back)].view.clone();
        let image = Image { view, alive };
        // One of another leader epoch never gets to this leader.
        if self.nodes[node].reign().is_some_and(|r| r.leader.leader_epoch() == image.view.leader_epoch) {
            let effects = self.nodes[node].on_image(&image, self.config, self.now);
            self.carry_out(node, effects);
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        for node in 0..self.nodes.len() {
            let now = self.now;
            if let Some(reign) = self.nodes[node].reign_mut() {
                let effects = reign.leader.tick(now);
                self.carry_out(node, effects);
            }
        }
    }

    fn stop(&mut self, node: usize, sixteenths: usize) {
        let node = &mut self.nodes[node];
        if node.up {
            let (durable, end) = (node.log.durable(), node.log.end());
            node.stop(durable + (end - durable) * sixteenths / 16);
        }
    }

    pub fn restart(&mut self, node: usize, unfence: bool, choice: usize) {
        self.stop(node, 16);
        let lost = self.nodes[node].lost_power;
        let id = self.nodes[node].id;
        let broker_epoch = self.controller.register(id, lost, choice);
        self.nodes[node].broker_epoch = broker_epoch;
        self.nodes[node].lost_power = false;
        self.nodes[node].up = true;
        self.deliver_image(node, self.controller.images.len() - 1);
        if unfence {
            self.unfence(node, choice);
        }
    }

    pub fn unfence(&mut self, node: usize, choice: usize) {
        let Node { id, up, broker_epoch, .. } = self.nodes[node];
        if up && broker_epoch == self.controller.epoch_of(id) && !self.controller.brokers[&id].shutting_down {
            self.controller.set_fenced(id, false, choice);
        }
    }

    fn delete_records(&mut self, node: usize, sixteenths: usize) {
        let Node { role: Role::Leader(reign), log, .. } = &mut self.nodes[node] else { return };
        let high_watermark = index(reign.leader.high_watermark());
        let start = log.start() + (high_watermark - log.start()) * sixteenths / 16;
        log.advance_start(start);
        let effects = reign.leader.on_log_start(offset(start));
        self.carry_out(node, effects);
    }

    fn carry_out(&mut self, node: usize, effects: Effects) {
        let high_watermark = effects.high_watermark;
        let (acknowledged, proposal) = self.nodes[node].carry_out(effects);
        let Node { id, broker_epoch, log, .. } = &self.nodes[node];
        if let Some(high_watermark) = high_watermark {
            for at in log.start()..index(high_watermark) {
                let Some(entry) = log.get(at) else {
                    self.rewritten = Some(format!("{id:?} shows {high_watermark}, past its log's end"));
                    break;
                };
                match self.shown.get(at) {
                    Some(shown) if *shown != entry => {
                        self.rewritten = Some(format!("{id:?} shows {entry:?} at {at}, where {shown:?} was shown"));
                    }
                    Some(_) => {}
                    None => self.shown.push(entry),
                }
            }
            self.advanced.push(*id);
        }
        self.acknowledged.extend(acknowledged);
        if let Some(proposal) = proposal {
            let call = self.next_call;
            self.next_call += 1;
            self.proposed += 1;
            let Proposal { leader_epoch, partition_epoch, .. } = proposal;
            self.calls.push(Call { id: call, from: *id, from_epoch: *broker_epoch, leader_epoch, partition_epoch });
            let (from, from_epoch, sent_at) = (*id, *broker_epoch, self.now);
            push(&mut self.proposals, SentProposal { call, from, from_epoch, proposal, sent_at });
        }
    }

    /// What is on its way is lost; who waits for an answer is told that there is none.
    pub fn lose_all_messages(&mut self) {
        self.fetches.clear();
        self.answers.clear();
        self.proposals.clear();
        self.decisions.clear();
        for call in self.calls.clone() {
            self.decide(call.id, ProposalOutcome::Unknown);
        }
    }

    /// Every proposal is decided and answered.
    pub fn decide_all(&mut self) {
        while !self.proposals.is_empty() {
            self.message(Traffic::Proposals, 0, Fate::Arrives);
        }
        while !self.decisions.is_empty() {
            self.message(Traffic::Decisions, 0, Fate::Arrives);
        }
    }
}

fn slot(broker: BrokerId) -> usize {
    usize::try_from(broker.get()).unwrap() - 1
}

fn push<T>(messages: &mut Vec<T>, message: T) {
    if messages.len() == IN_FLIGHT_MAX {
        messages.remove(0);
    }
    messages.push(message);
}

fn take<T: Clone>(messages: &mut Vec<T>, at: usize, fate: Fate) -> Option<T> {
    if messages.is_empty() {
        return None;
    }
    let at = at % messages.len();
    match fate {
        Fate::Arrives => Some(messages.remove(at)),
        Fate::Repeats => Some(messages[at].clone()),
        Fate::Lost => {
            messages.remove(at);
            None
        }
    }
}
