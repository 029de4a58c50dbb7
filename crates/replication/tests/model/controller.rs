//! The controller, reduced to one partition: fencing, compare-and-set, elections from ISR and ELR (KIP-966).

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_replication::{AliveBrokers, PartitionView, Proposal, ProposalOutcome};
use highwater_types::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch};

#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub epoch: BrokerEpoch,
    pub fenced: bool,
    pub shutting_down: bool,
}

/// What the metadata stream carries.
#[derive(Debug, Clone)]
pub struct Image {
    pub view: PartitionView,
    pub alive: AliveBrokers,
}

#[derive(Debug)]
pub struct Controller {
    pub view: PartitionView,
    pub brokers: BTreeMap<BrokerId, Standing>,
    /// All there ever were, oldest first.
    pub images: Vec<Image>,
    min_insync: usize,
    next_broker_epoch: i64,
}

impl Controller {
    /// All brokers registered and unfenced, all in sync, the first one leads.
    pub fn new(replicas: &[BrokerId], min_insync: usize) -> Self {
        let standing = |epoch| Standing { epoch: BrokerEpoch::new(epoch), fenced: false, shutting_down: false };
        let brokers: BTreeMap<_, _> = replicas.iter().zip(1..).map(|(b, epoch)| (*b, standing(epoch))).collect();
        let view = PartitionView {
            replicas: replicas.to_vec(),
            isr: replicas.to_vec(),
            elr: Vec::new(),
            leader: Some(replicas[0]),
            leader_epoch: LeaderEpoch::new(0),
            partition_epoch: PartitionEpoch::new(0),
            unusable: Vec::new(),
            recovering: false,
        };
        let next_broker_epoch = 1 + i64::try_from(replicas.len()).unwrap();
        let mut controller = Self { view, brokers, images: Vec::new(), min_insync, next_broker_epoch };
        controller.publish();
        controller
    }

    pub fn epoch_of(&self, broker: BrokerId) -> BrokerEpoch {
        self.brokers[&broker].epoch
    }
    pub fn is_electable(&self, broker: BrokerId) -> bool {
        self.view.isr.contains(&broker) || self.view.elr.contains(&broker)
    }

    pub fn set_fenced(&mut self, broker: BrokerId, fenced: bool, choice: usize) {
        let standing = self.brokers.get_mut(&broker).unwrap();
        if standing.fenced != fenced {
            standing.fenced = fenced;
            self.settle(self.view.isr.clone(), None, choice);
        }
    }

    pub fn begin_shutdown(&mut self, broker: BrokerId, choice: usize) {
        self.brokers.get_mut(&broker).unwrap().shutting_down = true;
        self.settle(self.view.isr.clone(), None, choice);
    }

    /// T18: the old incarnation is fenced first. `lost`: the new one cannot prove that it still has what it had (T17).
    pub fn register(&mut self, broker: BrokerId, lost: bool, choice: usize) -> BrokerEpoch {
        self.set_fenced(broker, true, choice);
        if lost {
            self.settle(self.view.isr.clone(), Some(broker), choice);
        }
        let epoch = BrokerEpoch::new(self.next_broker_epoch);
        self.next_broker_epoch += 1;
        self.brokers.insert(broker, Standing { epoch, fenced: true, shutting_down: false });
        self.publish();
        epoch
    }

    /// Moves leadership within the ISR.
    pub fn elect(&mut self, broker: BrokerId) {
        let is_active = !self.brokers[&broker].fenced && !self.brokers[&broker].shutting_down;
        if is_active && self.view.isr.contains(&broker) && self.view.leader != Some(broker) {
            self.view.leader = Some(broker);
            self.view.leader_epoch = self.view.leader_epoch.next();
            self.view.partition_epoch = self.view.partition_epoch.next();
            self.publish();
        }
    }

    /// `Accepted` with a newer partition epoch: it is carried out.
    pub fn alter(&mut self, from: BrokerId, from_epoch: BrokerEpoch, proposal: &Proposal) -> ProposalOutcome {
        if self.epoch_of(from) != from_epoch {
            // `StaleBrokerEpoch`, which says nothing of the partition.
            return ProposalOutcome::Unknown;
        }
        let view = &self.view;
        if view.leader != Some(from)
            || view.leader_epoch != proposal.leader_epoch
            || view.partition_epoch != proposal.partition_epoch
        {
            return ProposalOutcome::Stale;
        }
        for member in &proposal.new_isr {
            let standing = self.brokers[&member.broker];
            let is_new = !view.isr.contains(&member.broker);
            let stated = member.broker_epoch != BrokerEpoch::NONE;
            if standing.fenced
                || stated && member.broker_epoch != standing.epoch
                || is_new && (!stated || standing.shutting_down)
            {
                return ProposalOutcome::Refused;
            }
        }
        self.settle(proposal.new_isr.iter().map(|m| m.broker).collect(), None, 0);
        ProposalOutcome::Accepted { partition_epoch: self.view.partition_epoch }
    }

    /// ISR, ELR and leader in line with who is there. `choice` picks among equals.
    fn settle(&mut self, wished_isr: Vec<BrokerId>, lost: Option<BrokerId>, choice: usize) {
        let old = self.view.clone();
        let is_active = |b: &BrokerId| !self.brokers[b].fenced && !self.brokers[b].shutting_down;
        let was_copy = |b: &BrokerId| (old.isr.contains(b) || old.elr.contains(b)) && lost != Some(*b);
        let mut isr: Vec<BrokerId> =
            wished_isr.into_iter().filter(|b| lost != Some(*b) && !self.brokers[b].fenced).collect();
        if isr.iter().any(is_active) {
            isr.retain(is_active);
        }
        let pick = |from: Vec<BrokerId>| (!from.is_empty()).then(|| from[choice % from.len()]);
        let stays = old.leader.filter(|b| isr.contains(b));
        let leader = stays
            .or_else(|| pick(isr.clone()))
            .or_else(|| pick(old.replicas.iter().copied().filter(|b| was_copy(b) && is_active(b)).collect()));
        if let Some(leader) = leader
            && isr.is_empty()
        {
            isr.push(leader);
        }
        let elr = if isr.len() >= self.min_insync {
            Vec::new()
        } else {
            old.replicas.iter().copied().filter(|b| was_copy(b) && !isr.contains(b)).collect()
        };
        let mut next = PartitionView { isr, elr, leader, ..old.clone() };
        if next.leader != old.leader {
            next.leader_epoch = old.leader_epoch.next();
        }
        if next != old {
            next.partition_epoch = old.partition_epoch.next();
        }
        self.view = next;
        self.publish();
    }

    fn publish(&mut self) {
        let alive = self.brokers.iter().filter(|(_, s)| !s.fenced && !s.shutting_down);
        let alive = Arc::new(alive.map(|(b, s)| (*b, s.epoch)).collect());
        self.images.push(Image { view: self.view.clone(), alive });
    }
}
