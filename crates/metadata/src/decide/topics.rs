//! Topics: create, delete, configure, grow.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::mutation::{self, Mutation};
use highwater_types::{
    BrokerId, ConfigError, ConfigKeyInfo, Durability, TOPIC_CONFIG_KEYS, TopicConfig, TopicId, TopicName,
    TopicPartition, changed_list, topic_config_is_list,
};

use super::{Brokers, Decision};
use crate::command::{CommandResponse, ListChange};
use crate::error::CommandError;
use crate::image::{ClusterImage, PartitionState, TopicState};
use crate::placement::{PlacementBroker, mix, place};
use crate::record::Record;

/// Bound of one topic's partitions.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;
/// Bound of a partition's replicas.
pub const REPLICATION_FACTOR_MAX: u32 = 32;

/// How many partitions with how many replicas, or exactly where.
pub(super) struct Shape<'a> {
    pub partitions: u32,
    pub replication_factor: u32,
    pub assignments: &'a [Vec<BrokerId>],
}

/// How many partitions a topic shall have (0: as `assignments` add), and where new ones are, if that is said.
pub(super) struct Growth<'a> {
    pub partitions: u32,
    /// Whether so many as there are is an error.
    pub must_grow: bool,
    pub assignments: &'a [Vec<BrokerId>],
}

/// What becomes of a topic's configs.
pub(super) struct ConfigChanges<'a> {
    pub set: &'a BTreeMap<String, String>,
    pub unset: &'a BTreeSet<String>,
    pub lists: &'a [ListChange],
}

impl ConfigChanges<'_> {
    /// Carried out on what is set.
    fn apply(&self, configs: &mut BTreeMap<String, String>) -> Result<(), CommandError> {
        check_configs(self.set)?;
        for key in self.unset {
            if self.set.contains_key(key) {
                return Err(invalid_config(format!("topic config {key} can't be both set and unset")));
            }
            info_of(key)?;
            configs.remove(key);
        }
        configs.extend(self.set.iter().map(|(key, value)| (key.clone(), value.clone())));
        for ListChange { key, items, add } in self.lists {
            let info = info_of(key)?;
            if self.set.contains_key(key) || self.unset.contains(key) || !topic_config_is_list(key) {
                let message = format!(
                    "topic config {key} is set or unset, or not a list: nothing is added to it or taken from it"
                );
                return Err(invalid_config(message));
            }
            let present = configs.get(key).map_or(info.default, String::as_str);
            let changed = BTreeMap::from([(key.clone(), changed_list(present, items, *add))]);
            check_configs(&changed)?;
            configs.extend(changed);
        }
        Ok(())
    }
}

fn info_of(key: &str) -> Result<&'static ConfigKeyInfo, CommandError> {
    let found = TOPIC_CONFIG_KEYS.iter().find(|info| info.key == key);
    found.ok_or_else(|| invalid_config(ConfigError::UnknownKey { key: key.to_owned() }.to_string()))
}

fn invalid_config(message: String) -> CommandError {
    CommandError::InvalidConfig { message }
}

pub(super) fn create(
    image: &ClusterImage,
    name: &str,
    shape: &Shape<'_>,
    configs: &BTreeMap<String, String>,
    validate_only: bool,
    seed: u64,
) -> Result<Decision, CommandError> {
    let name = TopicName::new(name).map_err(|e| CommandError::InvalidTopicName { message: e.to_string() })?;
    if image.topic_by_name(name.as_str()).is_some() {
        return Err(CommandError::TopicExists { name: name.as_str().to_owned() });
    }
    check_configs(configs)?;
    let replicas = if shape.assignments.is_empty() {
        check_partition_count(shape.partitions)?;
        check_replication_factor(image, shape.replication_factor)?;
        let brokers = placement_brokers(image, None);
        place(&brokers, shape.partitions as usize, shape.replication_factor as usize, seed)
    } else {
        check_assignments(image, shape)?;
        shape.assignments.to_vec()
    };
    let partitions = replicas.into_iter().map(|replicas| new_partition(image, replicas)).collect();
    let topic = TopicState { id: new_topic_id(image, &name, seed), name, partitions, configs: configs.clone() };
    let records = if validate_only { Vec::new() } else { vec![Record::TopicCreated { topic: topic.clone() }] };
    Ok(Decision::new(records, CommandResponse::Topic { topic }))
}

pub(super) fn delete(image: &ClusterImage, name: &str) -> Result<Decision, CommandError> {
    let topic = known(image, name)?.id;
    Ok(Decision::new(vec![Record::TopicDeleted { topic }], CommandResponse::TopicDeleted { topic }))
}

pub(super) fn delete_by_id(image: &ClusterImage, topic: TopicId) -> Result<Decision, CommandError> {
    let name = image.topic(topic).map(|topic| &topic.name).ok_or(CommandError::UnknownTopicId { topic })?;
    delete(image, name.as_str())
}

pub(super) fn alter(
    image: &ClusterImage,
    name: &str,
    changes: &ConfigChanges<'_>,
    growth: &Growth<'_>,
    seed: u64,
) -> Result<Decision, CommandError> {
    let old = known(image, name)?;
    let mut new = old.clone();
    changes.apply(&mut new.configs)?;
    let mut records = Vec::new();
    if new.configs != old.configs {
        records.push(Record::TopicConfigured { topic: old.id, configs: new.configs.clone() });
        reconfigure(image, old, &mut new, &mut records);
    }
    let present = u32::try_from(old.partitions.len()).unwrap_or(u32::MAX);
    let added = u32::try_from(growth.assignments.len()).unwrap_or(u32::MAX);
    let partitions = if growth.partitions == 0 { present.saturating_add(added) } else { growth.partitions };
    if growth.must_grow && partitions == present {
        let message = format!("topic {} has {present} partitions already", old.name);
        return Err(CommandError::InvalidPartitionCount { message });
    }
    if partitions != present || added != 0 {
        let added = grow(image, old, &Growth { partitions, ..*growth }, present, seed)?;
        records.push(Record::PartitionsAdded { topic: old.id, partitions: added.clone() });
        new.partitions.extend(added);
    }
    Ok(Decision::new(records, CommandResponse::Topic { topic: new }))
}

/// What new configs mean for the partitions that exist.
fn reconfigure(image: &ClusterImage, old: &TopicState, new: &mut TopicState, records: &mut Vec<Record>) {
    let (before, after) = (old.config(), new.config());
    let min_insync_changes = before.min_insync_replicas != after.min_insync_replicas;
    let becomes_sync = before.durability == Durability::Replicated && after.durability == Durability::Sync;
    if !min_insync_changes && !becomes_sync && before.unclean_election == after.unclean_election {
        return;
    }
    let brokers = Brokers::of(image);
    for ((partition, old), slot) in old.iter().zip(&mut new.partitions) {
        let mut next = old.clone();
        if becomes_sync {
            // What they acknowledged until now may be in their page caches only.
            next.unsynced.clone_from(&next.replicas);
        }
        let min_insync = after.min_insync_replicas as usize;
        let settled = brokers.settle(old, next, &old.isr, &[], min_insync, after.unclean_election);
        let state = settled.or_else(|| {
            // Fences ISR proposals of a leader that has yet to learn the new minimum (TRAPS T16): until it does it may
            // advance the high watermark by the old one.
            min_insync_changes.then(|| PartitionState { partition_epoch: old.partition_epoch.next(), ..old.clone() })
        });
        if let Some(state) = state {
            *slot = state.clone();
            records.push(Record::PartitionChanged { partition, state });
        }
    }
}

fn grow(
    image: &ClusterImage,
    topic: &TopicState,
    growth: &Growth<'_>,
    present: u32,
    seed: u64,
) -> Result<Vec<PartitionState>, CommandError> {
    let partitions = growth.partitions;
    if partitions < present {
        let message = format!(
            "topic {} has {present} partitions, and they can't become fewer ({partitions}): records would be lost",
            topic.name
        );
        return Err(CommandError::InvalidPartitionCount { message });
    }
    check_partition_count(partitions)?;
    if !growth.assignments.is_empty() {
        let (added, named) = ((partitions - present) as usize, growth.assignments.len());
        if added != named {
            let message = format!("{added} partitions are added, and the replicas of {named} are given");
            return Err(CommandError::InvalidAssignment { message });
        }
        check_replicas(image, growth.assignments, present as usize, topic.replication_factor())?;
        return Ok(growth.assignments.iter().map(|replicas| new_partition(image, replicas.clone())).collect());
    }
    let replication_factor = u32::try_from(topic.replication_factor()).unwrap_or(u32::MAX);
    check_replication_factor(image, replication_factor)?;
    let brokers = placement_brokers(image, Some(topic));
    let placed = place(&brokers, (partitions - present) as usize, replication_factor as usize, seed);
    Ok(placed.into_iter().map(|replicas| new_partition(image, replicas)).collect())
}

fn known<'a>(image: &'a ClusterImage, name: &str) -> Result<&'a TopicState, CommandError> {
    image.topic_by_name(name).map(AsRef::as_ref).ok_or_else(|| CommandError::UnknownTopic { name: name.to_owned() })
}

/// Never given before: the low half is a bijection of the version, which only grows (TRAPS T21).
fn new_topic_id(image: &ClusterImage, name: &TopicName, seed: u64) -> TopicId {
    if mutation::is_on(Mutation::IdFromName) {
        return TopicId::from_u128(name.as_str().bytes().fold(1, |id, byte| id.rotate_left(8) ^ u128::from(byte)));
    }
    let version = image.version.get();
    let high = mix(seed ^ version).max(1);
    TopicId::from_u128(u128::from(high) << 64 | u128::from(mix(version)))
}

/// In sync are those of its replicas that are up: its log is empty.
fn new_partition(image: &ClusterImage, replicas: Vec<BrokerId>) -> PartitionState {
    let isr = replicas.iter().copied().filter(|b| image.is_active(*b)).collect();
    PartitionState::new(replicas, isr)
}

/// The brokers with their load; `topic` is the one that grows.
fn placement_brokers(image: &ClusterImage, topic: Option<&TopicState>) -> Vec<PlacementBroker> {
    let mut brokers: BTreeMap<BrokerId, PlacementBroker> = BTreeMap::new();
    for broker in image.brokers.values() {
        let (id, rack, active) = (broker.id, broker.rack.clone(), broker.is_active());
        let (topic_leaders, topic_replicas, leaders, replicas) = (0, 0, 0, 0);
        let empty = PlacementBroker { id, rack, active, topic_leaders, topic_replicas, leaders, replicas };
        brokers.insert(id, empty);
    }
    let own = topic.map(|t| t.id);
    for (TopicPartition { topic, .. }, state) in image.partitions() {
        for (index, replica) in state.replicas.iter().enumerate() {
            let Some(load) = brokers.get_mut(replica) else { continue };
            let in_topic = usize::from(own == Some(topic));
            let leads = usize::from(index == 0);
            load.replicas += 1;
            load.leaders += leads;
            load.topic_replicas += in_topic;
            load.topic_leaders += in_topic * leads;
        }
    }
    brokers.into_values().collect()
}

fn check_configs(configs: &BTreeMap<String, String>) -> Result<(), CommandError> {
    let checked = TopicConfig::from_overrides(configs);
    checked.map(|_| ()).map_err(|error| invalid_config(error.to_string()))
}

fn check_partition_count(partitions: u32) -> Result<(), CommandError> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&partitions) {
        return Ok(());
    }
    let message = format!("a topic can have 1 to {PARTITIONS_PER_TOPIC_MAX} partitions, not {partitions}");
    Err(CommandError::InvalidPartitionCount { message })
}

fn check_replication_factor(image: &ClusterImage, replication_factor: u32) -> Result<(), CommandError> {
    let brokers = image.brokers.len();
    let message = if !(1..=REPLICATION_FACTOR_MAX).contains(&replication_factor) {
        format!("a replication factor is from 1 to {REPLICATION_FACTOR_MAX}, not {replication_factor}")
    } else if replication_factor as usize > brokers {
        format!("replication factor {replication_factor} needs as many brokers, and the cluster has {brokers}")
    } else if !image.brokers.values().any(|b| b.is_active()) {
        format!("none of the {brokers} brokers is up")
    } else {
        return Ok(());
    };
    Err(CommandError::InvalidReplicationFactor { message })
}

fn check_assignments(image: &ClusterImage, shape: &Shape<'_>) -> Result<(), CommandError> {
    let refuse = |message: String| Err(CommandError::InvalidAssignment { message });
    if shape.partitions != 0 || shape.replication_factor != 0 {
        return refuse("give either the replicas of each partition or the numbers, not both".to_owned());
    }
    check_partition_count(u32::try_from(shape.assignments.len()).unwrap_or(u32::MAX))?;
    let replication_factor = shape.assignments[0].len();
    if replication_factor == 0 || replication_factor > REPLICATION_FACTOR_MAX as usize {
        return refuse(format!("a partition has 1 to {REPLICATION_FACTOR_MAX} replicas, not {replication_factor}"));
    }
    check_replicas(image, shape.assignments, 0, replication_factor)
}

/// Of partitions from number `first` on, which have `replication_factor` replicas each.
fn check_replicas(
    image: &ClusterImage,
    assignments: &[Vec<BrokerId>],
    first: usize,
    replication_factor: usize,
) -> Result<(), CommandError> {
    let refuse = |message: String| Err(CommandError::InvalidAssignment { message });
    for (partition, replicas) in (first..).zip(assignments) {
        if replicas.len() != replication_factor {
            let found = replicas.len();
            return refuse(format!("partition {partition} has {found} replicas and partition 0 {replication_factor}"));
        }
        let unique: BTreeSet<_> = replicas.iter().collect();
        if unique.len() != replicas.len() {
            return refuse(format!("partition {partition} names a broker twice"));
        }
        if let Some(unknown) = replicas.iter().find(|b| image.broker(**b).is_none()) {
            return refuse(format!("partition {partition} names broker {unknown}, which is not registered"));
        }
        if !replicas.iter().any(|b| image.is_active(*b)) {
            return refuse(format!("none of the replicas of partition {partition} is up"));
        }
    }
    Ok(())
}
