//! Logs that must not pass for full copies, though the controller takes them for such: it is told of them (T43).

use std::collections::BTreeSet;

use highwater_metadata::{ClusterImage, PartitionState};
use highwater_types::TopicPartition;

use super::{Partitions, ignore_poison};
use crate::partition::Assignment;

impl Partitions {
    /// A replica that the controller counts as a copy, and whose folder is not there: a disk was replaced, or the folder
    /// removed. It must not pass for a copy, empty as it is.
    pub(super) fn note_lost(&self, to_open: &[(TopicPartition, &PartitionState, Assignment)]) {
        let me = self.env.me;
        let counts = |state: &PartitionState| {
            [&state.isr, &state.elr, &state.last_known_elr].iter().any(|list| list.contains(&me))
        };
        let is_here = |tp| self.dirs.iter().any(|dir| dir.data_dir.has_partition(tp));
        let lost = to_open.iter().filter(|(tp, state, _)| counts(state) && !is_here(*tp));
        let lost: BTreeSet<_> = lost.map(|(tp, ..)| *tp).collect();
        if !lost.is_empty() {
            tracing::warn!(partitions = lost.len(), first = ?lost.first(), "partitions without a folder: starting anew");
        }
        *ignore_poison(self.lost.lock()) = lost;
    }

    /// Of lost logs, what the image shows to be known. And whoever is not in its ELR does not pass for a full copy, and becomes
    /// one but by joining the ISR, for which it catches up.
    pub(super) fn forget_what_is_known(&self, image: &ClusterImage) {
        let knows =
            |tp: &TopicPartition| image.partition(*tp).is_none_or(|state| state.storage_lost.contains(&self.env.me));
        ignore_poison(self.lost.lock()).retain(|tp| !knows(tp));
        let map = self.all();
        ignore_poison(self.doubtful.lock()).retain(|tp| {
            // What is left alone here keeps its doubt.
            let (Some(partition), Some(state)) = (map.get(tp), image.partition(*tp)) else { return false };
            let counts = state.elr.contains(&self.env.me);
            if !counts {
                partition.doubt_is_known();
            }
            counts
        });
    }

    /// Every partition whose log was here once and is gone, and of which the controller has yet to know.
    pub fn lost(&self) -> BTreeSet<TopicPartition> {
        ignore_poison(self.lost.lock()).clone()
    }

    /// Every partition whose log here may lack what it has acknowledged, and which the controller takes for a full copy.
    pub fn doubtful(&self) -> BTreeSet<TopicPartition> {
        ignore_poison(self.doubtful.lock()).clone()
    }
}
