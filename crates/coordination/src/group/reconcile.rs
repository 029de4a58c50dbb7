//! One step of a member towards its target (KIP-848).

use std::collections::BTreeSet;

use highwater_types::mutation::{self, Mutation};
use highwater_types::{MemberEpoch, MemberId, TopicPartition};

use super::state::{Group, Member};

impl Group {
    /// What becomes of `member`, which has said what it has (or nothing new).
    pub(super) fn step(&self, id: &MemberId, member: &Member, owned: Option<&BTreeSet<TopicPartition>>) -> Member {
        let mut next = member.clone();
        if let Some(owned) = owned {
            next.revoking.retain(|tp, _| owned.contains(tp));
        }
        let target = self.target_of(id);
        let leaving: Vec<_> = next.assigned.keys().filter(|tp| !target.contains(tp)).copied().collect();
        for tp in leaving {
            if let Some(since) = next.assigned.remove(&tp) {
                next.revoking.insert(tp, since);
            }
        }
        if !next.revoking.is_empty() {
            // First the member lets go; its epoch waits for that.
            return next;
        }
        let epoch = MemberEpoch::new(self.epoch);
        if next.epoch != epoch {
            next.previous_epoch = next.epoch;
            next.epoch = epoch;
        }
        let is_others = |tp: &TopicPartition| {
            self.members.iter().any(|(other, member)| other != id && member.has(tp))
                && !mutation::is_on(Mutation::PartitionGivenTwice)
        };
        let free = target.into_iter().filter(|tp| !next.assigned.contains_key(tp) && !is_others(tp));
        let free: Vec<_> = free.collect();
        next.assigned.extend(free.into_iter().map(|tp| (tp, epoch)));
        next
    }
}
