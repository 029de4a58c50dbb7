//! Placement is complete, balanced and rack-aware, whatever the cluster.

use std::collections::{BTreeMap, BTreeSet};

use highwater_metadata::{PlacementBroker, place};
use highwater_types::BrokerId;
use proptest::prelude::*;

fn broker(id: u32, rack: Option<String>, active: bool) -> PlacementBroker {
    let id = BrokerId::new(id);
    PlacementBroker { id, rack, active, topic_leaders: 0, topic_replicas: 0, leaders: 0, replicas: 0 }
}

fn spread<'a>(brokers: &[PlacementBroker], chosen: impl Iterator<Item = &'a BrokerId>) -> usize {
    let mut counts: BTreeMap<BrokerId, usize> = brokers.iter().map(|b| (b.id, 0)).collect();
    chosen.for_each(|id| *counts.get_mut(id).unwrap() += 1);
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

proptest! {
    #[test]
    fn placement_is_complete(
        up in prop::collection::vec(any::<bool>(), 1..10), partitions in 0usize..40, rf in 1usize..6, seed: u64,
    ) {
        let brokers: Vec<_> = (0..).zip(&up).map(|(i, up)| broker(i, None, *up)).collect();
        let active = up.iter().filter(|up| **up).count();
        let placed = place(&brokers, partitions, rf, seed);
        if rf > brokers.len() || active == 0 {
            prop_assert!(placed.is_empty());
            return Ok(());
        }
        prop_assert_eq!(placed.len(), partitions);
        let is_up = |id: &BrokerId| up[id.get() as usize];
        for replicas in &placed {
            prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), rf);
            prop_assert!(is_up(&replicas[0]));
            prop_assert_eq!(replicas.iter().filter(|id| is_up(id)).count(), rf.min(active));
        }
    }

    #[test]
    fn placement_is_balanced_over_equal_brokers(
        racks in 1u32..4, per_rack in 1u32..4, partitions in 1usize..60, rf in 1usize..5, seed: u64,
    ) {
        let n = racks * per_rack;
        prop_assume!(rf <= n as usize);
        let brokers: Vec<_> = (0..n).map(|i| broker(i, Some(format!("r{}", i % racks)), true)).collect();
        let placed = place(&brokers, partitions, rf, seed);
        prop_assert!(spread(&brokers, placed.iter().map(|r| &r[0])) <= 1, "leaders {placed:?}");
        prop_assert!(spread(&brokers, placed.iter().flatten()) <= 2, "replicas {placed:?}");
    }

    #[test]
    fn placement_uses_as_many_racks_as_there_can_be(
        rack_of in prop::collection::vec(0u8..4, 1..10), partitions in 1usize..40, rf in 1usize..6, seed: u64,
    ) {
        prop_assume!(rf <= rack_of.len());
        let brokers: Vec<_> = (0..).zip(&rack_of).map(|(i, r)| broker(i, Some(r.to_string()), true)).collect();
        let racks = rack_of.iter().collect::<BTreeSet<_>>().len();
        for replicas in place(&brokers, partitions, rf, seed) {
            let used: BTreeSet<_> = replicas.iter().map(|id| rack_of[id.get() as usize]).collect();
            prop_assert_eq!(used.len(), racks.min(rf));
        }
    }

    #[test]
    fn the_same_seed_places_the_same(partitions in 0usize..20, seed: u64) {
        let brokers: Vec<_> = (0..5).map(|i| broker(i, None, true)).collect();
        prop_assert_eq!(place(&brokers, partitions, 3, seed), place(&brokers, partitions, 3, seed));
    }
}

#[test]
fn many_small_topics_are_spread_too() {
    let mut brokers: Vec<_> = (0..3).map(|i| broker(i, None, true)).collect();
    for seed in 0..30 {
        let placed = place(&brokers, 1, 2, seed);
        for (rank, id) in placed[0].iter().enumerate() {
            let load = &mut brokers[id.get() as usize];
            load.replicas += 1;
            load.leaders += usize::from(rank == 0);
        }
    }
    assert!(brokers.iter().all(|b| (9..=11).contains(&b.leaders)), "{brokers:?}");
    assert!(brokers.iter().all(|b| (18..=22).contains(&b.replicas)), "{brokers:?}");
}

#[test]
fn the_followers_of_one_leader_are_spread() {
    let brokers: Vec<_> = (0..4).map(|i| broker(i, None, true)).collect();
    let mut second: BTreeMap<(BrokerId, BrokerId), usize> = BTreeMap::new();
    for replicas in place(&brokers, 24, 2, 5) {
        *second.entry((replicas[0], replicas[1])).or_default() += 1;
    }
    assert_eq!(second.len(), 12, "each leader has each other broker as a follower: {second:?}");
}
