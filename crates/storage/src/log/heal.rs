//! Healing: a damaged range is replaced by the batches that the leader has for it. Replicas hold the same bytes but for
//! what compaction has done to each of them, so as a rule they fit where the damaged ones are; where they don't, the segment is written anew beside and renamed.
//!
//! Where nobody has another copy, empty batches take its place ([`Log::fillers_for`]).
//!
//! **Invariants**: offsets, and what lies outside the range, stay as they are. A job that a truncation overtook writes nothing
//! more. A crash half way leaves a damaged range or a healed one. What comes from a leader that has cleaned less is dirty
//! again ([`Log::cleaned_to`]).

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use highwater_record::{Batch, EpochHistory, filler};
use highwater_types::{LeaderEpoch, Offset, TimestampMs};

use super::Log;
use crate::disk::{self, Disk, DiskFile, OpenMode};
use crate::error::{DamagedRange, HealError, LogError};
use crate::index::{self, OffsetIndex};
use crate::scan::{Scanner, walk};
use crate::segment::{Indexer, Sealed, Segment, locate};
use crate::time_index;

const COPY_BYTES: usize = 1 << 20;

/// A heal job that is out: its segment, and whether it may still write.
pub(super) struct Healing {
    base: Offset,
    allowed: Arc<Mutex<bool>>,
}

/// Replaces a damaged range; run it outside the log's lock.
pub struct HealJob {
    disk: Arc<dyn Disk>,
    sealed: Sealed,
    range: DamagedRange,
    /// The log's first offset; what the segment has before it is not read any more.
    log_start: Offset,
    epochs: Arc<EpochHistory>,
    index_interval_bytes: u32,
    allowed: Arc<Mutex<bool>>,
}

/// What a heal job did, for [`Log::finish_heal`].
pub struct Healed {
    range: DamagedRange,
    base: Offset,
    /// The segment as it is now, if positions in it have changed.
    changed: Option<Sealed>,
}

impl Healed {
    /// The offsets that are good now.
    pub fn range(&self) -> DamagedRange {
        self.range
    }
}

/// Where the damage lies in the file.
struct Place {
    start: u64,
    end: u64,
    first: Offset,
    end_offset: Offset,
    /// Nothing good follows in the segment.
    is_tail: bool,
}

impl HealJob {
    /// The offsets to fetch from the leader; a prefix of them will do.
    pub fn range(&self) -> DamagedRange {
        self.range
    }

    /// Writes `batches`, which start at the range's first batch and continue, into the log, and syncs them.
    pub async fn run(self, batches: Vec<Batch>) -> Result<Healed, HealError> {
        let (disk, path) = (self.disk.clone(), self.sealed.segment.log_path());
        let healed = disk::run_on(&*disk, move || self.heal(&batches)).await;
        healed.unwrap_or_else(|source| Err(HealError::Io { path, source }))
    }

    fn heal(&self, batches: &[Batch]) -> Result<Healed, HealError> {
        let io = |source: io::Error| HealError::Io { path: self.sealed.segment.log_path(), source };
        let segment = &self.sealed.segment;
        let file = self.disk.open(&segment.log_path(), OpenMode::ReadWrite).map_err(io)?;
        let place = self.place(&*file).map_err(io)?;
        let batches = self.reach_back(cut_fillers(batches, &place), &place)?;
        let batches = self.check(&batches, &place)?;
        let end = batches.last().map_or(place.first, |batch| batch.header().next_offset());
        let size: u64 = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
        let room = place.end - place.start;
        let whole = end == place.end_offset;
        // Short of the whole, what follows stays where it is: the same bytes as the leader's, damaged or not.
        let fits = if whole { size == room } else { size < room };

        let mut changed = None;
        if place.is_tail || fits {
            let written_to = place.start + size;
            let new_len = match (place.is_tail, whole) {
                (true, true) => written_to,
                (true, false) => written_to.max(self.sealed.len),
                (false, _) => self.sealed.len,
            };
            self.while_allowed(|| {
                write_batches(&*file, place.start, batches)?;
                if place.is_tail { file.truncate(new_len) } else { Ok(()) }
            })
            .map_err(io)?;
            file.sync_blocking().map_err(io)?;
            if new_len != self.sealed.len {
                changed = Some(self.index(segment.clone(), &*file, new_len).map_err(io)?);
            }
        } else {
            changed = Some(self.rewrite(&*file, &place, batches).map_err(io)?);
        }
        Ok(Healed { range: DamagedRange { start: self.range.start, end }, base: segment.base, changed })
    }

    /// Holds off truncation while `write` runs; fails if one came before.
    fn while_allowed<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if *allowed { write() } else { Err(io::Error::other("the log was truncated meanwhile")) }
    }

    fn place(&self, file: &dyn DiskFile) -> io::Result<Place> {
        let Sealed { segment, len, end, .. } = &self.sealed;
        let index = OffsetIndex::load(&*self.disk, &segment.path(index::EXTENSION), *len)?;
        let candidate = index.floor(segment.base, self.range.start);
        let found = locate(file, (segment.base, *end), *len, &[candidate], self.range.start)?;
        let (first, start) = found.unwrap_or_else(|stop| stop);
        let mut scanner = Scanner::new(file, start, first, *len).until(Some(*end));
        Ok(match scanner.resync(self.range.end.min(*end))? {
            Some((position, offset)) => Place { start, end: position, first, end_offset: offset, is_tail: false },
            None => Place { start, end: *len, first, end_offset: *end, is_tail: true },
        })
    }

    /// Where what is before the range is damaged, too, nothing tells where in the file the range begins: then that has to be healed
    /// with it. Of what is before the log's start nobody may have another copy, and nobody reads it.
    fn reach_back(&self, batches: Vec<Batch>, place: &Place) -> Result<Vec<Batch>, HealError> {
        let Some(first) = batches.first().map(|batch| *batch.header()) else { return Ok(batches) };
        if place.first >= self.range.start || first.base_offset <= place.first {
            return Ok(batches);
        }
        if first.base_offset > self.log_start {
            return Err(HealError::BeginsEarlier { range: self.range, at: place.first.max(self.log_start) });
        }
        let epoch = self.epochs.epoch_at(place.first).unwrap_or(first.leader_epoch);
        let mut whole = fillers(place.first, first.base_offset, epoch);
        whole.extend(batches);
        Ok(whole)
    }

    /// The batches that heal: those up to the next good batch, which may come before the range's end.
    fn check<'a>(&self, batches: &'a [Batch], place: &Place) -> Result<&'a [Batch], HealError> {
        let range = self.range;
        let (mut expected, mut count) = (place.first, 0);
        for header in batches.iter().map(Batch::header).take_while(|header| header.base_offset < place.end_offset) {
            if header.base_offset != expected {
                return Err(HealError::OffsetGap { range, expected, found: header.base_offset });
            }
            if let Some(known) = self.epochs.epoch_at(expected).filter(|known| *known != header.leader_epoch) {
                return Err(HealError::OtherEpoch { offset: expected, found: header.leader_epoch, known });
            }
            (expected, count) = (header.next_offset(), count + 1);
        }
        match (batches.first(), count) {
            (None, _) => Err(HealError::Nothing(range)),
            (Some(first), 0) => {
                Err(HealError::OffsetGap { range, expected: place.first, found: first.header().base_offset })
            }
            _ if expected > place.end_offset => Err(HealError::TooFar { range, end: expected }),
            _ => Ok(&batches[..count]),
        }
    }

    /// The segment anew: what is before the damage, the batches, and what is after it.
    fn rewrite(&self, old: &dyn DiskFile, place: &Place, batches: &[Batch]) -> io::Result<Sealed> {
        let segment = &self.sealed.segment;
        let path = segment.log_path();
        let temporary = path.with_extension("tmp");
        let file = self.disk.open(&temporary, OpenMode::Create)?;
        file.truncate(0)?;
        copy(old, 0, place.start, &*file, 0)?;
        let mut len = place.start + write_batches(&*file, place.start, batches)?;
        copy(old, place.end, self.sealed.len, &*file, len)?;
        len += self.sealed.len - place.end;
        file.sync_blocking()?;
        self.while_allowed(|| self.disk.rename(&temporary, &path))?;
        self.disk.sync_dir_blocking(segment.dir())?;
        self.index(Segment::new(segment.dir().clone(), segment.base), &*file, len)
    }

    /// Makes the indexes anew.
    fn index(&self, segment: Arc<Segment>, file: &dyn DiskFile, len: u64) -> io::Result<Sealed> {
        let mut index = Indexer::default();
        let mut scanner = Scanner::new(file, 0, segment.base, len).headers_only();
        walk(&mut scanner, |header, position| {
            index.add(segment.base, header, position, self.index_interval_bytes);
            ControlFlow::<()>::Continue(())
        })?;
        // What lies behind damage that is still there is not indexed, so it is not known how new it is.
        index.max_timestamp = index.max_timestamp.max(Some(self.sealed.max_timestamp));
        index.seal(segment.base, self.sealed.end);
        let (offsets, times) = (segment.path(index::EXTENSION), segment.path(time_index::EXTENSION));
        index.offsets.save(&*self.disk, &offsets, 0)?;
        index.times.save(&*self.disk, &times, 0)?;
        for path in [&offsets, &times] {
            self.disk.open(path, OpenMode::ReadWrite)?.sync_blocking()?;
        }
        let max_timestamp = index.max_timestamp.unwrap_or(TimestampMs::NONE);
        Ok(Sealed { segment, end: self.sealed.end, len, max_timestamp, since: self.sealed.since })
    }
}

/// The leader's log may be compacted further, or less far: of a filler that reaches beyond the damaged place, the part inside it
/// is taken. All else begins and ends where batches of this log do.
fn cut_fillers(batches: &[Batch], place: &Place) -> Vec<Batch> {
    let cut = |batch: &Batch| {
        let header = batch.header();
        let (base, next) = (header.base_offset.max(place.first), header.next_offset().min(place.end_offset));
        let crosses = header.is_filler() && base < next && (base, next) != (header.base_offset, header.next_offset());
        let filler = crosses.then(|| Batch::from_bytes(filler(base, next, header.leader_epoch)).ok());
        filler.flatten().unwrap_or_else(|| batch.clone())
    };
    // A fetch gives the batch that holds what was asked for, and so may begin before the place.
    batches.iter().skip_while(|batch| batch.header().next_offset() <= place.first).map(cut).collect()
}

/// Empty batches for the offsets `base..end`.
fn fillers(mut base: Offset, end: Offset, epoch: LeaderEpoch) -> Vec<Batch> {
    let mut all = Vec::new();
    while base < end
        && let Ok(batch) = Batch::from_bytes(filler(base, end, epoch))
    {
        base = batch.header().next_offset();
        all.push(batch);
    }
    all
}

fn write_batches(file: &dyn DiskFile, position: u64, batches: &[Batch]) -> io::Result<u64> {
    let slices: Vec<IoSlice<'_>> = batches.iter().map(|batch| IoSlice::new(batch.bytes())).collect();
    file.write_at(position, &slices)?;
    Ok(batches.iter().map(|batch| batch.bytes().len() as u64).sum())
}

fn copy(from: &dyn DiskFile, mut start: u64, end: u64, to: &dyn DiskFile, mut at: u64) -> io::Result<()> {
    while start < end {
        let bytes = from.read_at(start, (end - start).min(COPY_BYTES as u64) as usize)?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(at, &[IoSlice::new(&bytes)])?;
        start += bytes.len() as u64;
        at += bytes.len() as u64;
    }
    Ok(())
}

impl Log {
    /// Begins to heal a damaged range, or a part of one. One at a time: the job's end must be told to
    /// [`Log::finish_heal`], or its failure to [`Log::abandon_heal`].
    pub fn begin_heal(&mut self, range: DamagedRange) -> Result<HealJob, LogError> {
        self.check_open()?;
        let known = self.damage.iter().find(|known| known.contains(range.start)).copied();
        let range = match known {
            Some(known) if !range.is_empty() => DamagedRange { end: range.end.min(known.end), ..range },
            _ => return Err(LogError::NotDamaged(range)),
        };
        if self.segment_at(range.start).base() == self.active.base() {
            let rolled = self.roll();
            self.io(rolled)?;
        }
        let sealed = self.segment_at(range.start);
        let allowed = Arc::new(Mutex::new(true));
        self.abandon_heal();
        self.healing = Some(Healing { base: sealed.base(), allowed: allowed.clone() });
        Ok(HealJob {
            disk: self.disk.clone(),
            sealed,
            range,
            log_start: self.start,
            epochs: self.epochs.clone(),
            index_interval_bytes: self.config.index_interval_bytes,
            allowed,
        })
    }

    /// What stands for the offsets of a damaged range of which no replica has another copy: empty batches. To heal it with.
    /// Empty if the leader epochs there are not known.
    pub fn fillers_for(&self, range: DamagedRange) -> Vec<Batch> {
        let mut all = Vec::new();
        let mut base = range.start;
        while base < range.end {
            let Some(epoch) = self.epochs.epoch_at(base) else { return Vec::new() };
            let end = self.epochs.end_of(epoch, range.end).map_or(range.end, |(_, end)| end.min(range.end));
            all.extend(fillers(base, end, epoch));
            base = end;
        }
        all
    }

    /// Takes the result of a heal job. Returns whether it still mattered: a truncation may have overtaken it.
    pub fn finish_heal(&mut self, healed: Healed) -> bool {
        let Some(healing) = self.healing.take().filter(|healing| healing.base == healed.base) else { return false };
        if !*healing.allowed.lock().unwrap_or_else(PoisonError::into_inner) {
            return false;
        }
        let Some(sealed) = self.sealed.iter_mut().find(|sealed| sealed.base() == healed.base) else { return false };
        if let Some(changed) = healed.changed {
            *sealed = changed;
        }
        let (start, end) = (healed.range.start, healed.range.end);
        self.healed_from(start);
        self.damage = std::mem::take(&mut self.damage)
            .into_iter()
            .flat_map(|range| {
                let before = DamagedRange { start: range.start, end: range.end.min(start) };
                let after = DamagedRange { start: range.start.max(end), end: range.end };
                [before, after]
            })
            .filter(|range| !range.is_empty())
            .collect();
        if let Err(error) = self.learn_healed_producers() {
            tracing::warn!(partition = %self.partition, %error, "the producers in a healed range are not known");
        }
        true
    }

    /// The heal job that is out has failed or is given up: it writes nothing more.
    pub fn abandon_heal(&mut self) {
        self.cancel_heal(Offset::ZERO);
        self.healing = None;
    }

    /// A truncation touches the segment `from` and those after it: no heal job may write there any more.
    pub(super) fn cancel_heal(&mut self, from: Offset) {
        if let Some(healing) = self.healing.as_ref().filter(|healing| healing.base >= from) {
            *healing.allowed.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
    }
}
