//! Damage, and healing it with what the leader has.

use std::sync::Arc;

use highwater_storage::{DamagedRange, HealJob, Healed};
use highwater_types::{BrokerId, LeaderEpoch};

use super::{Partition, PartitionError, Role, Storage};

impl Partition {
    /// The first damaged range, with whom to fetch it from: the leader, in its epoch. `None` if there is none, or nobody to
    /// ask (this broker leads, or nobody does).
    pub fn to_heal(&self) -> Option<(DamagedRange, BrokerId, LeaderEpoch)> {
        let state = self.lock();
        match (&state.storage, &state.role) {
            (Storage::Open(log), Role::Follower(follower)) => {
                Some((log.damage()?, follower.leader()?, follower.view().leader_epoch))
            }
            _ => None,
        }
    }

    /// See [`highwater_storage::Log::begin_heal`].
    pub fn begin_heal(&self, range: DamagedRange) -> Result<HealJob, PartitionError> {
        self.lock().log_mut()?.begin_heal(range).map_err(PartitionError::from)
    }

    /// Whether it still mattered.
    pub fn finish_heal(&self, healed: Healed) -> bool {
        self.with(|state, wakes| {
            let Storage::Open(log) = &mut state.storage else { return false };
            let range = healed.range();
            let mattered = log.finish_heal(healed);
            if mattered {
                tracing::info!(partition = %self.tp, %range, "healed");
                wakes.unusable();
            }
            mattered
        })
    }

    pub fn abandon_heal(&self) {
        if let Storage::Open(log) = &mut self.lock().storage {
            log.abandon_heal();
        }
    }

    /// Why this replica should not lead: it can't be opened, its disk is offline, or some of it is damaged.
    pub fn unusable_because(&self) -> Option<Arc<str>> {
        match &self.lock().storage {
            Storage::Open(log) => {
                let offline = log.config().status.offline_reason();
                offline.or_else(|| log.damage().map(|range| format!("{range} are damaged").into()))
            }
            Storage::Unusable(why) => Some(why.clone()),
            Storage::Closed => None,
        }
    }
}
