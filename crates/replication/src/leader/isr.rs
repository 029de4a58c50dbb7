//! Proposals to change the ISR, and what they may have made of it.
//!
//! A proposal is compare-and-set on the partition epoch. From when it is sent until the metadata shows a newer partition
//! epoch, or a refusal says for certain that nothing happened, its members count as in sync (TRAPS T11, KIP-497). An
//! acceptance is not applied either: the new ISR comes with the metadata, together with the configuration that it was
//! decided with (T16).
//!
//! A proposal without an answer is no matter of waiting: it may have been carried out, and the metadata that says so may be
//! late for ever if this leader is cut off and replaced. Its members count until the controller, asked again once the first
//! attempt can't be on its way any more, answers that the partition epoch is still the old one.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};

use super::{Leader, LeaderConfig};

/// A member of a proposed ISR, in the incarnation that was seen to be in sync (TRAPS T8, KIP-903).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsrMember {
    pub broker: BrokerId,
    /// `NONE` for the leader, and for a member that has not fetched in this leader epoch.
    pub broker_epoch: BrokerEpoch,
}

/// A change of the ISR, for the controller to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    pub new_isr: Vec<IsrMember>,
    pub leader_epoch: LeaderEpoch,
    /// It holds for a partition at this epoch only.
    pub partition_epoch: PartitionEpoch,
    /// The leader of an unclean election is ready for others to join.
    pub recovered: bool,
}

/// How a proposal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// Carried out; the metadata will show it at this partition epoch.
    Accepted { partition_epoch: PartitionEpoch },
    /// The controller compared the epochs, found them to be its own, and changed nothing.
    /// Only of a proposal that was sent once: it may be refused for what the partition epoch does not show (a member was
    /// fenced), so that another attempt, still on its way, is taken after all. Sent again, it is [`Self::Unknown`].
    Refused,
    /// The controller has moved on (partition epoch, leader epoch or leader): newer metadata is on its way.
    Stale,
    /// No answer: it may have been carried out, or may yet be.
    Unknown,
}

/// What an error of `AlterPartitions`, for one partition or for the whole call, means for the proposal.
pub const fn isr_error_outcome(code: ErrorCode) -> ProposalOutcome {
    match code {
        ErrorCode::FencedLeaderEpoch
        | ErrorCode::NotLeader
        | ErrorCode::InvalidUpdateVersion
        | ErrorCode::UnknownTopicId
        | ErrorCode::UnknownPartition => ProposalOutcome::Stale,
        // Both are said after the epochs were compared.
        ErrorCode::IneligibleReplica | ErrorCode::InvalidRequest => ProposalOutcome::Refused,
        _ => ProposalOutcome::Unknown,
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Slot {
    #[default]
    Free,
    InFlight {
        proposed_at: PartitionEpoch,
        sent: Duration,
        members: Vec<BrokerId>,
    },
    /// The controller's partition epoch is beyond ours: only metadata helps.
    AwaitsMetadata(Vec<BrokerId>),
}

#[derive(Debug, Clone, Default)]
pub(super) struct ProposalSlot {
    slot: Slot,
    /// Members of proposals of the present partition epoch that got no answer.
    uncertain: BTreeSet<BrokerId>,
    /// Until when these may yet be on their way: what is asked after it, and answered, settles them.
    uncertain_until: Duration,
    not_before: Duration,
}

impl ProposalSlot {
    /// Whether some proposal, answered or not, may have put the broker into the ISR.
    pub(super) fn may_have_added(&self, broker: BrokerId) -> bool {
        if mutation::is_on(Mutation::ForgetMaximalIsr) {
            return false;
        }
        let in_slot = match &self.slot {
            Slot::Free => false,
            Slot::InFlight { members, .. } | Slot::AwaitsMetadata(members) => members.contains(&broker),
        };
        in_slot || self.uncertain.contains(&broker)
    }

    /// What was proposed at an older partition epoch is now either in the view or void (T13).
    pub(super) fn on_newer_view(&mut self) {
        *self = Self::default();
    }

    pub(super) fn forget_backoff(&mut self) {
        self.not_before = Duration::ZERO;
    }

    pub(super) fn on_result(
        &mut self,
        proposed_at: PartitionEpoch,
        outcome: ProposalOutcome,
        known: PartitionEpoch,
        config: &LeaderConfig,
        now: Duration,
    ) {
        let (members, sent) = match &mut self.slot {
            Slot::InFlight { proposed_at: at, sent, members } if *at == proposed_at => (std::mem::take(members), *sent),
            // The metadata has overtaken this answer (T13).
            _ => return,
        };
        self.slot = Slot::Free;
        self.not_before = now + config.proposal_backoff;
        match outcome {
            ProposalOutcome::Accepted { partition_epoch } if partition_epoch > known => {
                self.slot = Slot::AwaitsMetadata(members);
            }
            ProposalOutcome::Stale => self.slot = Slot::AwaitsMetadata(members),
            // The controller is where the view is. (An acceptance of no change: the pause keeps it from being a busy loop.)
            ProposalOutcome::Accepted { .. } | ProposalOutcome::Refused => {
                if sent >= self.uncertain_until {
                    self.uncertain.clear();
                }
            }
            ProposalOutcome::Unknown => {
                self.uncertain.extend(members);
                self.uncertain_until = now + config.proposal_lifetime;
            }
        }
    }

    /// Whether it is time to ask what became of proposals without an answer.
    fn must_ask_again(&self, now: Duration) -> bool {
        !self.uncertain.is_empty() && now >= self.uncertain_until
    }
}

impl Leader {
    /// The change of the ISR that is due, if the slot is free. Followers leave only on `may_shrink`: by time.
    pub(super) fn propose(&mut self, may_shrink: bool) -> Option<Proposal> {
        if self.slot.slot != Slot::Free || self.now < self.slot.not_before {
            return None;
        }
        let stays = |broker: BrokerId| {
            broker == self.me || !may_shrink || self.followers.get(&broker).is_none_or(|p| !self.is_behind(p))
        };
        let joins = |broker: BrokerId| !self.view.isr.contains(&broker) && self.may_join(broker);
        // On the path of every fetch entry: decide first, allocate when there is something to propose.
        let changes = self.view.isr.iter().any(|b| !stays(*b)) || self.followers.keys().any(|b| joins(*b));
        if !changes && !self.view.recovering && !self.slot.must_ask_again(self.now) {
            return None;
        }
        let isr = self.view.isr.iter().copied().filter(|b| stays(*b));
        let mut isr: Vec<BrokerId> = isr.chain(self.followers.keys().copied().filter(|b| joins(*b))).collect();
        if !isr.contains(&self.me) {
            isr.push(self.me);
        }
        let epoch_of = |b: &BrokerId| self.followers.get(b).map_or(BrokerEpoch::NONE, |p| p.broker_epoch());
        let new_isr = isr.iter().map(|b| IsrMember { broker: *b, broker_epoch: epoch_of(b) }).collect();
        self.slot.slot = Slot::InFlight { proposed_at: self.view.partition_epoch, sent: self.now, members: isr };
        Some(Proposal {
            new_isr,
            leader_epoch: self.view.leader_epoch,
            partition_epoch: self.view.partition_epoch,
            recovered: self.view.recovering,
        })
    }

    /// T9: it has all that is committed and all that is older than this epoch, by an entry of this epoch, and nothing that is
    /// deleted; T10: it is not fenced or leaving. And it keeps up: while the high watermark stands still, having reached it says
    /// little (T14). Or it has all there is: whoever was taken out while it did (fenced for a moment, its stream alive) is not heard
    /// of again before something is written, and below `min.insync.replicas` nothing is.
    fn may_join(&self, broker: BrokerId) -> bool {
        let Some(progress) = self.followers.get(&broker) else { return false };
        let Some(acknowledged) = progress.acknowledged(self.config.durability) else { return false };
        if mutation::is_on(Mutation::JoinWithoutCatchingUp) {
            return self.view.replicas.contains(&broker) && self.is_eligible(broker, progress);
        }
        self.view.replicas.contains(&broker)
            && acknowledged >= self.high_watermark
            && acknowledged >= self.epoch_start
            && progress.log_start() >= self.log.start
            && self.is_eligible(broker, progress)
            && (!self.is_behind(progress) || progress.has_all(self.log.end, self.config.durability))
    }

    fn is_behind(&self, progress: &super::Progress) -> bool {
        !progress.is_caught_up(self.log.end, self.config, self.now)
    }
}
