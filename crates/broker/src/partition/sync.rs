//! Group commit and checkpoints, the partition's side.

use std::io;

use highwater_storage::{Flushable, LogError, SyncJob};
use highwater_types::TimestampMs;
use highwater_types::mutation::{self, Mutation};
use tokio::sync::oneshot;

use super::{News, Partition, PartitionError, Role, Storage, must_sync};

impl Flushable for Partition {
    fn begin_sync(&self) -> Option<SyncJob> {
        match &mut self.lock().storage {
            Storage::Open(log) => log.begin_sync(),
            _ => None,
        }
    }

    fn finish_sync(&self, job: SyncJob, result: io::Result<()>) {
        self.with(|state, wakes| {
            // Deleted meanwhile: its files may have gone while they were synced.
            state.sync_ended.drain(..).for_each(|waits| _ = waits.send(()));
            let Storage::Open(log) = &mut state.storage else { return };
            if let Err(error) = result
                && !mutation::is_on(Mutation::FailedSyncForgotten)
            {
                log.fail_sync(job, &error);
                return wakes.unusable();
            }
            let (before, start_before) = (log.durable_offset(), log.durable_start_offset());
            let durable = log.finish_sync(job);
            let start_moved = log.durable_start_offset() > start_before;
            if durable == before && !start_moved {
                return;
            }
            wakes.acknowledged(state.syncing.complete(durable, true));
            match &mut state.role {
                Role::Leader(leader) => {
                    let effects = leader.on_local_durable(durable, self.env.clock.now());
                    state.carry_out(self, effects, wakes);
                    state.finish_deletes();
                }
                // The next fetch acknowledges it.
                Role::Follower(_) => wakes.news(&state.subscriptions, News::DURABLE),
                Role::None => {}
            }
        });
    }
}

impl Partition {
    /// Writes down high watermark and recovery point, lets unused memory go, and syncs what is not synced otherwise.
    pub(crate) fn checkpoint(&self) {
        self.with(|state, wakes| {
            let high_watermark = state.high_watermark();
            let Storage::Open(log) = &mut state.storage else { return };
            log.age_cache();
            match log.checkpoint(high_watermark) {
                Ok(()) if log.needs_sync() => wakes.flush(),
                Ok(()) | Err(LogError::DiskFull) => {}
                Err(error) => {
                    tracing::debug!(partition = %self.tp, %error, "no checkpoint");
                    wakes.unusable();
                }
            }
        });
    }

    /// Lets go of what is too old or too much, as leader; followers learn of the new start from their leader. Rolls
    /// segments that are old enough, in any role.
    pub(crate) fn apply_retention(&self, now: TimestampMs) {
        self.with(|state, wakes| {
            let high_watermark = state.high_watermark();
            let Storage::Open(log) = &mut state.storage else { return };
            let rolled = log.roll_if_due(now).and_then(|_| match &state.role {
                Role::Leader(_) => log.apply_retention(now, high_watermark),
                _ => Ok(Vec::new()),
            });
            match rolled {
                Ok(deleted) if deleted.is_empty() => {}
                Ok(deleted) => {
                    let bytes: u64 = deleted.iter().map(|segment| segment.bytes).sum();
                    let start = log.start_offset();
                    tracing::info!(partition = %self.tp, segments = deleted.len(), bytes, %start, "retention");
                    state.log_start_moved(self, wakes);
                }
                Err(LogError::DiskFull) => {}
                Err(error) => {
                    tracing::debug!(partition = %self.tp, %error, "no retention");
                    wakes.unusable();
                }
            }
        });
    }

    /// Syncs everything and closes the log, blocking: for [`highwater_storage::run_on`]. No sync may be running.
    pub(crate) fn close(&self) -> Result<(), PartitionError> {
        self.lock().close()
    }

    /// As [`close`](Self::close); if a sync is running, nothing is done, and the receiver resolves when it has ended.
    pub(crate) fn close_unless_syncing(&self) -> Result<(), oneshot::Receiver<()>> {
        let mut state = self.lock();
        if let Storage::Open(log) = &state.storage
            && log.is_syncing()
        {
            let (ended, end) = oneshot::channel();
            state.sync_ended.push(ended);
            return Err(end);
        }
        if let Err(error) = state.close() {
            tracing::error!(partition = %self.tp, %error, "the log was not closed in order");
        }
        Ok(())
    }
}

impl super::State {
    fn close(&mut self) -> Result<(), PartitionError> {
        let high_watermark = self.high_watermark();
        let closed = match &mut self.storage {
            Storage::Open(log) => log.flush_and_close(high_watermark).map_err(PartitionError::from),
            Storage::Unusable(why) => Err(PartitionError::Unusable(why.clone())),
            Storage::Closed => Ok(()),
        };
        self.storage = Storage::Closed;
        closed
    }

    /// Whether what is appended waits for the disk.
    pub(super) fn must_sync(&self) -> bool {
        must_sync(&self.config)
    }

    /// The log's start was moved: tells leader and followers, and lets a sync remove the files.
    pub(super) fn log_start_moved(&mut self, partition: &Partition, wakes: &mut super::Wakes) {
        let Storage::Open(log) = &self.storage else { return };
        let start = log.start_offset();
        wakes.flush();
        wakes.news(&self.subscriptions, News::POSITIONS);
        if let Role::Leader(leader) = &mut self.role {
            let effects = leader.on_log_start(start);
            self.carry_out(partition, effects, wakes);
        }
    }
}
