use highwater_types::PartitionId;
use proptest::prelude::*;

use super::*;

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
    let three = Assignor::Uniform.assign(&equal(3, [30, 30]), &Assignment::new());
    let four = Assignor::Uniform.assign(&equal(4, [30, 30]), &three);
    check(&equal(4, [30, 30]), &four);
    assert_eq!((spread(&four), moved(&three, &four)), (0, 15));
}

#[test]
fn ranges_put_partitions_of_the_same_number_together() {
    let assigned = Assignor::Range.assign(&equal(2, [4, 4]), &Assignment::new());
    let numbers = |topic: u128| -> Vec<u32> {
        let of = assigned[&member(0)].iter().filter(|tp| tp.topic == TopicId::from_u128(topic));
        of.map(|tp| tp.partition.get()).collect()
    };
    assert_eq!((numbers(1), numbers(2)), (vec![0, 1], vec![0, 1]));
}

#[test]
fn a_hundred_members_and_a_thousand_partitions() {
    let before = Assignor::Uniform.assign(&equal(100, [500, 500]), &Assignment::new());
    let mut subscribed = equal(100, [500, 500]);
    subscribed.remove(&member(7));
    let after = Assignor::Uniform.assign(&subscribed, &before);
    check(&subscribed, &after);
    assert_eq!((spread(&before), moved(&before, &after)), (0, 10));
    assert!(spread(&after) <= 1);
}

proptest! {
    #[test]
    fn complete_once_balanced_and_sticky(
        members in 1..12_usize, counts in [0..20_u32, 0..20_u32], leaves in 0..12_usize, joins in 0..3_usize,
    ) {
        let subscribed = equal(members, counts);
        for assignor in [Assignor::Uniform, Assignor::Range] {
            check(&subscribed, &assignor.assign(&subscribed, &Assignment::new()));
        }
        let before = Assignor::Uniform.assign(&subscribed, &Assignment::new());
        prop_assert!(spread(&before) <= 1);
        prop_assert_eq!(&Assignor::Uniform.assign(&subscribed, &before), &before, "nothing moves for nothing");
        let mut changed = equal(members + joins, counts);
        changed.remove(&member(leaves));
        if changed.is_empty() {
            return Ok(());
        }
        let after = Assignor::Uniform.assign(&changed, &before);
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
            check(&subscribed, &assignor.assign(&subscribed, &Assignment::new()));
        }
    }
}
