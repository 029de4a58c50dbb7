//! Opening a log: what its files hold, and after an unclean stop, what of it is true.
//!
//! Up to the recovery point everything was synced: what is wrong there is damage, kept and reported, never cut.
//! Above it a torn tail is what an unclean stop leaves: it is cut at the first fault. Offsets that are missing below the
//! recovery point (a file cut short or lost) are damage too, and the log goes on behind them.
//!
//! **Invariant**: the recovery point trails what was synced, so a fault above it may be damage after all. Where sound batches
//! follow, either can be: the log is cut, and in doubt ([`crate::Log::doubt`]), which is on the disk before the cut (T43).
//! Without any the fault is at the log's end, where torn writes are.

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_record::{BatchHeader, EpochHistory};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, TimestampMs, TopicPartition};

use crate::checkpoint::{Checkpoint, CheckpointFile};
use crate::compaction;
use crate::config::LogConfig;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::epoch_file::EpochFile;
use crate::error::{DamagedRange, OpenError};
use crate::index;
use crate::log::{OpenLog, Recovered, remove_files};
use crate::log_folder::{bases, check_partition};
use crate::scan::{Fault, Found, Scanner, walk};
use crate::segment::{Active, Indexer, Sealed, Segment};
use crate::time_index;

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// It was closed in order, and nothing speaks against that: nothing was scanned.
    pub clean: bool,
    /// The log did not exist.
    pub created: bool,
    pub recovery_point: Offset,
    pub scanned_bytes: u64,
    /// Bytes cut off above the recovery point.
    pub cut_bytes: u64,
    /// Why they were cut.
    pub cut_because: Option<Fault>,
    /// Sound batches followed the cut: parts of the unsynced tail arrived out of order, or what was synced is damaged.
    pub good_after_cut: bool,
    /// Damage below the recovery point.
    pub damage: Vec<DamagedRange>,
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Arc<Path>,
    config: &'a LogConfig,
    checkpoint: Checkpoint,
    checkpoint_file: CheckpointFile,
    epochs: EpochHistory,
    report: RecoveryReport,
    /// Of the last batch that was scanned. Above the recovery point an older one is what a truncation had cut off,
    /// and the disk brought back.
    latest_epoch: LeaderEpoch,
    /// Index files that were written and not synced.
    written: Vec<PathBuf>,
}

/// A segment as recovery goes through it.
struct Part {
    segment: Arc<Segment>,
    index: Indexer,
    end: Offset,
    len: u64,
}

pub(crate) fn recover(
    disk: &dyn Disk,
    dir: &Arc<Path>,
    partition: TopicPartition,
    config: &LogConfig,
    how: OpenLog,
) -> Result<(Recovered, RecoveryReport), OpenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    disk.create_dir_all(dir).map_err(at(dir))?;
    check_partition(disk, dir, partition)?;
    let (checkpoint_file, found) = CheckpointFile::open(disk, dir).map_err(at(dir))?;
    let (mut epoch_file, replayed) = EpochFile::open(disk, dir).map_err(at(dir))?;
    compaction::roll_back_or_settle(disk, dir).map_err(at(dir))?;
    let bases = bases(disk, dir).map_err(at(dir))?;
    let checkpoint = found.unwrap_or_else(|| {
        // New, or both slots are damaged: then nothing is known as synced, and all of it is scanned.
        Checkpoint { start_offset: bases.first().copied().unwrap_or_default(), ..Checkpoint::default() }
    });
    let mut recovery = Recovery {
        disk,
        dir,
        config,
        checkpoint,
        checkpoint_file,
        epochs: replayed.history,
        report: RecoveryReport::default(),
        latest_epoch: LeaderEpoch::NONE,
        written: Vec::new(),
    };
    recovery.report.created = found.is_none() && bases.is_empty();
    recovery.report.recovery_point = checkpoint.recovery_point;

    let clean = if how.clean && !replayed.damaged { recovery.open_clean(&bases).map_err(at(dir))? } else { None };
    let (sealed, active) = match clean {
        Some(opened) => opened,
        None => {
            let parts = recovery.scan(&bases).map_err(at(dir))?;
            if replayed.damaged {
                recovery.epochs = recovery.epochs_of(&parts).map_err(at(dir))?;
            }
            recovery.finish(parts).map_err(at(dir))?
        }
    };
    let start = recovery.checkpoint.start_offset;
    let before = recovery.epochs.clone();
    recovery.epochs.truncate_from(active.end);
    recovery.epochs.truncate_before(start);
    let epochs_changed = recovery.epochs != before || recovery.epochs != epochs_on_disk(disk, dir).map_err(at(dir))?;
    if epochs_changed || replayed.damaged {
        epoch_file = EpochFile::rewrite(disk, dir, &recovery.epochs).map_err(at(dir))?;
    }
    let end = active.end;
    let recovered = Recovered {
        sealed,
        active,
        start,
        durable: if recovery.report.clean { end } else { checkpoint.recovery_point.min(end).max(start) },
        high_watermark: checkpoint.high_watermark.min(end).max(start),
        epochs: recovery.epochs,
        epoch_file,
        checkpoint: recovery.checkpoint_file,
        damage: recovery.report.damage.clone(),
        doubt: recovery.checkpoint.doubt,
        written: recovery.written,
    };
    let report = recovery.report;
    if report.cut_bytes > 0 || !report.damage.is_empty() {
        let (cut, because, good_after) = (report.cut_bytes, &report.cut_because, report.good_after_cut);
        tracing::warn!(%partition, damage = ?report.damage, cut, ?because, good_after, "recovered after an unclean stop");
    }
    Ok((recovered, report))
}

fn epochs_on_disk(disk: &dyn Disk, dir: &Path) -> io::Result<EpochHistory> {
    EpochFile::load(disk, dir).map(|replayed| replayed.history)
}

impl Recovery<'_> {
    /// Trusts what the log says of itself, if it says that it was closed where its last segment ends.
    fn open_clean(&mut self, bases: &[Offset]) -> io::Result<Option<(VecDeque<Sealed>, Active)>> {
        let (Some(closed_at), Some(last)) = (self.checkpoint.closed_at, bases.last()) else { return Ok(None) };
        if bases[0] > self.checkpoint.start_offset {
            return Ok(None);
        }
        let mut sealed = VecDeque::new();
        for (index, base) in bases[..bases.len() - 1].iter().enumerate() {
            let segment = Segment::new(self.dir.clone(), *base);
            let end = bases[index + 1];
            if end <= self.checkpoint.start_offset {
                remove_files(self.disk, &segment.paths())?;
                continue;
            }
            let len = self.disk.open(&segment.log_path(), OpenMode::Read)?.len()?;
            let newest = time_index::TimeIndex::load(self.disk, &segment.path(time_index::EXTENSION))?.last();
            let Some(newest) = newest.filter(|entry| u64::from(entry.relative) == end.distance_from(*base)) else {
                return Ok(None);
            };
            sealed.push_back(Sealed { segment, end, len, max_timestamp: newest.max_timestamp, since: None });
        }
        let segment = Segment::new(self.dir.clone(), *last);
        let file = self.disk.open(&segment.log_path(), OpenMode::ReadWrite)?;
        let len = file.len()?;
        let mut index = Indexer::load(self.disk, &segment, len)?;
        let (offset, position) = index.offsets.floor(*last, Offset::MAX);
        let mut scanner = Scanner::new(&*file, position, offset, len).headers_only();
        self.index_rest(&segment, &mut index, &mut scanner)?;
        if scanner.expected() != closed_at || scanner.position() != len {
            return Ok(None);
        }
        self.report.clean = true;
        Ok(Some((sealed, Active::resume(segment, file, closed_at, len, index))))
    }

    fn index_rest(&self, segment: &Segment, index: &mut Indexer, scanner: &mut Scanner<'_>) -> io::Result<()> {
        let interval = self.config.index_interval_bytes;
        walk(scanner, |header, position| {
            index.add(segment.base, header, position, interval);
            ControlFlow::<()>::Continue(())
        })?;
        Ok(())
    }

    /// Goes through all segments in order; cuts above the recovery point, notes damage below it.
    fn scan(&mut self, bases: &[Offset]) -> io::Result<Vec<Part>> {
        let (start, recovery_point) = (self.checkpoint.start_offset, self.checkpoint.recovery_point);
        let mut parts: Vec<Part> = Vec::new();
        let mut cut = false;
        for (index, &base) in bases.iter().enumerate() {
            let segment = Segment::new(self.dir.clone(), base);
            let next_base = bases.get(index + 1).copied();
            if next_base.is_some_and(|next| next <= start) {
                remove_files(self.disk, &segment.paths())?;
                continue;
            }
            // Where the segments before end; a log starts with its first segment, or at its start if that is lost.
            let expected = parts.last().map_or_else(|| base.min(start), |part: &Part| part.end);
            if !cut && base != expected && base.max(expected) > recovery_point {
                self.report.cut_because = Some(Fault::Offset { expected, found: base });
                self.note_cut(expected, self.holds_batches(&bases[index..])?)?;
                cut = true;
            }
            if cut {
                self.report.cut_bytes += self.disk.open(&segment.log_path(), OpenMode::Read)?.len()?;
                remove_files(self.disk, &segment.paths())?;
                continue;
            }
            if base != expected {
                self.bridge(&mut parts, expected, base)?;
            }
            let part = self.scan_segment(segment, &bases[index + 1..], &mut cut)?;
            parts.push(part);
        }
        let end = parts.last().map_or(start, |part| part.end);
        if end < recovery_point && !mutation::is_on(Mutation::DamageCutSilently) {
            self.bridge(&mut parts, end, recovery_point)?;
            parts.push(self.empty_part(recovery_point)?);
        }
        // What a log that started anew had no time to remove.
        while parts.len() > 1 && parts[0].end <= start {
            remove_files(self.disk, &parts.remove(0).segment.paths())?;
        }
        if parts.is_empty() {
            parts.push(self.empty_part(start)?);
        }
        Ok(parts)
    }

    /// Offsets `from..to`, once synced, have no batch in any file: they become a damaged range at the end of the segment
    /// before, or in an empty one.
    fn bridge(&mut self, parts: &mut Vec<Part>, from: Offset, to: Offset) -> io::Result<()> {
        if parts.is_empty() {
            parts.push(self.empty_part(from)?);
        }
        if let Some(last) = parts.last_mut() {
            last.end = to;
        }
        self.damaged(from, to);
        Ok(())
    }

    fn empty_part(&self, base: Offset) -> io::Result<Part> {
        let segment = Segment::new(self.dir.clone(), base);
        self.disk.open(&segment.log_path(), OpenMode::Create)?.truncate(0)?;
        Ok(Part { segment, index: Indexer::default(), end: base, len: 0 })
    }

    fn damaged(&mut self, from: Offset, to: Offset) {
        let start = from.max(self.checkpoint.start_offset);
        if start < to {
            self.report.damage.push(DamagedRange { start, end: to });
        }
    }

    /// Completes a segment's index, checking CRCs from the recovery point on and headers from the last index entry on.
    fn scan_segment(&mut self, segment: Arc<Segment>, later: &[Offset], cut: &mut bool) -> io::Result<Part> {
        let recovery_point = self.checkpoint.recovery_point;
        let file = self.disk.open(&segment.log_path(), OpenMode::ReadWrite)?;
        let len = file.len()?;
        let mut index = Indexer::load(self.disk, &segment, len)?;
        let (offset, position) = self.scan_start(&*file, &segment, &mut index, len)?;
        // Below the recovery point a segment ends at the next one's base, whatever its file says.
        let synced_end = later.first().copied().filter(|next| *next <= recovery_point);
        let interval = self.config.index_interval_bytes;
        // The log's start can lie inside a batch, and the recovery point with it.
        let boundary = Some(recovery_point).filter(|point| *point > self.checkpoint.start_offset);
        let mut scanner = Scanner::new(&*file, position, offset, len).until(synced_end).with_boundary(boundary);
        if let Some(synced_end) = synced_end {
            // Headers will do, unless they don't add up.
            let mut headers = Scanner::new(&*file, position, offset, len).until(Some(synced_end)).headers_only();
            while let Found::Batch { .. } = headers.next()? {}
            if (headers.position(), headers.expected()) == (len, synced_end) {
                scanner = scanner.headers_only();
            }
        }
        loop {
            let found = match scanner.peek()? {
                Found::Batch { header, .. }
                    if header.base_offset >= recovery_point && header.leader_epoch < self.latest_epoch =>
                {
                    Found::Bad(Fault::Epoch { latest: self.latest_epoch, found: header.leader_epoch })
                }
                _ => scanner.next()?,
            };
            match found {
                Found::Batch { header, position } => {
                    self.latest_epoch = header.leader_epoch;
                    index.add(segment.base, &header, position, interval);
                    self.report.scanned_bytes += header.total_len() as u64;
                    if header.next_offset() > recovery_point {
                        learn_epoch(&mut self.epochs, &header);
                    }
                }
                Found::End => break,
                Found::Bad(fault)
                    if scanner.expected() < recovery_point && !mutation::is_on(Mutation::DamageCutSilently) =>
                {
                    let from = scanner.expected();
                    match scanner.resync(synced_end.unwrap_or(recovery_point))? {
                        Some((position, offset)) => {
                            tracing::warn!(file = %segment.log_path().display(), %fault, %from, to = %offset, "damage");
                            self.damaged(from, offset);
                            scanner.jump(position, offset);
                        }
                        // Nothing good follows below the recovery point: the caller sees where it ends.
                        None => break,
                    }
                }
                Found::Bad(fault) => {
                    let position = scanner.position();
                    self.report.cut_bytes += len - position;
                    self.report.cut_because = Some(fault);
                    let good_after = scanner.resync(Offset::MAX)?.is_some() || self.holds_batches(later)?;
                    self.note_cut(scanner.expected(), good_after)?;
                    file.truncate(position)?;
                    *cut = true;
                    break;
                }
            }
        }
        let (end, position) = (scanner.expected(), scanner.position());
        Ok(Part { segment, index, end, len: position })
    }

    /// Whether a segment that starts at one of these offsets has a sound batch.
    fn holds_batches(&self, bases: &[Offset]) -> io::Result<bool> {
        for base in bases {
            let segment = Segment::new(self.dir.clone(), *base);
            let file = self.disk.open(&segment.log_path(), OpenMode::Read)?;
            let mut scanner = Scanner::new(&*file, 0, *base, file.len()?);
            match scanner.peek()? {
                Found::End => {}
                Found::Batch { .. } => return Ok(true),
                Found::Bad(_) if scanner.resync(Offset::MAX)?.is_some() => return Ok(true),
                Found::Bad(_) => {}
            }
        }
        Ok(false)
    }

    /// The log is about to be cut at `end`. A doubt is on the disk before that, for the next scan finds no fault any more.
    fn note_cut(&mut self, end: Offset, good_after: bool) -> io::Result<()> {
        self.report.good_after_cut |= good_after;
        let is_news = self.checkpoint.doubt.is_none_or(|known| end < known);
        if !good_after || !is_news || mutation::is_on(Mutation::DamageCutSilently) {
            return Ok(());
        }
        self.checkpoint = Checkpoint { doubt: Some(end), closed_at: None, ..self.checkpoint };
        self.checkpoint_file.write_durably(self.checkpoint)?;
        self.disk.sync_dir_blocking(self.dir)
    }

    /// From where to scan: the last index entry that is at or below the recovery point and holds.
    fn scan_start(
        &self,
        file: &dyn DiskFile,
        segment: &Segment,
        index: &mut Indexer,
        len: u64,
    ) -> io::Result<(Offset, u64)> {
        loop {
            let (offset, position) = index.offsets.floor(segment.base, self.checkpoint.recovery_point);
            let holds = position == 0 || {
                let mut scanner = Scanner::new(file, position, offset, len).headers_only();
                matches!(scanner.peek()?, Found::Batch { .. })
            };
            if holds {
                index.truncate(segment.base, offset, position + 1);
                // What is newer than the entry is added by the scan; what is before it, the time index knows.
                index.max_timestamp = index.times.last().map(|entry| entry.max_timestamp);
                return Ok((offset, position));
            }
            index.truncate(segment.base, offset, position);
        }
    }

    /// The epochs as the batches have them: for when their file is damaged.
    fn epochs_of(&self, parts: &[Part]) -> io::Result<EpochHistory> {
        let mut epochs = EpochHistory::new();
        for part in parts {
            let file = self.disk.open(&part.segment.log_path(), OpenMode::Read)?;
            let mut scanner = Scanner::new(&*file, 0, part.segment.base, part.len).headers_only();
            loop {
                match scanner.next()? {
                    Found::Batch { header, .. } => learn_epoch(&mut epochs, &header),
                    Found::End => break,
                    Found::Bad(_) => match scanner.resync(part.end)? {
                        Some((position, offset)) => scanner.jump(position, offset),
                        None => break,
                    },
                }
            }
        }
        Ok(epochs)
    }

    fn finish(&mut self, mut parts: Vec<Part>) -> io::Result<(VecDeque<Sealed>, Active)> {
        let Some(last) = parts.pop() else {
            return Err(io::Error::other("recovery made no segment"));
        };
        let mut sealed = VecDeque::new();
        for mut part in parts {
            part.index.seal(part.segment.base, part.end);
            self.save_changed(&part)?;
            let max_timestamp = part.index.max_timestamp.unwrap_or(TimestampMs::NONE);
            sealed.push_back(Sealed {
                segment: part.segment,
                end: part.end,
                len: part.len,
                max_timestamp,
                since: None,
            });
        }
        self.save_changed(&last)?;
        let file = self.disk.open(&last.segment.log_path(), OpenMode::ReadWrite)?;
        Ok((sealed, Active::resume(last.segment, file, last.end, last.len, last.index)))
    }

    /// Writes the index files of a segment that hold anything else than they should.
    fn save_changed(&mut self, part: &Part) -> io::Result<()> {
        let [_, offsets, times] = part.segment.paths();
        if index::OffsetIndex::load(self.disk, &offsets, u64::MAX)? != part.index.offsets {
            part.index.offsets.save(self.disk, &offsets, 0)?;
            self.written.push(offsets);
        }
        if time_index::TimeIndex::load(self.disk, &times)? != part.index.times {
            part.index.times.save(self.disk, &times, 0)?;
            self.written.push(times);
        }
        Ok(())
    }
}

/// The batches know their epochs, should the file with them have lost the latest or kept what was truncated.
fn learn_epoch(epochs: &mut EpochHistory, header: &BatchHeader) {
    let epoch = Some(header.leader_epoch);
    if epochs.epoch_at(header.base_offset) != epoch {
        epochs.truncate_from(header.base_offset);
        if let Err(error) = epochs.assign(header.leader_epoch, header.base_offset) {
            tracing::warn!(%error, "leader epochs in the log are out of order");
        }
    } else if epochs.epoch_at(header.last_offset()) != epoch {
        // No epoch starts inside a batch.
        epochs.truncate_from(header.base_offset.next());
    }
}
