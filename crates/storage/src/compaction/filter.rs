//! What of each batch stays: the rules, without any file. Batches come from the log's start on, in order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use highwater_record::{Batch, BatchError, BatchHeader, FILLER_OFFSETS_MAX, Record, filler};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::key_map::KeyMap;
use crate::producers::{AbortedTransaction, marker_of};

/// Most bytes to which one batch is decompressed.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// What holds for a whole pass.
pub(super) struct Rules {
    pub(super) now: TimestampMs,
    pub(super) delete_retention_ms: u64,
    /// Tombstones and markers whose time has come may go.
    pub(super) may_delete: bool,
    /// In order.
    pub(super) known_from: Vec<Offset>,
    aborted: BTreeMap<ProducerId, Vec<(Offset, Offset)>>,
}

impl Rules {
    pub(super) fn new(
        now: TimestampMs,
        delete_retention_ms: u64,
        may_delete: bool,
        known_from: Vec<Offset>,
        all_aborted: &[AbortedTransaction],
    ) -> Self {
        let mut aborted: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for one in all_aborted {
            aborted.entry(one.producer_id).or_default().push((one.first_offset, one.last_offset));
        }
        Self { now, delete_retention_ms, may_delete, known_from, aborted }
    }

    /// Of one producer they come one after the other.
    fn is_aborted(&self, header: &BatchHeader) -> bool {
        let Some(aborted) = self.aborted.get(&header.producer_id) else { return false };
        let next = aborted.partition_point(|(_, last)| *last < header.base_offset);
        header.attributes.is_transactional() && aborted.get(next).is_some_and(|(first, _)| *first <= header.base_offset)
    }

    fn is_known_from(&self, header: &BatchHeader) -> bool {
        self.known_from.binary_search(&header.base_offset).is_ok()
    }

    fn horizon(&self) -> TimestampMs {
        let time = i64::try_from(self.delete_retention_ms).unwrap_or(i64::MAX);
        TimestampMs::new(self.now.get().saturating_add(time).max(0))
    }

    fn has_passed(&self, header: &BatchHeader) -> bool {
        self.may_delete && header.delete_horizon().is_some_and(|horizon| horizon <= self.now)
    }

    /// Notes the keys of a batch. Whether they fit.
    pub(super) fn note_keys(&self, batch: &Batch, keys: &mut KeyMap) -> Result<bool, BatchError> {
        let header = batch.header();
        if header.attributes.is_control() || header.record_count == 0 || self.is_aborted(header) {
            return Ok(true);
        }
        if !keys.has_room(header.record_count as usize) {
            return Ok(false);
        }
        for record in batch.records(DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            if let Some(key) = &record.key {
                keys.note(key, record.offset);
            }
        }
        Ok(true)
    }
}

/// What becomes of one batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Replace(Bytes),
    Drop,
}

/// Judges batches from the log's start on.
pub(super) struct Filter<'a> {
    rules: &'a Rules,
    keys: &'a KeyMap,
    /// Keys of what lies before are known.
    clean_to: Offset,
    /// Those of whose present transaction a batch was left.
    in_transaction: &'a mut BTreeSet<ProducerId>,
}

impl<'a> Filter<'a> {
    pub(super) fn new(
        rules: &'a Rules,
        keys: &'a KeyMap,
        clean_to: Offset,
        in_transaction: &'a mut BTreeSet<ProducerId>,
    ) -> Self {
        Self { rules, keys, clean_to, in_transaction }
    }

    pub(super) fn judge(&mut self, batch: &Batch) -> Result<Verdict, BatchError> {
        let header = batch.header();
        if header.next_offset() > self.clean_to {
            return Ok(Verdict::Keep);
        }
        if header.is_filler() {
            return Ok(Verdict::Drop);
        }
        if header.attributes.is_control() {
            return self.judge_marker(batch);
        }
        let verdict = self.judge_data(batch)?;
        if verdict != Verdict::Drop && header.attributes.is_transactional() {
            self.in_transaction.insert(header.producer_id);
        }
        Ok(verdict)
    }

    fn judge_marker(&mut self, batch: &Batch) -> Result<Verdict, BatchError> {
        let header = batch.header();
        if marker_of(batch).is_none() {
            return Ok(Verdict::Keep);
        }
        let ends_something = self.in_transaction.remove(&header.producer_id);
        if ends_something || self.rules.is_known_from(header) {
            return Ok(Verdict::Keep);
        }
        if self.rules.has_passed(header) {
            return Ok(Verdict::Drop);
        }
        match header.delete_horizon() {
            Some(_) => Ok(Verdict::Keep),
            None => {
                let keep = vec![true; header.record_count as usize];
                let kept = batch.unpack(DECOMPRESSED_BYTES_MAX)?.retain(&keep, Some(self.rules.horizon()))?;
                Ok(Verdict::Replace(kept))
            }
        }
    }

    fn judge_data(&self, batch: &Batch) -> Result<Verdict, BatchError> {
        let header = batch.header();
        let emptied = || match self.rules.is_known_from(header) {
            true if header.record_count == 0 => Verdict::Keep,
            true => Verdict::Replace(batch.emptied()),
            false => Verdict::Drop,
        };
        if header.record_count == 0 || self.rules.is_aborted(header) {
            return Ok(emptied());
        }
        let unpacked = batch.unpack(DECOMPRESSED_BYTES_MAX)?;
        let tombstones_go = self.rules.has_passed(header) || mutation::is_on(Mutation::TombstonesGoAtOnce);
        let stays = |record: &Record| {
            let Some(key) = &record.key else { return true };
            let is_newest = match self.keys.newest(key) {
                Some(newest) if mutation::is_on(Mutation::CompactionDropsNewest) => newest > record.offset,
                newest => newest.is_none_or(|newest| newest <= record.offset),
            };
            is_newest && !(record.value.is_none() && tombstones_go)
        };
        let mut keep = Vec::with_capacity(header.record_count.min(1 << 16) as usize);
        let (mut count, mut tombstones) = (0, 0);
        for record in unpacked.records() {
            let record = record?;
            let kept = stays(&record);
            keep.push(kept);
            count += usize::from(kept);
            tombstones += usize::from(kept && record.key.is_some() && record.value.is_none());
        }
        let horizon = (tombstones > 0 && header.delete_horizon().is_none()).then(|| self.rules.horizon());
        if count == 0 {
            return Ok(emptied());
        }
        if count == keep.len() && horizon.is_none() {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::Replace(unpacked.retain(&keep, horizon)?))
    }
}

/// A run of offsets of which nothing is left, as it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    base: Offset,
    next: Offset,
    epoch: LeaderEpoch,
}

impl Gap {
    pub(super) fn of(header: &BatchHeader) -> Self {
        Self { base: header.base_offset, next: header.next_offset(), epoch: header.leader_epoch }
    }

    /// Takes in the batch that follows, if one filler can stand for both.
    pub(super) fn extend(&mut self, header: &BatchHeader) -> bool {
        let fits = header.leader_epoch == self.epoch
            && header.base_offset == self.next
            && header.next_offset().distance_from(self.base) <= FILLER_OFFSETS_MAX;
        if fits {
            self.next = header.next_offset();
        }
        fits
    }

    pub(super) fn filler(&self) -> Bytes {
        filler(self.base, self.next, self.epoch)
    }
}
