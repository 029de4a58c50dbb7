//! Topic by topic, in ranges.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{MemberId, TopicId, TopicPartition};

use super::{Assignment, Racks};

/// Topics of the same partitions and readers: what has the same number goes together.
type CoPartitioned<'a> = BTreeMap<(BTreeSet<u32>, Vec<&'a MemberId>), Vec<BTreeMap<u32, TopicPartition>>>;

pub(super) fn range(subscribed: &Assignment, racks: &Racks) -> Assignment {
    let mut assigned: Assignment = subscribed.keys().map(|member| (member.clone(), BTreeSet::new())).collect();
    for ((numbers, readers), topics) in co_partitioned(subscribed) {
        let shares = shares(&numbers, &readers, |member, number| {
            topics.iter().all(|topic| topic.get(&number).is_some_and(|tp| racks.is_near(member, *tp)))
        });
        for (member, share) in readers.into_iter().zip(shares) {
            let partitions = topics.iter().flat_map(|topic| share.iter().filter_map(|number| topic.get(number)));
            assigned.entry(member.clone()).or_default().extend(partitions);
        }
    }
    assigned
}

fn co_partitioned(subscribed: &Assignment) -> CoPartitioned<'_> {
    let mut topics: BTreeMap<TopicId, (BTreeMap<u32, TopicPartition>, Vec<&MemberId>)> = BTreeMap::new();
    for (member, wanted) in subscribed {
        for tp in wanted {
            let (partitions, readers) = topics.entry(tp.topic).or_default();
            partitions.insert(tp.partition.get(), *tp);
            if readers.last() != Some(&member) {
                readers.push(member);
            }
        }
    }
    let mut together = CoPartitioned::new();
    for (partitions, readers) in topics.into_values() {
        together.entry((partitions.keys().copied().collect(), readers)).or_default().push(partitions);
    }
    together
}

/// The numbers of each reader: first those that are near, those with the fewest to be near to before others; then what is left, in
/// order. How many each has is the same in any case.
fn shares(
    numbers: &BTreeSet<u32>,
    readers: &[&MemberId],
    is_near: impl Fn(&MemberId, u32) -> bool,
) -> Vec<BTreeSet<u32>> {
    let (each, more) = (numbers.len() / readers.len(), numbers.len() % readers.len());
    let quota = |index: usize| each + usize::from(index < more);
    let mut shares = vec![BTreeSet::new(); readers.len()];
    let mut left = numbers.clone();
    let near_to =
        |number: u32| -> Vec<usize> { (0..readers.len()).filter(|index| is_near(readers[*index], number)).collect() };
    let near = numbers.iter().map(|number| (*number, near_to(*number)));
    let mut choosy: Vec<_> = near.filter(|(_, of)| !of.is_empty() && of.len() < readers.len()).collect();
    choosy.sort_by_key(|(number, of)| (of.len(), *number));
    for (number, of) in choosy {
        if let Some(index) = of.into_iter().find(|index| shares[*index].len() < quota(*index)) {
            shares[index].insert(number);
            left.remove(&number);
        }
    }
    let mut left = left.into_iter();
    for (index, share) in shares.iter_mut().enumerate() {
        let missing = quota(index) - share.len();
        share.extend(left.by_ref().take(missing));
    }
    shares
}
