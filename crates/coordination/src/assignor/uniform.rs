//! As many for each, and what can stay stays.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{MemberId, TopicPartition};

use super::nearer::bring_nearer;
use super::{Assignment, Racks};

type Counts<'a> = BTreeMap<&'a MemberId, usize>;

pub(super) fn uniform(subscribed: &Assignment, current: &Assignment, racks: &Racks) -> Assignment {
    let mut assigned: Assignment = subscribed.keys().map(|member| (member.clone(), BTreeSet::new())).collect();
    let mut taken = BTreeSet::new();
    for (member, wanted) in subscribed {
        let Some(held) = current.get(member) else { continue };
        let kept: BTreeSet<_> = held.iter().filter(|tp| wanted.contains(tp) && !taken.contains(*tp)).copied().collect();
        taken.extend(kept.iter().copied());
        assigned.insert(member.clone(), kept);
    }
    let mut readers: BTreeMap<TopicPartition, Vec<&MemberId>> = BTreeMap::new();
    for (member, wanted) in subscribed {
        wanted.iter().filter(|tp| !taken.contains(*tp)).for_each(|tp| readers.entry(*tp).or_default().push(member));
    }
    let mut counts: Counts<'_> =
        subscribed.keys().map(|member| (member, assigned.get(member).map_or(0, BTreeSet::len))).collect();
    let all = taken.len() + readers.len();
    let fair = all / subscribed.values().filter(|wanted| !wanted.is_empty()).count().max(1);
    give_to_near(&mut readers, &mut assigned, &mut counts, fair, racks);
    for (tp, readers) in readers {
        // The one with the fewest, near before far; the first of equals.
        let order = |member: &&MemberId| (counts[*member], !racks.is_near(member, tp));
        let Some(least) = readers.into_iter().min_by_key(order) else { continue };
        *counts.entry(least).or_default() += 1;
        assigned.entry(least.clone()).or_default().insert(tp);
    }
    balance(subscribed, &mut assigned, &mut counts, racks);
    // Each either evens out, or brings nearer at the same counts: so this comes to an end.
    while bring_nearer(subscribed, current, &mut assigned, racks) {
        counts.iter_mut().for_each(|(member, count)| *count = assigned.get(*member).map_or(0, BTreeSet::len));
        if !balance(subscribed, &mut assigned, &mut counts, racks) {
            break;
        }
    }
    assigned
}

/// Partitions that are near to some of their readers go to those, up to what is everybody's in any case.
fn give_to_near<'a>(
    readers: &mut BTreeMap<TopicPartition, Vec<&'a MemberId>>,
    assigned: &mut Assignment,
    counts: &mut Counts<'a>,
    fair: usize,
    racks: &Racks,
) {
    if racks.is_empty() {
        return;
    }
    let near = |(tp, readers): (&TopicPartition, &Vec<&'a MemberId>)| {
        let near: Vec<&MemberId> = readers.iter().filter(|member| racks.is_near(member, *tp)).copied().collect();
        (!near.is_empty() && near.len() < readers.len()).then_some((*tp, near))
    };
    let mut choosy: Vec<_> = readers.iter().filter_map(near).collect();
    choosy.sort_by_key(|(tp, near)| (near.len(), *tp));
    for (tp, near) in choosy {
        let under = near.into_iter().filter(|member| counts[*member] < fair);
        let Some(least) = under.min_by_key(|member| counts[*member]) else { continue };
        *counts.entry(least).or_default() += 1;
        assigned.entry(least.clone()).or_default().insert(tp);
        readers.remove(&tp);
    }
}

/// Moves partitions from those with more to those with fewer, as long as that evens out a difference of two or more. Returns whether
/// it did.
fn balance<'a>(subscribed: &'a Assignment, assigned: &mut Assignment, counts: &mut Counts<'a>, racks: &Racks) -> bool {
    let mut has_moved = false;
    loop {
        let mut by_count: Vec<(usize, &MemberId)> = counts.iter().map(|(member, count)| (*count, *member)).collect();
        by_count.sort();
        let mut found = None;
        'search: for (few, poor) in &by_count {
            for (many, rich) in by_count.iter().rev() {
                if *many < few + 2 {
                    break;
                }
                // What comes nearer by it; the last of equals: what was added last moves first.
                let gain =
                    |tp: &TopicPartition| i8::from(racks.is_near(poor, *tp)) - i8::from(racks.is_near(rich, *tp));
                let of_rich = assigned.get(*rich).into_iter().flatten().copied();
                if let Some(tp) = of_rich.filter(|tp| subscribed[*poor].contains(tp)).max_by_key(gain) {
                    found = Some((*rich, *poor, tp));
                    break 'search;
                }
            }
        }
        let Some((rich, poor, tp)) = found else { return has_moved };
        has_moved = true;
        if let Some(held) = assigned.get_mut(rich) {
            held.remove(&tp);
        }
        assigned.entry(poor.clone()).or_default().insert(tp);
        *counts.entry(rich).or_default() -= 1;
        *counts.entry(poor).or_default() += 1;
    }
}
