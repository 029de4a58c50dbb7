//! Brings partitions nearer to who reads them, without making anybody's count worse or anything else less near.

use std::collections::{BTreeMap, BTreeSet};

use highwater_types::{MemberId, TopicPartition};

use super::{Assignment, Racks};

/// Everything by its index: this is asked for each pair of partitions at worst.
struct Table<'a> {
    members: Vec<(&'a MemberId, &'a BTreeSet<TopicPartition>)>,
    partitions: Vec<TopicPartition>,
    /// Of members, as numbers.
    rack_of: Vec<Option<usize>>,
    members_in: Vec<Vec<usize>>,
    /// Of the replicas of each partition, as far as there are members.
    racks_of: Vec<Vec<usize>>,
    owner: Vec<usize>,
    /// Who has it now, before this assignment.
    current: Vec<Option<usize>>,
    held: Vec<BTreeSet<usize>>,
}

/// Returns whether anything has moved. Each partition that is far from who reads it goes to one to whom it is near, and who has fewer,
/// or who gives for it what does not get farther by that.
pub(super) fn bring_nearer(
    subscribed: &Assignment,
    current: &Assignment,
    assigned: &mut Assignment,
    racks: &Racks,
) -> bool {
    if racks.is_empty() {
        return false;
    }
    let mut table = Table::new(subscribed, current, assigned, racks);
    let mut has_moved = false;
    loop {
        let mut moves = false;
        for partition in 0..table.partitions.len() {
            moves |= table.bring_nearer(partition);
        }
        if !moves {
            break;
        }
        has_moved = true;
    }
    if has_moved {
        for ((member, _), held) in table.members.iter().zip(&table.held) {
            let held = held.iter().map(|index| table.partitions[*index]).collect();
            assigned.insert((*member).clone(), held);
        }
    }
    has_moved
}

impl<'a> Table<'a> {
    fn new(subscribed: &'a Assignment, current: &Assignment, assigned: &Assignment, racks: &'a Racks) -> Self {
        let members: Vec<_> = subscribed.iter().collect();
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        let mut members_in: Vec<Vec<usize>> = Vec::new();
        let mut rack_of = Vec::with_capacity(members.len());
        for (index, (member, _)) in members.iter().enumerate() {
            rack_of.push(racks.of_member(member).map(|rack| {
                let next = names.len();
                let rack = *names.entry(rack).or_insert(next);
                members_in.resize_with(names.len(), Vec::new);
                members_in[rack].push(index);
                rack
            }));
        }
        let none = BTreeSet::new();
        let mut owned: Vec<(TopicPartition, usize)> = Vec::new();
        for (index, (member, _)) in members.iter().enumerate() {
            owned.extend(assigned.get(*member).unwrap_or(&none).iter().map(|tp| (*tp, index)));
        }
        owned.sort();
        let partitions: Vec<TopicPartition> = owned.iter().map(|(tp, _)| *tp).collect();
        let owner: Vec<usize> = owned.iter().map(|(_, owner)| *owner).collect();
        let racks_of = |tp: &TopicPartition| -> Vec<usize> {
            let of: BTreeSet<usize> = racks.of_replicas(*tp).filter_map(|rack| names.get(rack).copied()).collect();
            of.into_iter().collect()
        };
        let mut held = vec![BTreeSet::new(); members.len()];
        owner.iter().enumerate().for_each(|(index, owner)| _ = held[*owner].insert(index));
        let mut had = BTreeMap::new();
        for (index, (member, _)) in members.iter().enumerate() {
            current.get(*member).unwrap_or(&none).iter().for_each(|tp| _ = had.insert(*tp, index));
        }
        let current = partitions.iter().map(|tp| had.get(tp).copied()).collect();
        let racks_of = partitions.iter().map(racks_of).collect();
        Self { members, partitions, rack_of, members_in, racks_of, owner, current, held }
    }

    fn is_near(&self, member: usize, partition: usize) -> bool {
        self.rack_of[member].is_some_and(|rack| self.racks_of[partition].contains(&rack))
    }

    fn reads(&self, member: usize, partition: usize) -> bool {
        self.members[member].1.contains(&self.partitions[partition])
    }

    fn give(&mut self, partition: usize, to: usize) {
        let from = std::mem::replace(&mut self.owner[partition], to);
        self.held[from].remove(&partition);
        self.held[to].insert(partition);
    }

    fn bring_nearer(&mut self, partition: usize) -> bool {
        let from = self.owner[partition];
        if self.is_near(from, partition) {
            return false;
        }
        let near = self.racks_of[partition].iter().flat_map(|rack| &self.members_in[*rack]).copied();
        let near: Vec<usize> = near.filter(|member| self.reads(*member, partition)).collect();
        let fewest = near.iter().copied().min_by_key(|member| self.held[*member].len());
        if let Some(to) = fewest.filter(|to| self.held[*to].len() < self.held[from].len()) {
            self.give(partition, to);
            return true;
        }
        let Some((to, other)) = self.exchange(&near, from) else { return false };
        self.give(partition, to);
        self.give(other, from);
        true
    }

    /// What one of `near` can give for a partition of `from`: what comes nearer by that before what gets no farther, and what it has
    /// not had so far before what it has.
    fn exchange(&self, near: &[usize], from: usize) -> Option<(usize, usize)> {
        let mut best: Option<((bool, bool), (usize, usize))> = None;
        for to in near.iter().copied() {
            for other in self.held[to].iter().copied() {
                let (before, after) = (self.is_near(to, other), self.is_near(from, other));
                let rank = (after && !before, self.current[other] != Some(to));
                let is_better = best.is_none_or(|(found, _)| rank > found);
                if (before && !after) || !is_better || !self.reads(from, other) {
                    continue;
                }
                best = Some((rank, (to, other)));
                if rank == (true, true) {
                    return best.map(|(_, found)| found);
                }
            }
        }
        best.map(|(_, found)| found)
    }
}
