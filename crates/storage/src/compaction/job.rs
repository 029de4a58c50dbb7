//! One pass over a log: its work with files, outside the log's lock.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use highwater_record::{Batch, BatchHeader, EpochHistory};
use highwater_types::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::filter::{Filter, Gap, Rules, Verdict};
use super::key_map::KeyMap;
use super::settle::{self, Settlement, TEMPORARY, mark_path};
use super::{Compacted, CompactionError, CompactionLimits};
use crate::disk::{self, Disk, DiskFile, OpenMode};
use crate::error::{DamagedRange, LogError};
use crate::index;
use crate::log::remove_files;
use crate::producers::{AbortedTransaction, ProducerStates, marker_of};
use crate::scan::{Found, Scanner};
use crate::segment::{Indexer, Sealed, Segment};

const WRITE_BYTES: usize = 1 << 20;

/// What the log says of itself when a pass begins.
pub(crate) struct Plan {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: Arc<Path>,
    /// The segments that may be cleaned, from the log's first on.
    pub(crate) segments: Vec<Sealed>,
    pub(crate) dirty_from: Offset,
    pub(crate) epochs: Arc<EpochHistory>,
    pub(crate) known_from: Vec<Offset>,
    /// Those that are known.
    pub(crate) producers: BTreeSet<ProducerId>,
    pub(crate) aborted: Vec<AbortedTransaction>,
    pub(crate) unsettled: Vec<Arc<Settlement>>,
    pub(crate) segment_bytes: u64,
    pub(crate) index_interval_bytes: u32,
    pub(crate) delete_retention_ms: u64,
    pub(crate) limits: CompactionLimits,
    /// Held while the pass or any work of it goes on.
    pub(crate) _running: Arc<()>,
}

/// A pass; [`CompactionJob::run`] it outside the log's lock, and give the result to [`crate::Log::finish_compaction`].
pub struct CompactionJob {
    pass: Box<Pass>,
}

struct Pass {
    plan: Plan,
    rules: Rules,
    keys: KeyMap,
    clean_to: Offset,
    groups: VecDeque<Vec<Sealed>>,
    in_transaction: BTreeSet<ProducerId>,
    done: Compacted,
}

/// A segment that is written anew, and what it is to replace: for [`crate::Log::swap_compacted`].
pub struct Rewritten {
    pub(crate) old: Vec<Sealed>,
    pub(crate) new: Sealed,
    pub(crate) renames: Vec<(PathBuf, PathBuf)>,
    mark: Option<PathBuf>,
}

impl Rewritten {
    pub(crate) fn settlement(&self) -> Settlement {
        Settlement::new(self.new.segment.dir(), &self.old, self.mark.clone())
    }

    fn forget(&self, disk: &dyn Disk) -> io::Result<()> {
        if let Some(mark) = &self.mark {
            remove_files(disk, std::slice::from_ref(mark))?;
            disk.sync_dir_blocking(self.new.segment.dir())?;
        }
        let temporary: Vec<PathBuf> = self.renames.iter().map(|(from, _)| from.clone()).collect();
        remove_files(disk, &temporary)
    }
}

impl CompactionJob {
    pub(crate) fn new(plan: Plan) -> Self {
        let CompactionLimits { now, all_in_sync, keys_max, .. } = plan.limits;
        let rules = Rules::new(now, plan.delete_retention_ms, all_in_sync, plan.known_from.clone(), &plan.aborted);
        let (keys, clean_to) = (KeyMap::new(keys_max), plan.dirty_from);
        let (groups, in_transaction) = (VecDeque::new(), BTreeSet::new());
        let done = Compacted { cleaned_to: clean_to, ..Compacted::default() };
        Self { pass: Box::new(Pass { plan, rules, keys, clean_to, groups, in_transaction, done }) }
    }

    /// Goes through the log. `swap` locks it and calls [`crate::Log::swap_compacted`].
    pub async fn run(
        self,
        mut swap: impl FnMut(Rewritten) -> Result<Result<Arc<Settlement>, Rewritten>, LogError>,
    ) -> Result<Compacted, CompactionError> {
        let disk = self.pass.plan.disk.clone();
        let mut pass = self.pass;
        pass = on_disk(&disk, move || {
            pass.begin()?;
            Ok(pass)
        })
        .await?;
        loop {
            let (back, rewritten) = on_disk(&disk, move || {
                let rewritten = pass.next()?;
                Ok((pass, rewritten))
            })
            .await?;
            pass = back;
            let Some(rewritten) = rewritten else { break };
            let swapped = swap(rewritten)?;
            let (back, goes_on) = on_disk(&disk, move || {
                let disk = &*pass.plan.disk;
                let goes_on = match swapped {
                    Ok(settlement) => {
                        settlement.settle(disk).map_err(CompactionError::Unsettled)?;
                        true
                    }
                    Err(refused) => {
                        refused.forget(disk).map_err(CompactionError::Unsettled)?;
                        false
                    }
                };
                Ok((pass, goes_on))
            })
            .await?;
            pass = back;
            if !goes_on {
                return Ok(pass.done);
            }
        }
        on_disk(&disk, move || pass.end()).await
    }
}

async fn on_disk<T: Send + 'static>(
    disk: &Arc<dyn Disk>,
    work: impl FnOnce() -> Result<T, CompactionError> + Send + 'static,
) -> Result<T, CompactionError> {
    disk::run_on(&**disk, work).await.unwrap_or_else(|error| Err(CompactionError::Io(error)))
}

impl Pass {
    /// Clears what earlier passes have left, and reads the keys of the dirty part.
    fn begin(&mut self) -> Result<(), CompactionError> {
        let plan = &self.plan;
        for settlement in &plan.unsettled {
            settlement.settle(&*plan.disk).map_err(CompactionError::Unsettled)?;
        }
        settle::roll_back_or_settle(&*plan.disk, &plan.dir).map_err(CompactionError::Unsettled)?;
        let mut clean_to = plan.dirty_from;
        // As of the end of the part: what was appended since, and counts above, may be cut off again.
        let (mut states, mut is_full) = (ProducerStates::default(), false);
        for sealed in &plan.segments {
            let file = self.open(sealed)?;
            let mut reader = Reader::new(&*file, sealed, &plan.epochs);
            while let Some(batch) = reader.next()? {
                let header = batch.header();
                if plan.producers.contains(&header.producer_id) {
                    states.apply(header, marker_of(&batch));
                }
                if is_full || header.next_offset() <= plan.dirty_from {
                    continue;
                }
                match self.rules.note_keys(&batch, &mut self.keys)? {
                    true => clean_to = header.next_offset(),
                    false => is_full = true,
                }
            }
        }
        self.rules.known_from.extend(states.known_from(Offset::MAX));
        self.rules.known_from.sort_unstable();
        self.clean_to = clean_to;
        self.groups = groups(plan, clean_to);
        Ok(())
    }

    fn open(&self, sealed: &Sealed) -> Result<Arc<dyn DiskFile>, CompactionError> {
        self.plan.disk.open(&sealed.segment.log_path(), OpenMode::Read).map_err(CompactionError::Io)
    }

    /// Writes the next group anew; `None` at the end. Groups that would not change are passed over.
    fn next(&mut self) -> Result<Option<Rewritten>, CompactionError> {
        while let Some(old) = self.groups.pop_front() {
            self.done.segments_before += old.len();
            self.done.segments_after += 1;
            self.done.bytes_before += old.iter().map(|sealed| sealed.len).sum::<u64>();
            match self.rewrite(old) {
                Ok(None) => {}
                Ok(rewritten) => return Ok(rewritten),
                Err(error) => {
                    // Above all when there is no space for it.
                    let cleared = settle::roll_back_or_settle(&*self.plan.disk, &self.plan.dir);
                    return Err(cleared.err().map_or(error, CompactionError::Unsettled));
                }
            }
        }
        Ok(None)
    }

    fn rewrite(&mut self, old: Vec<Sealed>) -> Result<Option<Rewritten>, CompactionError> {
        let (disk, dir) = (self.plan.disk.clone(), self.plan.dir.clone());
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return Ok(None) };
        let (base, end) = (first.base(), last.end);
        let mut seen = self.in_transaction.clone();
        let mut filter = Filter::new(&self.rules, &self.keys, self.clean_to, &mut seen);
        let mut writer =
            Writer::new(&*disk, &dir, base, self.plan.index_interval_bytes).map_err(CompactionError::Io)?;
        for sealed in &old {
            let file = self.open(sealed)?;
            let mut reader = Reader::new(&*file, sealed, &self.plan.epochs);
            while let Some(batch) = reader.next()? {
                let verdict = filter.judge(&batch)?;
                writer.take(&batch, verdict).map_err(CompactionError::Io)?;
            }
        }
        self.in_transaction = seen;
        let is_changed = writer.is_changed || old.len() > 1;
        if !is_changed {
            remove_files(&*disk, &writer.temporary).map_err(CompactionError::Io)?;
            self.done.bytes_after += first.len;
            return Ok(None);
        }
        let segment = Segment::new(dir.clone(), base);
        let since = first.since;
        let (len, max_timestamp, temporary) = writer.finish(&*disk, end).map_err(CompactionError::Io)?;
        disk.sync_dir_blocking(&dir).map_err(CompactionError::Io)?;
        let mark = (old.len() > 1).then(|| mark_path(&dir, base, end));
        if let Some(mark) = &mark {
            disk.open(mark, OpenMode::Create).map_err(CompactionError::Io)?;
            disk.sync_dir_blocking(&dir).map_err(CompactionError::Io)?;
        }
        self.done.bytes_after += len;
        let renames = temporary.into_iter().zip(segment.paths()).collect();
        Ok(Some(Rewritten { old, new: Sealed { segment, end, len, max_timestamp, since }, renames, mark }))
    }

    fn end(mut self: Box<Self>) -> Result<Compacted, CompactionError> {
        let before = self.clean_to;
        let epochs = self.plan.epochs.entries().iter().rev();
        let epoch = epochs.clone().find(|(_, start)| *start < before).map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch);
        settle::save_cleaned(&*self.plan.disk, &self.plan.dir, self.clean_to, epoch).map_err(CompactionError::Io)?;
        (self.done.cleaned_to, self.done.is_whole) = (self.clean_to, true);
        Ok(self.done)
    }
}

/// Neighbours that fit into one segment together, as far as anything of them is to be cleaned.
fn groups(plan: &Plan, clean_to: Offset) -> VecDeque<Vec<Sealed>> {
    let mut groups: VecDeque<Vec<Sealed>> = VecDeque::new();
    let mut bytes = 0;
    for sealed in plan.segments.iter().filter(|sealed| sealed.base() < clean_to) {
        match groups.back_mut() {
            Some(group)
                if bytes + sealed.len <= plan.segment_bytes
                    && sealed.end.distance_from(group[0].base()) <= u64::from(u32::MAX) =>
            {
                bytes += sealed.len;
                group.push(sealed.clone());
            }
            _ => {
                bytes = sealed.len;
                groups.push_back(vec![sealed.clone()]);
            }
        }
    }
    groups
}

/// The batches of a segment, whole and checked.
struct Reader<'a> {
    scanner: Scanner<'a>,
    end: Offset,
    epochs: &'a EpochHistory,
}

impl<'a> Reader<'a> {
    fn new(file: &'a dyn DiskFile, sealed: &Sealed, epochs: &'a EpochHistory) -> Self {
        let scanner = Scanner::new(file, 0, sealed.base(), sealed.len).until(Some(sealed.end));
        Self { scanner, end: sealed.end, epochs }
    }

    fn next(&mut self) -> Result<Option<Batch>, CompactionError> {
        let start = self.scanner.expected();
        let found = self.scanner.next().map_err(CompactionError::Io)?;
        // A CRC does not cover the epoch.
        let known = |header: &BatchHeader| self.epochs.epoch_at(start).is_none_or(|epoch| epoch == header.leader_epoch);
        match found {
            Found::End if start == self.end => Ok(None),
            Found::Batch { header, position } if known(&header) => {
                let bytes = self.scanner.batch_bytes(position, &header).map_err(CompactionError::Io)?;
                Ok(Some(Batch::from_bytes_unchecked_crc(bytes)?))
            }
            Found::Batch { header, .. } => {
                Err(CompactionError::Damaged(DamagedRange { start, end: header.next_offset() }))
            }
            Found::End => Err(CompactionError::Damaged(DamagedRange { start, end: self.end })),
            Found::Bad(_) => {
                let next = self.scanner.resync(self.end).map_err(CompactionError::Io)?;
                let end = next.map_or(self.end, |(_, offset)| offset).max(start.next());
                Err(CompactionError::Damaged(DamagedRange { start, end }))
            }
        }
    }
}

/// The new segment as it grows.
struct Writer {
    file: Arc<dyn DiskFile>,
    temporary: [PathBuf; 3],
    base: Offset,
    interval: u32,
    index: Indexer,
    /// Bytes, with those that wait.
    len: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    gap: Option<Gap>,
    is_changed: bool,
}

impl Writer {
    fn new(disk: &dyn Disk, dir: &Path, base: Offset, interval: u32) -> io::Result<Self> {
        let temporary = [TEMPORARY, "compacted.index.tmp", "compacted.timeindex.tmp"]
            .map(|extension| index::path(dir, base, extension));
        let file = disk.open(&temporary[0], OpenMode::Create)?;
        file.truncate(0)?;
        Ok(Self {
            file,
            temporary,
            base,
            interval,
            index: Indexer::default(),
            len: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            gap: None,
            is_changed: false,
        })
    }

    fn take(&mut self, batch: &Batch, verdict: Verdict) -> io::Result<()> {
        let header = batch.header();
        match verdict {
            Verdict::Drop => {
                let extended = self.gap.as_mut().is_some_and(|gap| gap.extend(header));
                self.is_changed |= extended || !header.is_filler();
                if !extended {
                    self.close_gap()?;
                    self.gap = Some(Gap::of(header));
                }
                Ok(())
            }
            Verdict::Keep => {
                self.close_gap()?;
                self.write(batch.bytes().clone())
            }
            Verdict::Replace(bytes) => {
                self.is_changed = true;
                self.close_gap()?;
                self.write(bytes)
            }
        }
    }

    fn close_gap(&mut self) -> io::Result<()> {
        match self.gap.take() {
            Some(gap) => self.write(gap.filler()),
            None => Ok(()),
        }
    }

    fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        let header = BatchHeader::parse(&bytes).map_err(io::Error::other)?;
        self.index.add(self.base, &header, self.len, self.interval);
        self.len += bytes.len() as u64;
        if self.len > u64::from(u32::MAX) {
            return Err(io::Error::other("the segment would be larger than 4 GiB"));
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let slices: Vec<IoSlice<'_>> = self.waiting.iter().map(|bytes| IoSlice::new(bytes)).collect();
        self.file.write_at(self.len - self.waiting_bytes as u64, &slices)?;
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }

    /// Writes what waits and the indexes, and syncs all of it (not the names).
    fn finish(mut self, disk: &dyn Disk, end: Offset) -> io::Result<(u64, TimestampMs, [PathBuf; 3])> {
        self.close_gap()?;
        self.flush()?;
        self.index.seal(self.base, end);
        let [_, offsets, times] = &self.temporary;
        self.index.offsets.save(disk, offsets, 0)?;
        self.index.times.save(disk, times, 0)?;
        self.file.sync_blocking()?;
        for path in [offsets, times] {
            disk.open(path, OpenMode::ReadWrite)?.sync_blocking()?;
        }
        Ok((self.len, self.index.max_timestamp.unwrap_or(TimestampMs::NONE), self.temporary))
    }
}
