//! Who leads a partition, and who could: ISR, ELR and leader, settled anew after every change.
//!
//! One function, [`settle`], holds all rules, so that fencing, unfencing, shutdown, ISR proposals, damage and
//! configuration changes can't disagree. Source: KIP-966 (eligible leader replicas, unclean recovery), KIP-841.

use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, LeaderEpoch, UncleanElection};

use crate::image::{PartitionState, ReplicaLogEnd, UncleanReport};

/// What the settling of one partition depends on, besides the partition.
pub(crate) struct Rules<'a> {
    pub unfenced: &'a dyn Fn(BrokerId) -> bool,
    /// Neither fenced nor shutting down.
    pub active: &'a dyn Fn(BrokerId) -> bool,
    /// As configured; bounded by the replication factor here (TRAPS T15).
    pub min_insync_replicas: usize,
    pub unclean: UncleanElection,
}

/// The partition with `isr` (as wished), its leader and ELR brought in line with the rules. `next` is `old` with other
/// fields already changed; `lost` are replicas that are no copy of the committed records any more. `None`: nothing changed.
///
/// - The ISR holds unfenced replicas; those shutting down or unusable only as the last one.
/// - The leader stays if it can; else the first usable replica of the ISR, else of the ELR (which becomes the whole
///   ISR), else the last copy even if unusable, else whom the unclean policy chooses.
/// - Who leaves the ISR while it is below `min.insync.replicas` is in the ELR (TRAPS T14, T17).
pub(crate) fn settle(
    old: &PartitionState,
    mut next: PartitionState,
    isr: &[BrokerId],
    lost: &[BrokerId],
    rules: &Rules<'_>,
) -> Option<PartitionState> {
    let usable = |b: BrokerId| (rules.active)(b) && !next.unusable.contains(&b);
    let was_copy =
        |b: BrokerId| old.isr.contains(&b) || old.elr.contains(&b) || mutation::is_on(Mutation::ElectOutsideIsr);

    let mut isr: Vec<BrokerId> =
        old.replicas.iter().copied().filter(|b| isr.contains(b) && !lost.contains(b) && (rules.unfenced)(*b)).collect();
    if isr.iter().any(|b| usable(*b)) {
        isr.retain(|b| usable(*b));
    }
    let eligible: Vec<BrokerId> =
        old.replicas.iter().copied().filter(|b| was_copy(*b) && !isr.contains(b) && !lost.contains(b)).collect();

    let in_sync = old.leader.filter(|b| isr.contains(b) && usable(*b)).or(isr.iter().copied().find(|b| usable(*b)));
    // One that is shutting down goes on until another is in sync, for the sake of what only it has acknowledged.
    let mut leader = in_sync.or(old.leader.filter(|b| isr.contains(b) && !next.unusable.contains(b)));
    if leader.is_none()
        && let Some(elected) = eligible.iter().copied().find(|b| usable(*b))
    {
        // Has every committed record; whoever was in the ISR (unusable) stays eligible.
        leader = Some(elected);
        isr = vec![elected];
    }
    leader = leader.or(old.leader.filter(|b| isr.contains(b)));
    if leader.is_none() && !eligible.is_empty() && eligible.iter().all(|b| next.unusable.contains(b)) {
        // No better copy can return: a damaged one answers for what it has.
        leader = eligible.iter().copied().find(|b| (rules.active)(*b));
        isr = leader.into_iter().collect();
    }

    let mut unclean = None;
    next.log_ends.retain(|end| (rules.unfenced)(end.broker));
    if leader.is_none() {
        isr.clear();
        let offline = PartitionState {
            elr: old.replicas.iter().copied().filter(|b| was_copy(*b) && !lost.contains(b)).collect(),
            last_known_elr: in_order(old, |b| old.last_known_elr.contains(&b) || (was_copy(b) && lost.contains(&b))),
            isr: Vec::new(),
            leader: None,
            ..next.clone()
        };
        unclean = choose_unclean(&offline, rules);
        if let Some(report) = &unclean {
            leader = Some(report.chosen.broker);
            isr = vec![report.chosen.broker];
        }
    }

    let min_insync = rules.min_insync_replicas.min(old.replicas.len()).max(1);
    if isr.len() >= min_insync {
        (next.elr, next.last_known_elr) = (Vec::new(), Vec::new());
    } else {
        // What an unclean election passed over has another history: it is eligible no longer.
        next.elr = if unclean.is_some() {
            Vec::new()
        } else {
            in_order(old, |b| was_copy(b) && !isr.contains(&b) && !lost.contains(&b))
        };
        next.last_known_elr = in_order(old, |b| {
            (was_copy(b) || old.last_known_elr.contains(&b)) && !isr.contains(&b) && !next.elr.contains(&b)
        });
    }
    // Elected in spite of it: it stays noted for this one change, so that the broker learns that its report was heard. Said
    // again, it would cost the leader that it made.
    let heard = unclean.as_ref().map(|report| report.chosen.broker);
    next.storage_lost.retain(|b| !isr.contains(b) || heard == Some(*b));
    next.doubtful.retain(|b| !isr.contains(b));
    next.isr = isr;
    if leader != old.leader {
        next.leader = leader;
        next.leader_epoch = old.leader_epoch.next();
    }
    if leader.is_some() {
        next.log_ends.clear();
        next.unclean_asked = false;
    }
    if let Some(report) = unclean {
        next.recovering = true;
        next.unclean = Some(UncleanReport { leader_epoch: next.leader_epoch, ..report });
    }
    finish(old, next)
}

/// Gives a changed state its new partition epoch (TRAPS T13).
pub(crate) fn finish(old: &PartitionState, mut next: PartitionState) -> Option<PartitionState> {
    next.partition_epoch = old.partition_epoch;
    (next != *old).then(|| {
        next.partition_epoch = old.partition_epoch.next();
        next
    })
}

fn in_order(state: &PartitionState, keep: impl Fn(BrokerId) -> bool) -> Vec<BrokerId> {
    state.replicas.iter().copied().filter(|b| keep(*b)).collect()
}

/// One that was asked for is held at once.
fn policy_of(state: &PartitionState, configured: UncleanElection) -> UncleanElection {
    if state.unclean_asked { UncleanElection::Proactive } else { configured }
}

/// Whether the policy lets a partition without a leader be led by a replica that may lack committed records, once the
/// log ends are known. A single replica that still has its storage may always, and so may those in doubt once all who had
/// the committed records are in doubt or have lost their storage: nobody who has more can ever return.
pub(crate) fn unclean_may_come(
    state: &PartitionState,
    policy: UncleanElection,
    active: &dyn Fn(BrokerId) -> bool,
) -> bool {
    let copies_gone = state.isr.is_empty() && state.elr.is_empty();
    state.leader.is_none()
        && state.replicas.iter().any(|b| active(*b))
        && match policy_of(state, policy) {
            UncleanElection::None => {
                let is_single = state.replicas.len() == 1 && state.storage_lost.is_empty();
                copies_gone && (is_single || only_doubtful_left(state))
            }
            UncleanElection::Balanced => copies_gone,
            UncleanElection::Proactive => true,
        }
}

/// Of those who had every committed record, whoever still has its storage is in doubt: one of them at least has them all,
/// unless all of their disks are at fault, and then it is the one whose log goes furthest (T43).
fn only_doubtful_left(state: &PartitionState) -> bool {
    let mut left = state.last_known_elr.iter().filter(|b| !state.storage_lost.contains(b)).peekable();
    left.peek().is_some() && left.all(|b| state.doubtful.contains(b))
}

/// The choice of an unclean election by (leader epoch, LEO), once everybody it waits for has said where its log ends.
fn choose_unclean(offline: &PartitionState, rules: &Rules<'_>) -> Option<UncleanReport> {
    if !unclean_may_come(offline, rules.unclean, rules.active) {
        return None;
    }
    let end_of = |b: BrokerId| offline.log_ends.iter().find(|end| end.broker == b).copied();
    let policy = policy_of(offline, rules.unclean);
    let may_have_more = |b: &BrokerId| !offline.storage_lost.contains(b) && !(rules.active)(*b);
    if policy != UncleanElection::Proactive && offline.last_known_elr.iter().any(may_have_more) {
        return None;
    }
    // Without a policy nobody who was behind leads: what was deleted meanwhile would come back.
    let had_all = |b: &BrokerId| offline.last_known_elr.contains(b) && !offline.storage_lost.contains(b);
    let may_lead = |b: &BrokerId| (rules.active)(*b) && (policy != UncleanElection::None || had_all(b));
    let able: Vec<BrokerId> = offline.replicas.iter().copied().filter(may_lead).collect();
    let is_usable = |b: &BrokerId| !offline.unusable.contains(b);
    // One that is damaged besides leads where there is no other.
    let damaged_too = !able.iter().any(is_usable) && policy == UncleanElection::None;
    let mut candidates = Vec::with_capacity(able.len());
    for broker in able.into_iter().filter(|b| damaged_too || is_usable(b)) {
        candidates.push(end_of(broker)?);
    }
    // The first of equals in the order of the replicas.
    let rank = |end| rank(end, offline.leader_epoch);
    let chosen = candidates.iter().copied().reduce(|best, end| if rank(end) > rank(best) { end } else { best })?;
    let others = offline.log_ends.iter().copied().filter(|end| end.broker != chosen.broker).collect();
    let copies = offline.elr.iter().chain(&offline.last_known_elr).copied();
    let not_heard = copies.filter(|b| end_of(*b).is_none()).collect();
    Some(UncleanReport { leader_epoch: offline.leader_epoch, chosen, others, not_heard })
}

/// An epoch that has never been is a flipped bit: no CRC covers it.
fn rank(end: ReplicaLogEnd, newest: LeaderEpoch) -> impl Ord {
    let epoch = if end.last_epoch > newest { LeaderEpoch::NONE } else { end.last_epoch };
    (epoch, end.log_end_offset)
}
