//! Where the replicas of new partitions go.
//!
//! Greedy: each choice takes the broker with the least load so far, which keeps leaders of a topic within one of each
//! other, spreads replicas over racks, spreads the followers of one leader (so that its load spreads when it dies), and
//! evens out many small topics. Ties are broken by the seed.

use std::collections::BTreeMap;

use highwater_types::BrokerId;

/// A broker that can take replicas, and what it has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementBroker {
    pub id: BrokerId,
    pub rack: Option<String>,
    /// Up: can be in sync from the start. The others are taken only where there are too few of these.
    pub active: bool,
    /// Partitions of the same topic that it leads by preference, and all that it holds of the topic.
    pub topic_leaders: usize,
    pub topic_replicas: usize,
    /// The same over all topics.
    pub leaders: usize,
    pub replicas: usize,
}

/// The replicas of `partitions` new partitions, the preferred leader first. Fewer than `replication_factor` brokers, or
/// no active one: an empty answer.
pub fn place(
    brokers: &[PlacementBroker],
    partitions: usize,
    replication_factor: usize,
    seed: u64,
) -> Vec<Vec<BrokerId>> {
    let active = brokers.iter().filter(|b| b.active).count();
    if replication_factor == 0 || brokers.len() < replication_factor || active == 0 {
        return Vec::new();
    }
    let only_active = active >= replication_factor;
    let mut load: Vec<PlacementBroker> = brokers.iter().filter(|b| b.active || !only_active).cloned().collect();
    let mut pairs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut placed = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        let tie = |index: usize| mix(seed ^ mix((partition as u64) << 32 | index as u64));
        let mut chosen: Vec<usize> = Vec::with_capacity(replication_factor);
        let leader = (0..load.len()).filter(|i| load[*i].active).min_by_key(|i| {
            let b = &load[*i];
            (b.topic_leaders, b.topic_replicas, b.leaders, b.replicas, tie(*i))
        });
        let Some(leader) = leader else { return Vec::new() };
        chosen.push(leader);
        while chosen.len() < replication_factor {
            let follower = (0..load.len()).filter(|i| !chosen.contains(i)).min_by_key(|i| {
                let b = &load[*i];
                let in_rack = chosen.iter().filter(|c| load[**c].rack == b.rack).count();
                let paired = pairs.get(&(leader, *i)).copied().unwrap_or(0);
                (!b.active, in_rack, b.topic_replicas, paired, b.replicas, tie(*i))
            });
            let Some(follower) = follower else { return Vec::new() };
            *pairs.entry((leader, follower)).or_default() += 1;
            chosen.push(follower);
        }
        load[leader].topic_leaders += 1;
        load[leader].leaders += 1;
        for index in &chosen {
            load[*index].topic_replicas += 1;
            load[*index].replicas += 1;
        }
        placed.push(chosen.into_iter().map(|i| load[i].id).collect());
    }
    placed
}

/// SplitMix64's finalizer: a bijection that leaves no pattern.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
