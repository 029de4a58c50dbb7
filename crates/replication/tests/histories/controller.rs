//! A controller as small as the rules of KIP-966 allow: compare-and-set, fencing, election from ISR and then ELR.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_replication::{AliveBrokers, PartitionView, Proposal, ProposalOutcome};
use highwater_types::{BrokerEpoch, BrokerId, Durability, LeaderEpoch, PartitionEpoch};

/// One version of the metadata.
#[derive(Debug, Clone)]
pub struct Image {
    pub view: PartitionView,
    pub alive: AliveBrokers,
    pub min_insync: usize,
}

pub struct Controller {
    durability: Durability,
    /// All versions; the last is the present.
    pub images: Vec<Image>,
    fenced: BTreeSet<BrokerId>,
    broker_epochs: BTreeMap<BrokerId, BrokerEpoch>,
    next_broker_epoch: BrokerEpoch,
    pub elections: usize,
    pub joins: usize,
    pub shrinks: usize,
}

impl Controller {
    pub fn new(brokers: &[BrokerId], min_insync: usize, durability: Durability) -> Self {
        let view = PartitionView {
            replicas: brokers.to_vec(),
            isr: brokers.to_vec(),
            elr: Vec::new(),
            leader: Some(brokers[0]),
            leader_epoch: LeaderEpoch::FIRST,
            partition_epoch: PartitionEpoch::FIRST,
            unusable: Vec::new(),
            recovering: false,
        };
        let mut this = Self {
            durability,
            images: Vec::new(),
            fenced: BTreeSet::new(),
            broker_epochs: brokers.iter().map(|b| (*b, BrokerEpoch::FIRST)).collect(),
            next_broker_epoch: BrokerEpoch::FIRST.next(),
            elections: 0,
            joins: 0,
            shrinks: 0,
        };
        let min_insync = min_insync.min(brokers.len());
        this.images.push(Image { view, alive: this.alive(), min_insync });
        this
    }

    pub fn now(&self) -> &Image {
        self.images.last().expect("there always is a version")
    }

    fn alive(&self) -> AliveBrokers {
        let alive = self.broker_epochs.iter().filter(|(b, _)| !self.fenced.contains(b));
        Arc::new(alive.map(|(b, e)| (*b, *e)).collect())
    }

    pub fn fence(&mut self, broker: BrokerId) {
        if self.fenced.insert(broker) {
            let isr = self.now().view.isr.iter().copied().filter(|b| *b != broker).collect();
            self.publish(isr, None, self.now().min_insync);
        }
    }

    pub fn unfence(&mut self, broker: BrokerId) {
        if self.fenced.remove(&broker) {
            self.publish(self.now().view.isr.clone(), None, self.now().min_insync);
        }
    }

    /// A new incarnation, only after the old one is fenced (T18). Fenced until it has caught up with the metadata.
    pub fn register(&mut self, broker: BrokerId, clean: bool) -> BrokerEpoch {
        self.fence(broker);
        let epoch = self.next_broker_epoch;
        self.next_broker_epoch = epoch.next();
        self.broker_epochs.insert(broker, epoch);
        // T17: it may have lost what it had acknowledged.
        let lost = (!clean && self.durability == Durability::Replicated).then_some(broker);
        self.publish(self.now().view.isr.clone(), lost, self.now().min_insync);
        epoch
    }

    pub fn set_min_insync(&mut self, replicas: usize) {
        let replicas = replicas.min(self.now().view.replicas.len());
        self.publish(self.now().view.isr.clone(), None, replicas);
    }

    /// `sent_at`: what is older than a call may last is not carried out.
    pub fn alter(&mut self, from: BrokerId, proposal: &Proposal, sent_at: Duration, now: Duration) -> ProposalOutcome {
        let view = self.now().view.clone();
        if now.saturating_sub(sent_at) > Duration::from_secs(5) {
            return ProposalOutcome::Unknown;
        }
        if view.leader != Some(from)
            || view.leader_epoch != proposal.leader_epoch
            || view.partition_epoch != proposal.partition_epoch
        {
            return ProposalOutcome::Stale;
        }
        for member in &proposal.new_isr {
            let is_new = !view.isr.contains(&member.broker) && member.broker != from;
            let stated = member.broker_epoch != BrokerEpoch::NONE;
            let matches = self.broker_epochs.get(&member.broker) == Some(&member.broker_epoch);
            if self.fenced.contains(&member.broker) || (stated && !matches) || (is_new && !stated) {
                return ProposalOutcome::Refused;
            }
        }
        let isr: Vec<_> = proposal.new_isr.iter().map(|m| m.broker).collect();
        self.joins += isr.iter().filter(|b| !view.isr.contains(b)).count();
        self.shrinks += view.isr.iter().filter(|b| !isr.contains(b)).count();
        self.publish(isr, None, self.now().min_insync);
        ProposalOutcome::Accepted { partition_epoch: self.now().view.partition_epoch }
    }

    /// KIP-966: who leaves an ISR that is, or so becomes, smaller than `min.insync.replicas` stays eligible.
    fn publish(&mut self, isr: Vec<BrokerId>, lost: Option<BrokerId>, min_insync: usize) {
        let old = self.now().view.clone();
        let mut view = old.clone();
        view.isr = isr;
        let eligible: BTreeSet<BrokerId> = old.elr.iter().chain(&old.isr).copied().collect();
        view.elr = match view.isr.len() >= min_insync {
            true => Vec::new(),
            false => eligible.into_iter().filter(|b| !view.isr.contains(b) && Some(*b) != lost).collect(),
        };
        let can_lead = |b: &BrokerId| !self.fenced.contains(b);
        let stays = view.leader.filter(|b| can_lead(b) && view.isr.contains(b));
        view.leader = stays
            .or_else(|| view.isr.iter().copied().find(can_lead))
            .or_else(|| view.elr.iter().copied().find(can_lead));
        if let Some(leader) = view.leader
            && !view.isr.contains(&leader)
        {
            view.elr.retain(|b| *b != leader);
            view.isr.push(leader);
            if view.isr.len() >= min_insync {
                view.elr.clear();
            }
        }
        if view.leader != old.leader {
            view.leader_epoch = view.leader_epoch.next();
            self.elections += usize::from(view.leader.is_some());
        }
        if view != old {
            view.partition_epoch = view.partition_epoch.next();
        }
        self.images.push(Image { view, alive: self.alive(), min_insync });
    }
}
