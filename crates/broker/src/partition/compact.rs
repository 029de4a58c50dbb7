//! Compaction of this replica's log, whatever its role: each replica compacts for itself what is committed.

use std::sync::Arc;

use highwater_storage::{
    Compacted, CompactionError, CompactionJob, CompactionLimits, CompactionNeed, LogError, Rewritten, Settlement,
};
use highwater_types::TimestampMs;

use super::{Partition, State, Storage};

impl Partition {
    /// How dirty the log is, if that is enough for a pass.
    pub(crate) fn compaction_due(&self, now: TimestampMs, keys_max: usize) -> Option<CompactionNeed> {
        let state = self.lock();
        let log = state.log().ok()?;
        let config = log.config().compaction?;
        let need = log.compaction_need(&state.compaction_limits(now, keys_max))?;
        (need.is_overdue || need.dirty_millionths() >= u64::from(config.dirty_millionths_min)).then_some(need)
    }

    /// See [`highwater_storage::Log::begin_compaction`].
    pub(crate) fn begin_compaction(&self, now: TimestampMs, keys_max: usize) -> Option<CompactionJob> {
        let mut state = self.lock();
        let limits = state.compaction_limits(now, keys_max);
        state.log_mut().ok()?.begin_compaction(limits)
    }

    /// See [`highwater_storage::Log::swap_compacted`].
    pub(crate) fn swap_compacted(&self, rewritten: Rewritten) -> Result<Result<Arc<Settlement>, Rewritten>, LogError> {
        match &mut self.lock().storage {
            Storage::Open(log) => log.swap_compacted(rewritten),
            _ => Err(LogError::Closed),
        }
    }

    /// See [`highwater_storage::Log::finish_compaction`].
    pub(crate) fn finish_compaction(&self, result: &Result<Compacted, CompactionError>) {
        self.with(|state, wakes| {
            // Deleted meanwhile: its files have gone while they were worked on.
            let Storage::Open(log) = &mut state.storage else { return };
            log.finish_compaction(result);
            if matches!(result, Err(CompactionError::Damaged(_) | CompactionError::Unsettled(_))) || log.is_failed() {
                wakes.unusable();
            }
        });
    }
}

impl State {
    fn compaction_limits(&self, now: TimestampMs, keys_max: usize) -> CompactionLimits {
        let in_sync = |view: &highwater_replication::PartitionView| {
            view.replicas.iter().all(|replica| view.isr.contains(replica))
        };
        CompactionLimits {
            high_watermark: self.high_watermark(),
            now,
            all_in_sync: self.view.as_ref().is_some_and(in_sync),
            keys_max,
        }
    }
}
