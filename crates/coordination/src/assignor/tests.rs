use std::sync::Arc;

use highwater_types::{PartitionId, TopicId, TopicName};
use proptest::prelude::*;

use super::*;
use crate::{TopicInfo, Topics};

fn member(number: usize) -> MemberId {
    MemberId::new(format!("member-{number:03}")).unwrap()
}

fn partitions(topic: u128, count: u32) -> BTreeSet<TopicPartition> {
    (0..count).map(|p| TopicPartition::new(TopicId::from_u128(topic), PartitionId::new(p))).collect()
}

/// `members` that all subscribe to two topics.
fn equal(members: usize, counts: [u32; 2]) -> Assignment {
    let all: BTreeSet<_> = partitions(1, counts[0]).union(&partitions(2, counts[1])).copied().collect();
    (0..members).map(|number| (member(number), all.clone())).collect()
}

fn check(subscribed: &Assignment, assigned: &Assignment) {
    let mut seen = BTreeSet::new();
    for (member, held) in assigned {
        for tp in held {
            assert!(subscribed[member].contains(tp), "{member} has {tp} and does not subscribe to it");
            assert!(seen.insert(*tp), "{tp} is assigned twice");
        }
    }
    let wanted: BTreeSet<_> = subscribed.values().flatten().copied().collect();
    assert_eq!(seen, wanted, "complete");
}

fn spread(assigned: &Assignment) -> usize {
    let counts = || assigned.values().map(BTreeSet::len);
    counts().max().unwrap_or(0) - counts().min().unwrap_or(0)
}

fn moved(before: &Assignment, after: &Assignment) -> usize {
    let owner = |of: &Assignment, tp| of.iter().find(|(_, held)| held.contains(tp)).map(|(member, _)| member.clone());
    let all: BTreeSet<_> = before.values().flatten().copied().collect();
    all.iter().filter(|tp| owner(before, tp) != owner(after, tp)).count()
}

#[test]
fn one_member_more_takes_its_fair_share_and_nothing_else_moves() {
    let three = Assignor::Uniform.assign(&equal(3, [30, 30]), &Assignment::new(), &Racks::default());
    let four = Assignor::Uniform.assign(&equal(4, [30, 30]), &three, &Racks::default());
    check(&equal(4, [30, 30]), &four);
    assert_eq!((spread(&four), moved(&three, &four)), (0, 15));
}

#[test]
fn ranges_put_partitions_of_the_same_number_together() {
    let assigned = Assignor::Range.assign(&equal(2, [4, 4]), &Assignment::new(), &Racks::default());
    let numbers = |topic: u128| -> Vec<u32> {
        let of = assigned[&member(0)].iter().filter(|tp| tp.topic == TopicId::from_u128(topic));
        of.map(|tp| tp.partition.get()).collect()
    };
    assert_eq!((numbers(1), numbers(2)), (vec![0, 1], vec![0, 1]));
}

#[test]
fn a_hundred_members_and_a_thousand_partitions() {
    let before = Assignor::Uniform.assign(&equal(100, [500, 500]), &Assignment::new(), &Racks::default());
    let mut subscribed = equal(100, [500, 500]);
    subscribed.remove(&member(7));
    let after = Assignor::Uniform.assign(&subscribed, &before, &Racks::default());
    check(&subscribed, &after);
    assert_eq!((spread(&before), moved(&before, &after)), (0, 10));
    assert!(spread(&after) <= 1);
}

const RACKS: [&str; 3] = ["x", "y", "z"];

/// Members and replicas in racks by their numbers; bits of replicas, for one rack each.
fn racks(members: &[Option<usize>], replicas: [&[u8]; 2]) -> Racks {
    let of = |bits: &u8| (0..3).filter(|n| bits >> n & 1 == 1).map(|n| Arc::from(RACKS[n])).collect();
    let topics = replicas.iter().enumerate().map(|(n, replicas)| {
        let name = TopicName::new(format!("t{n}")).unwrap();
        (TopicId::from_u128(n as u128 + 1), TopicInfo { name, racks: replicas.iter().map(of).collect() })
    });
    let of = members.iter().enumerate().filter_map(|(n, rack)| Some((member(n), RACKS[(*rack)?].to_owned())));
    Racks::new(of, &Topics::new(topics))
}

fn near(assigned: &Assignment, racks: &Racks) -> BTreeSet<TopicPartition> {
    let of = assigned.iter().flat_map(|(member, held)| held.iter().map(move |tp| (member, *tp)));
    of.filter(|(member, tp)| racks.is_near(member, *tp)).map(|(_, tp)| tp).collect()
}

#[test]
fn a_member_that_comes_takes_what_is_near_to_it_and_nothing_else_moves() {
    let racks = racks(&[Some(0), Some(1)], [&[1, 2, 1, 2, 1, 2], &[]]);
    let one = Assignor::Uniform.assign(&equal(1, [6, 0]), &Assignment::new(), &racks);
    let two = Assignor::Uniform.assign(&equal(2, [6, 0]), &one, &racks);
    let numbers: Vec<_> = two[&member(1)].iter().map(|tp| tp.partition.get()).collect();
    assert_eq!((numbers, near(&two, &racks).len(), moved(&one, &two)), (vec![1, 3, 5], 6, 3));
}

#[test]
fn partitions_that_moved_to_other_racks_change_hands_and_only_those() {
    let members = [Some(0), Some(0), Some(1), Some(1)];
    let before = racks(&members, [&[1, 1, 1, 1, 2, 2, 2, 2], &[]]);
    let had = Assignor::Uniform.assign(&equal(4, [8, 0]), &Assignment::new(), &before);
    assert_eq!(near(&had, &before).len(), 8);
    let after = racks(&members, [&[2, 1, 1, 1, 1, 2, 2, 2], &[]]);
    let has = Assignor::Uniform.assign(&equal(4, [8, 0]), &had, &after);
    assert_eq!((near(&has, &after).len(), moved(&had, &has), spread(&has)), (8, 2, 0));
}

#[test]
fn ranges_stay_together_and_go_to_where_all_of_them_are() {
    let racks = racks(&[Some(0), Some(1)], [&[2, 3, 1, 2], &[2, 2, 1, 3]]);
    let assigned = Assignor::Range.assign(&equal(2, [4, 4]), &Assignment::new(), &racks);
    let numbers = |topic: u128| -> Vec<u32> {
        let of = assigned[&member(1)].iter().filter(|tp| tp.topic == TopicId::from_u128(topic));
        of.map(|tp| tp.partition.get()).collect()
    };
    assert_eq!((numbers(1), numbers(2)), (vec![0, 1], vec![0, 1]), "the third, near too, is more than its share");
}

#[test]
fn a_hundred_members_in_the_wrong_racks_are_brought_right_quickly() {
    let (subscribed, members) =
        (equal(100, [5000, 5000]), |turn: usize| -> Vec<_> { (0..100).map(|n| Some((n / 2 + turn) % 2)).collect() });
    let replicas: Vec<u8> = (0..5000).map(|n| 1 + u8::from(n % 2 == 1)).collect();
    let (before, after) = (racks(&members(0), [&replicas, &replicas]), racks(&members(1), [&replicas, &replicas]));
    let had = Assignor::Uniform.assign(&subscribed, &Assignment::new(), &before);
    let has = Assignor::Uniform.assign(&subscribed, &had, &after);
    assert_eq!((near(&had, &before).len(), near(&has, &after).len()), (10_000, 10_000));
}

fn bits(count: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..8_u8, count)
}

fn members_in_racks() -> impl Strategy<Value = Vec<Option<usize>>> {
    proptest::collection::vec(proptest::option::weighted(0.8, 0..3_usize), 1..12)
}

proptest! {
    #[test]
    fn with_racks_it_is_complete_once_balanced_and_moves_only_for_something(
        counts in [0..20_usize, 0..20_usize], replicas in (bits(20), bits(20)), other in (bits(20), bits(20)),
        members in members_in_racks(), leaves in 0..12_usize, joins in 0..3_usize,
    ) {
        let bits = |of: &(Vec<u8>, Vec<u8>)| racks(&members, [&of.0[..counts[0]], &of.1[..counts[1]]]);
        let (racks, later) = (bits(&replicas), bits(&other));
        let counts = counts.map(|count| count as u32);
        let count = members.len().saturating_sub(joins).max(1);
        let subscribed = equal(count, counts);
        let ranges = Assignor::Range.assign(&subscribed, &Assignment::new(), &racks);
        check(&subscribed, &ranges);
        let plain = Assignor::Range.assign(&subscribed, &Assignment::new(), &Racks::default());
        let lengths = |of: &Assignment| of.values().map(BTreeSet::len).collect::<Vec<_>>();
        prop_assert_eq!(lengths(&ranges), lengths(&plain));
        let before = Assignor::Uniform.assign(&subscribed, &Assignment::new(), &racks);
        check(&subscribed, &before);
        prop_assert!(spread(&before) <= 1);
        prop_assert_eq!(&Assignor::Uniform.assign(&subscribed, &before, &racks), &before, "nothing moves for nothing");
        // Replicas move: what moves for that is what comes nearer, and what is given for it.
        let after = Assignor::Uniform.assign(&subscribed, &before, &later);
        check(&subscribed, &after);
        prop_assert!(spread(&after) <= 1);
        let (had, has) = (near(&before, &later), near(&after, &later));
        prop_assert!(has.is_superset(&had), "nothing gets farther");
        prop_assert!(moved(&before, &after) <= 2 * (has.len() - had.len()));
        prop_assert_eq!(&Assignor::Uniform.assign(&subscribed, &after, &later), &after, "nothing moves for nothing");
        // Members come and go.
        let mut changed = equal(members.len().max(count), counts);
        changed.remove(&member(leaves));
        if changed.is_empty() {
            return Ok(());
        }
        let after = Assignor::Uniform.assign(&changed, &before, &racks);
        check(&changed, &after);
        prop_assert!(spread(&after) <= 1);
        let left = before.get(&member(leaves)).map_or(0, BTreeSet::len);
        let fair = after.values().map(BTreeSet::len).max().unwrap_or(0);
        let needed = left + (changed.len() + usize::from(leaves < count) - count) * fair;
        let nearer = near(&after, &racks).difference(&near(&before, &racks)).count();
        prop_assert!(moved(&before, &after) <= 3 * needed + 2 * nearer, "{} moved", moved(&before, &after));
    }

    #[test]
    fn where_racks_make_no_difference_the_result_is_as_without(
        counts in [0..20_u32, 0..20_u32], members in members_in_racks(), joins in 0..3_usize, kind in 0..3_u8,
    ) {
        // Everything is in every rack; no replica is in any; no member is.
        let bits: Vec<u8> = vec![if kind == 1 { 0 } else { 7 }; 20];
        let of: Vec<_> = members.iter().map(|rack| if kind == 2 { None } else { rack.or(Some(0)) }).collect();
        let racks = racks(&of, [&bits[..counts[0] as usize], &bits[..counts[1] as usize]]);
        let (few, all) = (equal(members.len().saturating_sub(joins).max(1), counts), equal(members.len(), counts));
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let before = assignor.assign(&few, &Assignment::new(), &Racks::default());
            prop_assert_eq!(&assignor.assign(&few, &Assignment::new(), &racks), &before);
            let after = assignor.assign(&all, &before, &Racks::default());
            prop_assert_eq!(assignor.assign(&all, &before, &racks), after);
        }
    }

    #[test]
    fn what_splits_evenly_over_racks_is_read_in_its_rack(
        places in Just((0..24_usize).collect::<Vec<_>>()).prop_shuffle(), in_each in 1..5_usize, each in 1..5_usize,
        had in proptest::collection::vec(0..15_usize, 24),
    ) {
        // As many members in each rack, and as many partitions for each of them, in any order.
        let members: Vec<_> = places.iter().filter(|n| **n < 3 * in_each).map(|n| Some(n % 3)).collect();
        let count = 3 * in_each * each;
        let replicas: Vec<u8> = (0..count).map(|n| 1 << (n * 7 % 3)).collect();
        let racks = racks(&members, [&replicas, &[]]);
        let subscribed = equal(members.len(), [count as u32, 0]);
        let mut current = Assignment::new();
        for (tp, member_now) in partitions(1, count as u32).into_iter().zip(had) {
            current.entry(member(member_now)).or_default().insert(tp);
        }
        for (assignor, current) in
            [(Assignor::Range, &Assignment::new()), (Assignor::Uniform, &Assignment::new()), (Assignor::Uniform, &current)]
        {
            let assigned = assignor.assign(&subscribed, current, &racks);
            check(&subscribed, &assigned);
            prop_assert_eq!((near(&assigned, &racks).len(), spread(&assigned)), (count, 0));
        }
    }

    #[test]
    fn with_racks_it_is_complete_and_at_rest_whatever_is_subscribed(
        wants in proptest::collection::vec([any::<bool>(), any::<bool>()], 1..8), members in members_in_racks(),
        replicas in (bits(7), bits(5)),
    ) {
        let racks = racks(&members, [&replicas.0, &replicas.1]);
        let subscribed: Assignment = wants
            .iter()
            .enumerate()
            .map(|(number, [one, two])| {
                let one = if *one { partitions(1, 7) } else { BTreeSet::new() };
                let two = if *two { partitions(2, 5) } else { BTreeSet::new() };
                (member(number), one.union(&two).copied().collect())
            })
            .collect();
        for assignor in [Assignor::Uniform, Assignor::Range] {
            let assigned = assignor.assign(&subscribed, &Assignment::new(), &racks);
            check(&subscribed, &assigned);
            prop_assert_eq!(&assignor.assign(&subscribed, &assigned, &racks), &assigned);
        }
    }

    #[test]
    fn complete_once_balanced_and_sticky(
        members in 1..12_usize, counts in [0..20_u32, 0..20_u32], leaves in 0..12_usize, joins in 0..3_usize,
    ) {
        let subscribed = equal(members, counts);
        for assignor in [Assignor::Uniform, Assignor::Range] {
            check(&subscribed, &assignor.assign(&subscribed, &Assignment::new(), &Racks::default()));
        }
        let before = Assignor::Uniform.assign(&subscribed, &Assignment::new(), &Racks::default());
        prop_assert!(spread(&before) <= 1);
        prop_assert_eq!(&Assignor::Uniform.assign(&subscribed, &before, &Racks::default()), &before, "nothing moves for nothing");
        let mut changed = equal(members + joins, counts);
        changed.remove(&member(leaves));
        if changed.is_empty() {
            return Ok(());
        }
        let after = Assignor::Uniform.assign(&changed, &before, &Racks::default());
        check(&changed, &after);
        prop_assert!(spread(&after) <= 1);
        // Those of who left, and what the new ones need to have as many as the others.
        let left = before.get(&member(leaves)).map_or(0, BTreeSet::len);
        let fair = after.values().map(BTreeSet::len).max().unwrap_or(0);
        prop_assert!(moved(&before, &after) <= left + joins * fair, "{} moved", moved(&before, &after));
    }

    #[test]
    fn complete_and_once_whatever_is_subscribed(wants in proptest::collection::vec([any::<bool>(), any::<bool>()], 1..8)) {
        let subscribed: Assignment = wants
            .iter()
            .enumerate()
            .map(|(number, [one, two])| {
                let one = if *one { partitions(1, 7) } else { BTreeSet::new() };
                let two = if *two { partitions(2, 5) } else { BTreeSet::new() };
                (member(number), one.union(&two).copied().collect())
            })
            .collect();
        for assignor in [Assignor::Uniform, Assignor::Range] {
            check(&subscribed, &assignor.assign(&subscribed, &Assignment::new(), &Racks::default()));
        }
    }
}
