//! Server-side assignors: which member of a group reads which partition.
//!
//! Pure functions of who subscribes to what and who has what now. Each partition that somebody subscribes to goes to exactly one
//! member that does.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{MemberId, TopicId, TopicPartition};

#[cfg(test)]
mod tests;

/// Partitions by member.
pub type Assignment = BTreeMap<MemberId, BTreeSet<TopicPartition>>;

/// The assignors that a group can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Assignor {
    /// As many for each, within one where all subscribe to the same; what can stay stays.
    #[default]
    Uniform,
    /// Topic by topic, in ranges: partitions of the same number of topics with as many partitions go together.
    Range,
}

impl Assignor {
    /// `None` for a name that is not known; the empty one is the default's.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// `subscribed`: all partitions that each member subscribes to. `current`: what each has.
    pub fn assign(self, subscribed: &Assignment, current: &Assignment) -> Assignment {
        match self {
            Self::Uniform => uniform(subscribed, current),
            Self::Range => range(subscribed),
        }
    }
}

fn uniform(subscribed: &Assignment, current: &Assignment) -> Assignment {
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
    let mut counts: BTreeMap<&MemberId, usize> =
        subscribed.keys().map(|member| (member, assigned.get(member).map_or(0, BTreeSet::len))).collect();
    for (tp, readers) in readers {
        // The one with the fewest; the first of equals.
        let Some(least) = readers.into_iter().min_by_key(|member| counts[member]) else { continue };
        *counts.entry(least).or_default() += 1;
        assigned.entry(least.clone()).or_default().insert(tp);
    }
    balance(subscribed, &mut assigned, &mut counts);
    assigned
}

/// Moves partitions from those with more to those with fewer, as long as that evens out a difference of two or more.
fn balance<'a>(subscribed: &'a Assignment, assigned: &mut Assignment, counts: &mut BTreeMap<&'a MemberId, usize>) {
    loop {
        let mut by_count: Vec<(usize, &MemberId)> = counts.iter().map(|(member, count)| (*count, *member)).collect();
        by_count.sort();
        let mut found = None;
        'search: for (few, poor) in &by_count {
            for (many, rich) in by_count.iter().rev() {
                if *many < few + 2 {
                    break;
                }
                // The last one: what was added last moves first.
                let of_rich = assigned.get(*rich).into_iter().flatten().rev();
                if let Some(tp) = of_rich.copied().find(|tp| subscribed[*poor].contains(tp)) {
                    found = Some((*rich, *poor, tp));
                    break 'search;
                }
            }
        }
        let Some((rich, poor, tp)) = found else { return };
        if let Some(held) = assigned.get_mut(rich) {
            held.remove(&tp);
        }
        assigned.entry(poor.clone()).or_default().insert(tp);
        *counts.entry(rich).or_default() -= 1;
        *counts.entry(poor).or_default() += 1;
    }
}

fn range(subscribed: &Assignment) -> Assignment {
    let mut assigned: Assignment = subscribed.keys().map(|member| (member.clone(), BTreeSet::new())).collect();
    let mut topics: BTreeMap<TopicId, (BTreeSet<TopicPartition>, Vec<&MemberId>)> = BTreeMap::new();
    for (member, wanted) in subscribed {
        for tp in wanted {
            let (partitions, readers) = topics.entry(tp.topic).or_default();
            partitions.insert(*tp);
            if readers.last() != Some(&member) {
                readers.push(member);
            }
        }
    }
    for (partitions, readers) in topics.into_values() {
        let (each, more) = (partitions.len() / readers.len(), partitions.len() % readers.len());
        let mut partitions = partitions.into_iter();
        for (index, member) in readers.into_iter().enumerate() {
            let count = each + usize::from(index < more);
            assigned.entry(member.clone()).or_default().extend(partitions.by_ref().take(count));
        }
    }
    assigned
}
