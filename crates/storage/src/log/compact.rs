//! Compaction, the log's side: what may be cleaned, and the swap. The work is in [`crate::compaction`].

use std::io;
use std::sync::{Arc, Weak};

use highwater_record::EpochHistory;
use highwater_types::{LeaderEpoch, Offset};

use super::Log;
use super::producers::epoch_before;
use crate::compaction::{
    self, Compacted, CompactionError, CompactionJob, CompactionLimits, CompactionNeed, Plan, Rewritten, Settlement,
};
use crate::disk::Disk;
use crate::error::{DamagedRange, LogError};
use crate::segment::Sealed;

/// What a log knows of its own compaction.
#[derive(Default)]
pub(super) struct Compaction {
    /// Below it no key has two values, as far as is known.
    cleaned_to: Offset,
    /// Below it segments may have been written anew: no recovery point may come to lie there again.
    rewritten_to: Offset,
    /// The log was cut or healed to here since the present pass began.
    cut_to: Option<Offset>,
    running: Weak<()>,
    unsettled: Vec<Arc<Settlement>>,
}

impl Compaction {
    /// As the folder has it.
    pub(super) fn load(
        disk: &dyn Disk,
        dir: &std::path::Path,
        epochs: &EpochHistory,
        (end, recovery_point): (Offset, Offset),
    ) -> io::Result<Self> {
        let saved = compaction::load_cleaned(disk, dir)?;
        let holds = |(to, epoch): &(Offset, LeaderEpoch)| {
            *to <= end && [*epoch, LeaderEpoch::NONE].contains(&epoch_before(epochs, *to))
        };
        let cleaned_to = saved.filter(holds).map_or(Offset::ZERO, |(to, _)| to);
        Ok(Self { cleaned_to, rewritten_to: recovery_point.min(end), ..Self::default() })
    }

    /// Offsets from `end` on are gone, or have come back as they once were.
    fn cut(&mut self, end: Offset) {
        self.cleaned_to = self.cleaned_to.min(end);
        self.cut_to = Some(self.cut_to.map_or(end, |cut| cut.min(end)));
    }

    /// The least recovery point that may be written down, if so much is durable.
    pub(super) fn recovery_point_min(&self) -> Offset {
        self.rewritten_to
    }
}

impl Log {
    /// How much a pass would have to do now; `None` if the topic is not compacted, or nothing can be cleaned.
    pub fn compaction_need(&self, limits: &CompactionLimits) -> Option<CompactionNeed> {
        let config = self.config.compaction?;
        let segments = self.compactable(limits)?;
        let bytes = |segments: &mut dyn Iterator<Item = &Sealed>| segments.map(|sealed| sealed.len).sum::<u64>();
        let is_dirty = |sealed: &&Sealed| sealed.end > self.compaction.cleaned_to.max(self.start);
        let clean_bytes = bytes(&mut segments.iter().filter(|sealed| !is_dirty(sealed)));
        let dirty_bytes = bytes(&mut segments.iter().filter(is_dirty));
        let first = segments.iter().find(is_dirty)?;
        // After a restart only the newest record's age is known.
        let age = limits.now.get().saturating_sub(first.since.unwrap_or(first.max_timestamp).get());
        let is_overdue = config.lag_max_ms.is_some_and(|lag| u64::try_from(age).is_ok_and(|age| age >= lag));
        Some(CompactionNeed { clean_bytes, dirty_bytes, is_overdue })
    }

    /// The segments that a pass may go through: from the first on, see [`crate::compaction`].
    fn compactable(&self, limits: &CompactionLimits) -> Option<Vec<Sealed>> {
        let config = self.config.compaction?;
        let usable = self.check_open().is_ok() && !self.config.status.is_full();
        if !usable || !self.damage.is_empty() || self.producers.has_gaps() || self.healing.is_some() {
            return None;
        }
        if self.compaction.running.upgrade().is_some() {
            return None;
        }
        let high_watermark = limits.high_watermark.min(self.high_watermark);
        let unstable = self.producers.states.first_unstable_offset(high_watermark);
        let synced = self.durable.min(self.checkpoint.certain_recovery_point());
        let bound = high_watermark.min(unstable.unwrap_or(Offset::MAX)).min(synced);
        let lag = i64::try_from(config.lag_min_ms).unwrap_or(i64::MAX);
        let newest = limits.now.get().saturating_sub(lag);
        let may_be_cleaned =
            |sealed: &&Sealed| sealed.end <= bound && (lag == 0 || sealed.max_timestamp.get() <= newest);
        let segments: Vec<Sealed> = self.sealed.iter().take_while(may_be_cleaned).cloned().collect();
        (!segments.is_empty()).then_some(segments)
    }

    /// Begins a pass; one at a time. `None` if there is nothing that it could clean.
    pub fn begin_compaction(&mut self, limits: CompactionLimits) -> Option<CompactionJob> {
        self.compaction_need(&limits)?;
        let segments = self.compactable(&limits)?;
        let end = segments.last()?.end;
        let running = Arc::new(());
        self.compaction.running = Arc::downgrade(&running);
        self.compaction.cut_to = None;
        self.compaction.unsettled.retain(|settlement| !settlement.is_done());
        Some(CompactionJob::new(Plan {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            dirty_from: self.compaction.cleaned_to.max(self.start),
            segments,
            epochs: self.epochs.clone(),
            producers: self.producers.states.describe().iter().map(|known| known.producer_id).collect(),
            known_from: self.producers.states.known_from(end),
            aborted: self.producers.states.aborted_in(Offset::ZERO, end),
            unsettled: self.compaction.unsettled.clone(),
            segment_bytes: self.config.segment_bytes,
            index_interval_bytes: self.config.index_interval_bytes,
            delete_retention_ms: self.config.compaction?.delete_retention_ms,
            limits,
            _running: running,
        }))
    }

    /// Puts a rewritten segment in the place of the old ones: renames, no fsync. Gives it back if the log has changed there
    /// meanwhile.
    pub fn swap_compacted(&mut self, rewritten: Rewritten) -> Result<Result<Arc<Settlement>, Rewritten>, LogError> {
        self.check_open()?;
        let Some(place) = self.place_of(&rewritten) else { return Ok(Err(rewritten)) };
        rewritten.old.iter().for_each(|old| old.segment.replaced());
        for (from, to) in &rewritten.renames {
            if let Err(error) = self.disk.rename(from, to) {
                self.fail(&format!("renaming {}: {error}", from.display()));
                return Err(LogError::Io(error));
            }
        }
        let settlement = Arc::new(rewritten.settlement());
        let end = rewritten.new.end;
        drop(self.sealed.drain(place..place + rewritten.old.len()));
        self.sealed.insert(place, rewritten.new);
        self.compaction.rewritten_to = self.compaction.rewritten_to.max(end);
        self.compaction.unsettled.retain(|settlement| !settlement.is_done());
        self.compaction.unsettled.push(settlement.clone());
        Ok(Ok(settlement))
    }

    fn place_of(&self, rewritten: &Rewritten) -> Option<usize> {
        let (first, end) = (rewritten.old.first()?, rewritten.new.end);
        let range = DamagedRange { start: first.base(), end };
        let is_damaged = self.damage.iter().any(|known| known.start < range.end && range.start < known.end);
        if is_damaged || self.healing.is_some() {
            return None;
        }
        let place = self.sealed.iter().position(|sealed| Arc::ptr_eq(&sealed.segment, &first.segment))?;
        let mut now = self.sealed.iter().skip(place);
        let same = rewritten
            .old
            .iter()
            .all(|old| now.next().is_some_and(|now| Arc::ptr_eq(&now.segment, &old.segment) && now.len == old.len));
        same.then_some(place)
    }

    /// The pass has ended. What it found damaged is noted; what it left unclear takes the data dir offline (T44).
    pub fn finish_compaction(&mut self, result: &Result<Compacted, CompactionError>) {
        match result {
            Ok(done) if done.is_whole => {
                let cut = self.compaction.cut_to.unwrap_or(Offset::MAX);
                self.compaction.cleaned_to = self.compaction.cleaned_to.max(done.cleaned_to.min(cut));
            }
            Ok(_) | Err(CompactionError::Batch(_) | CompactionError::Io(_) | CompactionError::Log(_)) => {}
            Err(CompactionError::Damaged(range)) => self.note_damage(*range),
            Err(error @ CompactionError::Unsettled(_)) => {
                self.fail(&format!("compacting {}: {error}", self.dir.display()));
            }
        }
    }

    /// Up to where it is clean.
    pub fn cleaned_to(&self) -> Offset {
        self.compaction.cleaned_to
    }

    /// The log is to be cut to `end`: what a swap has left is removed first, as new segments may get the old ones' names. Blocks on
    /// fsyncs if there was a swap just now.
    pub(super) fn before_cut(&mut self, end: Offset) -> io::Result<()> {
        self.settle_compaction()?;
        self.compaction.cut(end);
        self.compaction.rewritten_to = self.compaction.rewritten_to.min(end);
        Ok(())
    }

    pub(super) fn settle_compaction(&mut self) -> io::Result<()> {
        for settlement in &self.compaction.unsettled {
            settlement.settle(&*self.disk)?;
        }
        self.compaction.unsettled.clear();
        Ok(())
    }

    /// What a peer had for offsets from `start` on may be less clean.
    pub(super) fn healed_from(&mut self, start: Offset) {
        self.compaction.cut(start);
    }

    #[cfg(test)]
    pub(crate) fn compaction_limits(&self, now: i64) -> CompactionLimits {
        CompactionLimits {
            high_watermark: self.high_watermark,
            now: highwater_types::TimestampMs::new(now),
            all_in_sync: true,
            keys_max: 1 << 20,
        }
    }
}
