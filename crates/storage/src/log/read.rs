//! Reads by offset and look-ups by time: planned under the lock, and run outside it if they need files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_record::{Batch, BatchHeader, EpochHistory, HEADER_LEN};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{Offset, TimestampMs};

use super::Log;
use crate::disk::{self, Disk, DiskFile};
use crate::error::{DamagedRange, ReadError};
use crate::index::{self, OffsetIndex};
use crate::scan::{Found, Scanner};
use crate::segment::{Place, Sealed, Segment, locate};
use crate::time_index::{self, TimeIndex};

/// Most bytes to which one batch is decompressed in a look-up by time.
pub(super) const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// How a read is served.
pub enum ReadPlan {
    /// Nothing to read yet, or the next batch goes past the limits.
    Empty,
    /// Whole batches, from memory, in order.
    Cached(Vec<Bytes>),
    /// Run it outside the log's lock.
    File(FileRead),
}

/// A read of a segment file, of at most `max_bytes` (but of one batch, if at least one was asked for). It never goes
/// past the end of its segment: read on from where it stopped.
pub struct FileRead {
    disk: Arc<dyn Disk>,
    segment: Arc<Segment>,
    len: u64,
    end: Offset,
    /// Base offset and position of a batch at or before `from`, if the log knows one.
    start: Option<(Offset, u64)>,
    from: Offset,
    below: Offset,
    max_bytes: usize,
    at_least_one: bool,
    epochs: Arc<EpochHistory>,
}

impl FileRead {
    /// Reads, and checks every batch that it returns: its CRC, and what the CRC does not cover (that offsets continue,
    /// and that the leader epoch is the one known for its offset). Damage after good batches is told by the next read.
    pub async fn run(self) -> Result<Bytes, ReadError> {
        let (disk, path) = (self.disk.clone(), self.segment.log_path());
        let read = disk::run_on(&*disk, move || self.read()).await;
        read.unwrap_or_else(|source| Err(ReadError::Io { path, source }))
    }

    fn read(&self) -> Result<Bytes, ReadError> {
        let io = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Io { path: self.segment.log_path(), source },
        };
        let file = self.segment.file(&*self.disk).map_err(io)?;
        let (offset, position) = self.find(&*file).map_err(io)??;
        let left = self.len - position;
        let mut bytes =
            Bytes::from(file.read_at(position, left.min(self.max_bytes.max(HEADER_LEN) as u64) as usize).map_err(io)?);
        if let (true, Ok(header)) = (self.at_least_one, BatchHeader::parse(&bytes))
            && bytes.len() < header.total_len()
            && header.total_len() as u64 <= left
        {
            bytes = Bytes::from(file.read_at(position, header.total_len()).map_err(io)?);
        }
        let (mut expected, mut taken, mut first) = (offset, 0, true);
        while taken < bytes.len() {
            match self.check(&bytes.slice(taken..), expected, left - taken as u64) {
                Checked::Batch(header) => {
                    let too_much = taken + header.total_len() > self.max_bytes && !(first && self.at_least_one);
                    if header.next_offset() > self.below || too_much {
                        break;
                    }
                    taken += header.total_len();
                    (expected, first) = (header.next_offset(), false);
                }
                Checked::Cut => break,
                Checked::Bad if first => {
                    return Err(self.damage(&*file, expected, position).map_err(io)?);
                }
                Checked::Bad => break,
            }
        }
        if taken > 0 && position + (taken as u64) < self.len {
            self.segment.hint(expected, position + taken as u64);
        }
        Ok(bytes.slice(..taken))
    }

    fn find(&self, file: &dyn DiskFile) -> io::Result<Result<(Offset, u64), ReadError>> {
        let mut candidates = Vec::with_capacity(2);
        if let Some(position) = self.segment.hinted(self.from) {
            candidates.push((self.from, position));
        }
        match self.start {
            Some(start) => candidates.push(start),
            None if candidates.is_empty() => {
                let index = OffsetIndex::load(&*self.disk, &self.segment.path(index::EXTENSION), self.len)?;
                candidates.push(index.floor(self.segment.base, self.from));
            }
            None => {}
        }
        match locate(file, (self.segment.base, self.end), self.len, &candidates, self.from)? {
            Ok(found) => Ok(Ok(found)),
            Err((expected, position)) => Ok(Err(self.damage(file, expected, position)?)),
        }
    }

    fn check(&self, bytes: &Bytes, expected: Offset, left: u64) -> Checked {
        if bytes.len() < HEADER_LEN && left >= HEADER_LEN as u64 {
            return Checked::Cut;
        }
        let Ok(header) = BatchHeader::parse(bytes) else { return Checked::Bad };
        let known_epoch = self.epochs.epoch_at(expected).is_none_or(|epoch| epoch == header.leader_epoch);
        if header.base_offset != expected || !known_epoch || header.total_len() as u64 > left {
            return Checked::Bad;
        }
        if header.total_len() > bytes.len() {
            return Checked::Cut;
        }
        let good =
            mutation::is_on(Mutation::CrcNotChecked) || Batch::from_bytes(bytes.slice(..header.total_len())).is_ok();
        if good { Checked::Batch(header) } else { Checked::Bad }
    }

    /// How far the damage goes that starts at `expected`.
    fn damage(&self, file: &dyn DiskFile, expected: Offset, position: u64) -> io::Result<ReadError> {
        let mut scanner = Scanner::new(file, position, expected, self.len).until(Some(self.end));
        let next = scanner.resync(self.end)?.map_or(self.end, |(_, offset)| offset);
        // A batch whose header lies about its epoch only is followed by one that starts after it; a damaged range is
        // never empty.
        let range = DamagedRange { start: expected, end: next.max(expected.next()) };
        tracing::warn!(file = %self.segment.log_path().display(), position, %range, "damaged batch");
        Ok(ReadError::Damaged(range))
    }
}

enum Checked {
    Batch(BatchHeader),
    /// The bytes at hand end before it does.
    Cut,
    Bad,
}

/// The first record that is as new as was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampFound {
    pub offset: Offset,
    pub timestamp: TimestampMs,
}

/// A look-up by time, to be run outside the log's lock.
pub struct TimestampSearch {
    disk: Arc<dyn Disk>,
    /// Segments that may hold it, in order, with what the log knows of where to start.
    segments: Vec<(Sealed, Option<(Offset, u64)>)>,
    timestamp: TimestampMs,
    start: Offset,
    below: Offset,
}

impl TimestampSearch {
    /// The first record at or after the log's start, below the limit, whose timestamp is the one asked for or later.
    pub async fn run(self) -> Result<Option<TimestampFound>, ReadError> {
        let disk = self.disk.clone();
        for (sealed, start) in self.segments {
            let path = sealed.segment.log_path();
            let (timestamp, first, below, reader) = (self.timestamp, self.start, self.below, disk.clone());
            let search = disk::run_on(&*disk, move || search(&*reader, &sealed, start, timestamp, first, below)).await;
            match search.and_then(|found| found) {
                Ok(Searched::Found(found)) => return Ok(Some(found)),
                Ok(Searched::PastLimit) => return Ok(None),
                Ok(Searched::NotHere) => {}
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Err(ReadError::Gone),
                Err(source) => return Err(ReadError::Io { path, source }),
            }
        }
        Ok(None)
    }
}

pub(super) enum Searched {
    Found(TimestampFound),
    NotHere,
    PastLimit,
}

/// The first record of a segment, from `first` on and below the limit, that is as new as `timestamp`.
pub(super) fn search(
    disk: &dyn Disk,
    sealed: &Sealed,
    start: Option<Place>,
    timestamp: TimestampMs,
    first: Offset,
    below: Offset,
) -> io::Result<Searched> {
    let segment = &sealed.segment;
    let file = segment.file(disk)?;
    let candidate = match start {
        Some(start) => start,
        None => {
            let times = TimeIndex::load(disk, &segment.path(time_index::EXTENSION))?;
            let offsets = OffsetIndex::load(disk, &segment.path(index::EXTENSION), sealed.len)?;
            offsets.floor(segment.base, times.search_start(segment.base, timestamp).max(first))
        }
    };
    let start =
        locate(&*file, (segment.base, sealed.end), sealed.len, &[candidate], candidate.0)?.unwrap_or_else(|stop| stop);
    let mut scanner = Scanner::new(&*file, start.1, start.0, sealed.len).until(Some(sealed.end)).headers_only();
    loop {
        let (header, position) = match scanner.next()? {
            Found::Batch { header, position } => (header, position),
            Found::End => return Ok(Searched::NotHere),
            // Damage is told by reads; here it only may not hide what follows.
            Found::Bad(_) => match scanner.resync(sealed.end)? {
                Some((position, offset)) => {
                    scanner.jump(position, offset);
                    continue;
                }
                None => return Ok(Searched::NotHere),
            },
        };
        if header.base_offset >= below {
            return Ok(Searched::PastLimit);
        }
        if header.max_timestamp < timestamp || header.next_offset() <= first {
            continue;
        }
        let bytes = scanner.batch_bytes(position, &header)?;
        if let Some(found) = in_batch(bytes, &header, timestamp, first) {
            return Ok(if found.offset < below { Searched::Found(found) } else { Searched::PastLimit });
        }
    }
}

fn in_batch(bytes: Bytes, header: &BatchHeader, timestamp: TimestampMs, first: Offset) -> Option<TimestampFound> {
    use highwater_types::TimestampType;
    // Compaction leaves gaps between records, and batches without any.
    let is_dense = header.record_count == header.last_offset_delta.saturating_add(1);
    if header.record_count == 0 {
        return None;
    }
    if is_dense && header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        let offset = header.base_offset.max(first);
        return Some(TimestampFound { offset, timestamp: header.max_timestamp });
    }
    let records = Batch::from_bytes(bytes).and_then(|batch| batch.records(DECOMPRESSED_BYTES_MAX)).ok()?;
    records
        .map_while(Result::ok)
        .find(|record| record.offset >= first && record.timestamp >= timestamp)
        .map(|record| TimestampFound { offset: record.offset, timestamp: record.timestamp })
}

impl Log {
    /// Plans a read of whole batches from the one with `from` on: up to `max_bytes` (or one batch, if that is larger
    /// and `at_least_one`), and none that reaches past `below`. The first batch may start before `from`.
    pub fn read(
        &self,
        from: Offset,
        below: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReadPlan, ReadError> {
        let (start, end) = (self.start, self.end_offset());
        if from < start || from > end {
            return Err(ReadError::OffsetOutOfRange { asked: from, start, end });
        }
        if from >= below || from == end {
            return Ok(ReadPlan::Empty);
        }
        if let Some(pieces) = self.cache.read(from, below, max_bytes, at_least_one) {
            return Ok(if pieces.is_empty() { ReadPlan::Empty } else { ReadPlan::Cached(pieces) });
        }
        if let Some(range) = self.damage.iter().find(|range| range.contains(from)) {
            return Err(ReadError::Damaged(*range));
        }
        let sealed = self.segment_at(from);
        Ok(ReadPlan::File(FileRead {
            disk: self.disk.clone(),
            start: self.active_floor(&sealed, from),
            len: sealed.len,
            end: sealed.end,
            segment: sealed.segment,
            from,
            below,
            max_bytes,
            at_least_one,
            epochs: self.epochs.clone(),
        }))
    }

    /// The active segment's index is in memory.
    fn active_floor(&self, sealed: &Sealed, offset: Offset) -> Option<(Offset, u64)> {
        let base = self.active.base();
        (sealed.base() == base).then(|| self.active.index.offsets.floor(base, offset))
    }

    /// Plans a look-up of the first record below `below` whose timestamp is `timestamp` or later.
    pub fn offset_for_timestamp(&self, timestamp: TimestampMs, below: Offset) -> TimestampSearch {
        let active = self.segment_at(self.end_offset());
        let all = self.sealed.iter().chain(std::iter::once(&active));
        let may_hold = all.filter(|sealed| {
            sealed.max_timestamp >= timestamp && sealed.end > self.start && sealed.base() < below && sealed.len > 0
        });
        let segments = may_hold.map(|sealed| {
            let base = sealed.base();
            let is_active = base == self.active.base();
            let from = || self.active.index.times.search_start(base, timestamp).max(self.start);
            (sealed.clone(), is_active.then(|| self.active.index.offsets.floor(base, from())))
        });
        TimestampSearch { disk: self.disk.clone(), segments: segments.collect(), timestamp, start: self.start, below }
    }
}
