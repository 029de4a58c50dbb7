//! ISR proposals, log ends and damage.

use std::collections::BTreeSet;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerEpoch, BrokerId, Durability, TopicPartition};

use super::{Brokers, Decision, broker_of_epoch};
use crate::command::{AlterPartition, AlteredPartition, CommandResponse, IsrMember, PartitionLogEnd};
use crate::error::{CommandError, Ineligible};
use crate::image::{ClusterImage, PartitionState, ReplicaLogEnd};
use crate::record::Record;

/// Each proposal is taken or refused by itself. A proposal that is taken may at once be followed by a move of
/// leadership (the leader is shutting down or unusable, and now another can lead): it is answered as fenced then.
pub(super) fn alter(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    proposals: &[AlterPartition],
) -> Result<Decision, CommandError> {
    broker_of_epoch(image, broker, broker_epoch)?;
    let mut records = Vec::new();
    let mut results = Vec::with_capacity(proposals.len());
    let mut seen = BTreeSet::new();
    for proposal in proposals {
        let partition = proposal.partition;
        let result = if seen.insert(partition) {
            alter_one(image, broker, proposal).and_then(|(state, changed)| {
                if changed {
                    records.push(Record::PartitionChanged { partition, state: state.clone() });
                }
                if state.leader_epoch != proposal.leader_epoch {
                    let (asked, current) = (proposal.leader_epoch, state.leader_epoch);
                    return Err(CommandError::FencedLeaderEpoch { partition, asked, current });
                }
                let PartitionState { leader_epoch, partition_epoch, isr, .. } = state;
                Ok(AlteredPartition { leader_epoch, partition_epoch, isr })
            })
        } else {
            Err(CommandError::InvalidIsr { partition, why: "the request names the partition twice".to_owned() })
        };
        results.push((partition, result));
    }
    Ok(Decision::new(records, CommandResponse::PartitionsAltered { partitions: results }))
}

fn alter_one(
    image: &ClusterImage,
    broker: BrokerId,
    proposal: &AlterPartition,
) -> Result<(PartitionState, bool), CommandError> {
    let partition = proposal.partition;
    let topic = image.topic(partition.topic).ok_or(CommandError::UnknownTopicId { topic: partition.topic })?;
    let old = topic.partition(partition.partition).ok_or_else(|| {
        let partitions = topic.partitions.len();
        CommandError::UnknownPartition { partition, partitions }
    })?;
    let (asked, current) = (proposal.leader_epoch, old.leader_epoch);
    let compares = !mutation::is_on(Mutation::IsrNotCompared);
    if asked < current && compares {
        return Err(CommandError::FencedLeaderEpoch { partition, asked, current });
    }
    if asked > current {
        return Err(CommandError::UnknownLeaderEpoch { partition, asked, current });
    }
    if old.leader != Some(broker) && compares {
        return Err(CommandError::NotLeader { partition, broker, leader: old.leader });
    }
    let (asked, current) = (proposal.partition_epoch, old.partition_epoch);
    if asked != current && compares {
        return Err(CommandError::StalePartitionEpoch { partition, asked, current });
    }
    let mut isr = Vec::with_capacity(proposal.new_isr.len());
    for member in &proposal.new_isr {
        check_member(image, broker, old, partition, *member)?;
        if isr.contains(&member.broker) {
            let why = format!("it names broker {} twice", member.broker);
            return Err(CommandError::InvalidIsr { partition, why });
        }
        isr.push(member.broker);
    }
    if !isr.contains(&broker) {
        return Err(CommandError::InvalidIsr { partition, why: "the leader is not in it".to_owned() });
    }
    if old.recovering && !proposal.recovered && isr.len() > 1 {
        let why = "the leader has not finished recovering from an unclean election".to_owned();
        return Err(CommandError::InvalidIsr { partition, why });
    }
    let config = topic.config();
    let mut next = old.clone();
    next.recovering &= !proposal.recovered;
    if config.durability == Durability::Sync {
        // It was caught up by what it has on its disk.
        next.unsynced.retain(|b| old.isr.contains(b) || !isr.contains(b));
    }
    let brokers = Brokers::of(image);
    let min_insync = config.min_insync_replicas as usize;
    let settled = brokers.settle(old, next, &isr, &[], min_insync, config.unclean_election);
    Ok(settled.map_or_else(|| (old.clone(), false), |state| (state, true)))
}

/// TRAPS T8 (KIP-903), T10 (KIP-841): who joins is there, in the incarnation that was seen to be in sync.
fn check_member(
    image: &ClusterImage,
    leader: BrokerId,
    old: &PartitionState,
    partition: TopicPartition,
    member: IsrMember,
) -> Result<(), CommandError> {
    let broker = member.broker;
    if !old.replicas.contains(&broker) {
        return Err(CommandError::InvalidIsr { partition, why: format!("broker {broker} is not a replica") });
    }
    let refuse = |why| Err(CommandError::IneligibleReplica { partition, broker, why });
    let Some(state) = image.broker(broker).filter(|b| !b.fenced) else { return refuse(Ineligible::Fenced) };
    let stated = member.broker_epoch != BrokerEpoch::NONE;
    if stated && member.broker_epoch != state.broker_epoch && !mutation::is_on(Mutation::BrokerEpochNotChecked) {
        return refuse(Ineligible::Restarted);
    }
    if old.isr.contains(&broker) || broker == leader {
        return Ok(());
    }
    if !stated {
        return refuse(Ineligible::NoBrokerEpoch);
    }
    if state.shutting_down {
        return refuse(Ineligible::ShuttingDown);
    }
    if old.unusable.contains(&broker) {
        return refuse(Ineligible::Unusable);
    }
    Ok(())
}

pub(super) fn report_log_ends(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    ends: &[PartitionLogEnd],
) -> Result<Decision, CommandError> {
    broker_of_epoch(image, broker, broker_epoch)?;
    let brokers = Brokers::of(image);
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    for end in ends {
        // What is not awaited any more is old news.
        if !image.awaits_log_end(end.partition, broker) || !seen.insert(end.partition) {
            continue;
        }
        let Some(topic) = image.topic(end.partition.topic) else { continue };
        let Some(old) = topic.partition(end.partition.partition) else { continue };
        let config = topic.config();
        let mut next = old.clone();
        let (last_epoch, log_end_offset) = (end.last_epoch, end.log_end_offset);
        next.log_ends.push(ReplicaLogEnd { broker, last_epoch, log_end_offset });
        let min_insync = config.min_insync_replicas as usize;
        let settled = brokers.settle(old, next, &old.isr, &[], min_insync, config.unclean_election);
        records.extend(settled.map(|state| Record::PartitionChanged { partition: end.partition, state }));
    }
    Ok(Decision::new(records, CommandResponse::Done))
}

/// What a broker says of its copies.
pub(super) struct Copies<'a> {
    pub unusable: &'a BTreeSet<TopicPartition>,
    pub lost: &'a BTreeSet<TopicPartition>,
    pub doubtful: &'a BTreeSet<TopicPartition>,
}

pub(super) fn report_unusable(
    image: &ClusterImage,
    broker: BrokerId,
    broker_epoch: BrokerEpoch,
    copies: &Copies<'_>,
) -> Result<Decision, CommandError> {
    broker_of_epoch(image, broker, broker_epoch)?;
    let records = Brokers::of(image).settle_all(|partition, _, next| {
        if !next.replicas.contains(&broker) {
            return None;
        }
        let (is_unusable, is_lost) = (copies.unusable.contains(&partition), copies.lost.contains(&partition));
        let is_newly_lost = is_lost && !next.storage_lost.contains(&broker);
        // A doubt is as old as the log is open, and whoever is in the ISR has joined it since.
        let is_newly_doubtful = copies.doubtful.contains(&partition) && next.elr.contains(&broker);
        if is_unusable == next.unusable.contains(&broker) && !is_newly_lost && !is_newly_doubtful {
            return None;
        }
        next.unusable.retain(|b| *b != broker);
        if is_unusable {
            next.unusable.push(broker);
        }
        if is_newly_lost {
            next.storage_lost.push(broker);
        }
        if is_newly_doubtful && !next.doubtful.contains(&broker) {
            next.doubtful.push(broker);
        }
        Some(if is_lost || is_newly_doubtful { vec![broker] } else { Vec::new() })
    });
    Ok(Decision::new(records, CommandResponse::Done))
}
