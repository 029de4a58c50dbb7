//! Elections that are asked for: preferred leaders, and unclean ones by name (KIP-460).

use std::collections::BTreeSet;

use highwater_types::TopicPartition;

use super::{Brokers, Decision};
use crate::command::{CommandResponse, Election, ElectionOutcome};
use crate::election;
use crate::error::CommandError;
use crate::image::{ClusterImage, PartitionState, TopicState};
use crate::record::Record;

pub(super) fn elect_preferred(image: &ClusterImage, topics: &BTreeSet<String>) -> Result<Decision, CommandError> {
    if let Some(name) = topics.iter().find(|name| image.topic_by_name(name).is_none()) {
        return Err(CommandError::UnknownTopic { name: name.clone() });
    }
    let asked = image.topics.values().filter(|t| topics.is_empty() || topics.contains(t.name.as_str()));
    let moved = asked.flat_map(|topic| topic.iter()).filter_map(|(partition, old)| {
        let (_, state) = to_preferred(image, old);
        state.map(|state| Record::PartitionChanged { partition, state })
    });
    let records: Vec<Record> = moved.collect();
    let moved = u32::try_from(records.len()).unwrap_or(u32::MAX);
    Ok(Decision::new(records, CommandResponse::PreferredElected { moved }))
}

pub(super) fn elect(image: &ClusterImage, election: Election, partitions: &BTreeSet<TopicPartition>) -> Decision {
    let brokers = Brokers::of(image);
    let (mut records, mut outcomes) = (Vec::new(), Vec::new());
    let all = image.partitions().map(|(partition, _)| partition).filter(|_| partitions.is_empty());
    for partition in partitions.iter().copied().chain(all) {
        let topic = image.topic(partition.topic);
        let (outcome, state) = match topic.and_then(|topic| Some((topic, topic.partition(partition.partition)?))) {
            None => (ElectionOutcome::UnknownPartition, None),
            Some((_, old)) if election == Election::Preferred => to_preferred(image, old),
            Some((topic, old)) => unclean(image, &brokers, topic, old),
        };
        if !partitions.is_empty() || outcome != ElectionOutcome::NotNeeded {
            outcomes.push((partition, outcome));
        }
        records.extend(state.map(|state| Record::PartitionChanged { partition, state }));
    }
    Decision::new(records, CommandResponse::LeadersElected { partitions: outcomes })
}

fn to_preferred(image: &ClusterImage, old: &PartitionState) -> (ElectionOutcome, Option<PartitionState>) {
    let preferred = old.replicas.first().copied();
    if preferred == old.leader && preferred.is_some() {
        return (ElectionOutcome::NotNeeded, None);
    }
    let can_lead = |id| old.isr.contains(&id) && image.is_active(id) && !old.unusable.contains(&id) && !old.recovering;
    let Some(preferred) = preferred.filter(|id| can_lead(*id)) else {
        return (ElectionOutcome::PreferredNotAvailable, None);
    };
    let mut next = old.clone();
    next.leader = Some(preferred);
    next.leader_epoch = old.leader_epoch.next();
    (ElectionOutcome::Elected, election::finish(old, next))
}

/// What is asked for is kept in the partition's state, so that log ends are reported and the best of them is chosen (T19).
fn unclean(
    image: &ClusterImage,
    brokers: &Brokers<'_>,
    topic: &TopicState,
    old: &PartitionState,
) -> (ElectionOutcome, Option<PartitionState>) {
    if old.leader.is_some() {
        return (ElectionOutcome::NotNeeded, None);
    }
    if !old.replicas.iter().any(|replica| image.is_active(*replica)) {
        return (ElectionOutcome::NoReplicaAvailable, None);
    }
    let (config, mut next) = (topic.config(), old.clone());
    next.unclean_asked = true;
    let min_insync = config.min_insync_replicas as usize;
    let settled = brokers.settle(old, next, &old.isr, &[], min_insync, config.unclean_election);
    match &settled {
        Some(state) if state.leader.is_some() => (ElectionOutcome::Elected, settled),
        _ => (ElectionOutcome::Awaited, settled),
    }
}
