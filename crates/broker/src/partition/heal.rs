//! Damage, and healing it with what the leader has; doubt.

use std::sync::Arc;
use std::time::Duration;

use highwater_record::Batch;
use highwater_storage::{DamagedRange, HealJob, Healed};
use highwater_types::{BrokerId, LeaderEpoch, UncleanElection};

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

    /// As leader: the first damaged range, with the leader epoch and the time, if the topic goes on without what can't be had.
    pub(crate) fn damaged_as_leader(&self) -> Option<(DamagedRange, LeaderEpoch, Duration)> {
        let state = self.lock();
        match (&state.storage, &state.role) {
            (Storage::Open(log), Role::Leader(leader)) if state.config.unclean_election != UncleanElection::None => {
                Some((log.damage()?, leader.leader_epoch(), self.env.clock.now()))
            }
            _ => None,
        }
    }

    /// What to heal a damaged range with in place of what is lost: only if this broker leads in `epoch`, and every other replica
    /// has shown since `noted`, when the range was known as damaged, that it does not have it either.
    pub(crate) fn to_give_up(&self, range: DamagedRange, epoch: LeaderEpoch, noted: Duration) -> Option<Vec<Batch>> {
        match &*self.lock() {
            super::State { storage: Storage::Open(log), role: Role::Leader(leader), .. }
                if leader.leader_epoch() == epoch && leader.is_only_copy_from(range.start, noted) =>
            {
                Some(log.fillers_for(range)).filter(|fillers| !fillers.is_empty())
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

    /// The controller does not count on this replica's log, or not any more ([`highwater_storage::Log::doubt`]).
    pub(crate) fn doubt_is_known(&self) {
        if let Storage::Open(log) = &mut self.lock().storage {
            log.doubt_is_known();
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
