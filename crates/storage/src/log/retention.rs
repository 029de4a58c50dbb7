//! What lets go of the oldest records: retention by time and size, and delete-records. And rolling by age.
//!
//! **Invariant**: files go after the start offset that lets go of them is durable, so that a missing first segment is always
//! damage and never a retention half done.

use std::sync::Arc;

use highwater_record::EpochHistory;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{Offset, TimestampMs};

use super::Log;
use crate::disk;
use crate::error::LogError;

/// Why a segment went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionReason {
    /// Its newest record is older than `retention.ms`.
    Age,
    /// The log is larger than `retention.bytes`.
    Size,
}

/// A segment that retention let go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedSegment {
    pub base_offset: Offset,
    pub end_offset: Offset,
    pub bytes: u64,
    pub reason: DeletionReason,
}

impl Log {
    pub(super) fn is_roll_due(&self, now: TimestampMs) -> bool {
        let age = self.active.since.map_or(0, |since| now.get().saturating_sub(since.get()));
        self.active.len > 0 && u64::try_from(age).is_ok_and(|age| age >= self.config.segment_ms)
    }

    /// Starts a new segment if the present one is older than `segment.ms`. Call it now and then, so that an idle
    /// partition's records expire too. Returns whether it did.
    pub fn roll_if_due(&mut self, now: TimestampMs) -> Result<bool, LogError> {
        self.check_open()?;
        if self.active.len > 0 && self.active.since.is_none() {
            self.active.since = Some(now);
        }
        if !self.is_roll_due(now) {
            return Ok(false);
        }
        let rolled = self.roll();
        self.io(rolled).map(|()| true)
    }

    /// Lets go of the oldest segments by age and size; only of whole ones below the high watermark. The files go with
    /// the next sync: request one if anything is returned. The present segment is rolled if all of it is too old.
    pub fn apply_retention(
        &mut self,
        now: TimestampMs,
        high_watermark: Offset,
    ) -> Result<Vec<DeletedSegment>, LogError> {
        self.check_open()?;
        let is_old = |config: &crate::LogConfig, newest: TimestampMs| {
            let age = now.get().saturating_sub(newest.get());
            newest >= TimestampMs::new(0)
                && config.retention_ms.is_some_and(|limit| u64::try_from(age).is_ok_and(|age| age > limit))
        };
        let newest = self.active.index.max_timestamp.unwrap_or(TimestampMs::NONE);
        if self.active.len > 0 && self.active.end <= high_watermark && is_old(&self.config, newest) {
            match self.roll() {
                // Then it stays until there is space.
                Err(error) if disk::is_disk_full(&error) => {}
                rolled => self.io(rolled)?,
            }
        }
        let mut size = self.size_bytes();
        let (mut deleted, mut start) = (Vec::new(), self.start);
        for sealed in self.sealed.iter().take_while(|sealed| sealed.end <= high_watermark) {
            let too_large = self.config.retention_bytes.is_some_and(|limit| size - sealed.len >= limit);
            let reason = match is_old(&self.config, sealed.max_timestamp) {
                true => DeletionReason::Age,
                false if too_large => DeletionReason::Size,
                false => break,
            };
            size -= sealed.len;
            start = sealed.end;
            let (base_offset, end_offset, bytes) = (sealed.base(), sealed.end, sealed.len);
            deleted.push(DeletedSegment { base_offset, end_offset, bytes, reason });
        }
        if start > self.start {
            self.set_start(start)?;
        }
        Ok(deleted)
    }

    /// Moves the log's start (delete-records, or as the leader's start moved): records before it are gone for readers
    /// now, and their files with the next sync. Never back: an earlier offset changes nothing.
    pub fn advance_start(&mut self, offset: Offset) -> Result<(), LogError> {
        self.check_open()?;
        if offset > self.end_offset() {
            return Err(LogError::OffsetOutOfRange { asked: offset, start: self.start, end: self.end_offset() });
        }
        if offset <= self.start {
            return Ok(());
        }
        if offset == self.end_offset() {
            match self.roll() {
                // What lies before the start stays in its file until there is space to roll.
                Err(error) if disk::is_disk_full(&error) => {}
                rolled => self.io(rolled)?,
            }
        }
        self.set_start(offset)
    }

    fn set_start(&mut self, start: Offset) -> Result<(), LogError> {
        self.start = start;
        self.high_watermark = self.high_watermark.max(start);
        self.producers.states.start_moved(start);
        let segments = self.sealed.len();
        while let Some(first) = self.sealed.front().filter(|sealed| sealed.end <= start) {
            self.condemned.add(first.segment.paths());
            self.sealed.pop_front();
        }
        if self.sealed.len() < segments {
            if mutation::is_on(Mutation::ForgetProducersOnRetention) {
                self.producers.states = crate::producers::ProducerStates::default();
            }
            // What goes can't be read again, and the last snapshot may not have come about (T30).
            self.save_producers();
        }
        self.damage.retain_mut(|range| {
            range.start = range.start.max(start);
            !range.is_empty()
        });
        // Not written to the epochs' file: the start says as much.
        let mut epochs = EpochHistory::clone(&self.epochs);
        if epochs.truncate_before(start) {
            self.epochs = Arc::new(epochs);
        }
        self.write_checkpoint_to_sync()
    }
}
