//! Cutting the log's end off, and starting it anew: what a follower does when its leader's log differs.

use std::sync::Arc;

use highwater_types::Offset;
use highwater_types::mutation::{self, Mutation};

use super::Log;
use crate::checkpoint::Checkpoint;
use crate::disk::OpenMode;
use crate::epoch_file::EpochRecord;
use crate::error::LogError;
use crate::segment::{Active, Indexer, locate};

impl Log {
    /// Cuts off everything from `offset` on, and the batch that holds it (T1: the caller has `offset` from the leader's
    /// epochs). Trims the epochs and what is known of producers too (T3). Reads from page cache where the cut is; blocks on one small fsync only when
    /// it goes below the recovery point, that is below the high watermark: after an unclean election.
    pub fn truncate_to(&mut self, offset: Offset) -> Result<(), LogError> {
        self.check_open()?;
        let end = self.end_offset();
        if offset >= end {
            // Nothing to cut, but for an epoch that left no record: what comes next may be of an older one.
            let trimmed = self.change_epochs(|epochs| epochs.truncate_from(end), EpochRecord::TruncateFrom(end));
            return self.io(trimmed);
        }
        if offset < self.start {
            return Err(LogError::OffsetOutOfRange { asked: offset, start: self.start, end: self.end_offset() });
        }
        let settled = self.settle_compaction();
        self.io(settled)?;
        let target = self.segment_at(offset);
        self.cancel_heal(target.base());
        let file = match target.base() == self.active.base() {
            true => Ok(self.active.file.clone()),
            false => self.disk.open(&target.segment.log_path(), OpenMode::ReadWrite),
        };
        let file = self.io(file)?;
        let loaded = match target.base() == self.active.base() {
            true => Ok(None),
            false => Indexer::load(&*self.disk, &target.segment, target.len).map(Some),
        };
        let mut loaded = self.io(loaded)?;
        let offsets = loaded.as_ref().map_or(&self.active.index.offsets, |index| &index.offsets);
        let candidate = offsets.floor(target.base(), offset);
        let found = locate(&*file, (target.base(), target.end), target.len, &[candidate], offset);
        // In a damaged range the cut is where the damage starts.
        let (end, position) = self.io(found)?.unwrap_or_else(|stop| stop);
        if end < self.start {
            // The log starts inside that batch: nothing is left.
            return self.restart_at(self.start);
        }

        let settled = self.before_cut(end);
        self.io(settled)?;
        if end < self.checkpoint.claimed() {
            let latest = *self.checkpoint.latest();
            let lowered = Checkpoint { recovery_point: end, high_watermark: latest.high_watermark.min(end), ..latest };
            let written = self.checkpoint.write_durably(lowered);
            self.io(written)?;
        }
        while let Some(last) = self.sealed.back().filter(|last| last.base() > target.base()).cloned() {
            let removed = self.remove_segment(&last);
            self.io(removed)?;
            self.sealed.pop_back();
        }
        if target.base() != self.active.base() {
            let active = self.segment_at(self.end_offset());
            let removed = self.remove_segment(&active);
            self.io(removed)?;
            self.sealed.pop_back();
            let index = loaded.take().unwrap_or_default();
            self.active = Active::resume(target.segment.clone(), file, target.end, target.len, index);
            self.unsynced.dir = true;
        }
        let cut = self.active.truncate(&*self.disk, end, position);
        self.io(cut)?;
        self.unsynced.active = true;
        self.durable = self.durable.min(end);
        self.high_watermark = self.high_watermark.min(end);
        self.syncing = self.syncing.map(|cut| cut.min(end));
        self.cache.truncate_to(end);
        self.damage.retain_mut(|range| {
            range.end = range.end.min(end);
            !range.is_empty()
        });
        if !mutation::is_on(Mutation::EpochsNotTruncated) {
            let trimmed = self.change_epochs(|epochs| epochs.truncate_from(end), EpochRecord::TruncateFrom(end));
            self.io(trimmed)?;
        }
        if mutation::is_on(Mutation::ForgetProducersOnTruncation) {
            return Ok(());
        }
        let learned = self.learn_producers();
        self.io(learned)
    }

    /// Forgets everything and goes on, empty, at `offset`: log start, high watermark and end move there together (T5),
    /// durably, so that no crash brings an earlier end back. Blocks on small fsyncs; rare.
    pub fn restart_at(&mut self, offset: Offset) -> Result<(), LogError> {
        self.check_open()?;
        self.cancel_heal(Offset::ZERO);
        let settled = self.before_cut(Offset::ZERO);
        self.io(settled)?;
        let doubt = self.doubt;
        let state =
            Checkpoint { start_offset: offset, recovery_point: offset, high_watermark: offset, closed_at: None, doubt };
        let written = self.checkpoint.write_durably(state).and_then(|()| self.sync_names());
        self.io(written)?;
        let active = self.segment_at(self.end_offset());
        for sealed in self.sealed.iter().chain(std::iter::once(&active)) {
            if let Err(error) = self.remove_segment(sealed) {
                return self.io(Err(error));
            }
        }
        let removed = self.condemned.remove_all(&*self.disk);
        self.io(removed)?;
        self.sealed.clear();
        self.cache.clear();
        self.damage.clear();
        let dir: Arc<_> = self.dir.clone();
        let created = Active::create(&*self.disk, &dir, offset);
        self.active = self.io(created)?;
        let forgotten = self.forget_producers();
        self.io(forgotten)?;
        (self.start, self.durable, self.high_watermark) = (offset, offset, offset);
        self.durable_start = offset;
        self.syncing = self.syncing.map(|_| Offset::ZERO);
        self.unsynced.dir = true;
        let cleared = self.change_epochs(
            |epochs| {
                epochs.clear();
                true
            },
            EpochRecord::Clear,
        );
        self.io(cleared)
    }

    /// The checkpoint is durable only with its name.
    fn sync_names(&self) -> std::io::Result<()> {
        if self.is_named {
            return Ok(());
        }
        self.disk.sync_dir_blocking(&self.dir)?;
        self.dir.parent().map_or(Ok(()), |parent| self.disk.sync_dir_blocking(parent))
    }
}
