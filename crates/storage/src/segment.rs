//! One segment: a file of whole batches, named after the offset of the first, with its two indexes.
//!
//! **Invariants**: only the last segment of a log is written to. A segment holds the offsets from its base to the next
//! segment's base, and nothing that lies in its file beyond its length counts.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_record::BatchHeader;
use highwater_types::{Offset, TimestampMs};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::index::{self, OffsetEntry, OffsetIndex};
use crate::scan::{Found, Scanner};
use crate::time_index::{self, TimeEntry, TimeIndex};

pub(crate) const EXTENSION: &str = "log";
/// Where sequential cold readers are likely to go on: so many of them per segment.
const HINTS_MAX: usize = 8;
const ALLOCATE_FIRST: u64 = 1 << 20;
const ALLOCATE_STEP_MAX: u64 = 16 << 20;

/// What readers of a segment share, also after the log has let go of it.
pub(crate) struct Segment {
    pub(crate) base: Offset,
    dir: Arc<Path>,
    open: Mutex<Weak<dyn DiskFile>>,
    hints: Mutex<VecDeque<(Offset, u64)>>,
}

/// Never there: gives the empty `Weak` its type.
struct NoFile;

impl DiskFile for NoFile {
    fn write_at(&self, _: u64, _: &[IoSlice<'_>]) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn read_at(&self, _: u64, _: usize) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn len(&self) -> io::Result<u64> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn sync_blocking(&self) -> io::Result<()> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn sync(self: Arc<Self>) -> futures::future::BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }
}

impl Segment {
    pub(crate) fn new(dir: Arc<Path>, base: Offset) -> Arc<Self> {
        Arc::new(Self { base, dir, open: Mutex::new(Weak::<NoFile>::new()), hints: Mutex::default() })
    }

    pub(crate) fn path(&self, extension: &str) -> PathBuf {
        index::path(&self.dir, self.base, extension)
    }

    pub(crate) fn dir(&self) -> &Arc<Path> {
        &self.dir
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path(EXTENSION)
    }

    /// The three files of a segment.
    pub(crate) fn paths(&self) -> [PathBuf; 3] {
        [EXTENSION, index::EXTENSION, time_index::EXTENSION].map(|extension| self.path(extension))
    }

    /// The file to read from; shared while anybody has it open.
    pub(crate) fn file(&self, disk: &dyn Disk) -> io::Result<Arc<dyn DiskFile>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.upgrade() {
            return Ok(file);
        }
        let file = disk.open(&self.log_path(), OpenMode::Read)?;
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    /// A reader stopped before the batch `offset` at `position`.
    pub(crate) fn hint(&self, offset: Offset, position: u64) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        hints.retain(|(hinted, _)| *hinted != offset);
        if hints.len() == HINTS_MAX {
            hints.pop_front();
        }
        hints.push_back((offset, position));
    }

    pub(crate) fn hinted(&self, offset: Offset) -> Option<u64> {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        hints.iter().find(|(hinted, _)| *hinted == offset).map(|(_, position)| *position)
    }
}

/// A segment that is not written to any more.
#[derive(Clone)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    /// The next segment's base.
    pub(crate) end: Offset,
    pub(crate) len: u64,
    pub(crate) max_timestamp: TimestampMs,
}

impl Sealed {
    pub(crate) fn base(&self) -> Offset {
        self.segment.base
    }
}

/// Collects the entries of both indexes while batches go by.
#[derive(Default)]
pub(crate) struct Indexer {
    pub(crate) offsets: OffsetIndex,
    pub(crate) times: TimeIndex,
    pub(crate) max_timestamp: Option<TimestampMs>,
    bytes_since_entry: u64,
}

impl Indexer {
    /// What is on disk of a segment's indexes, cut to what both have.
    pub(crate) fn load(disk: &dyn Disk, segment: &Segment, len: u64) -> io::Result<Self> {
        let mut offsets = OffsetIndex::load(disk, &segment.path(index::EXTENSION), len)?;
        let times = TimeIndex::load(disk, &segment.path(time_index::EXTENSION))?;
        offsets.truncate_after(times.last().map_or(0, |entry| entry.relative));
        let max_timestamp = times.last().map(|entry| entry.max_timestamp);
        Ok(Self { offsets, times, max_timestamp, bytes_since_entry: 0 })
    }

    /// A batch is at `position`, after those that went by before.
    pub(crate) fn add(&mut self, base: Offset, header: &BatchHeader, position: u64, interval: u32) {
        if self.bytes_since_entry >= u64::from(interval) && position > 0 {
            let relative = header.base_offset.distance_from(base) as u32;
            self.offsets.push(OffsetEntry { relative, position: position as u32 });
            if let Some(max_timestamp) = self.max_timestamp {
                self.times.push(TimeEntry { max_timestamp, relative });
            }
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += header.total_len() as u64;
        self.max_timestamp = self.max_timestamp.max(Some(header.max_timestamp));
    }

    pub(crate) fn truncate(&mut self, base: Offset, end: Offset, position: u64) {
        self.offsets.truncate(position);
        self.times.truncate(end.distance_from(base));
        self.bytes_since_entry = position - self.offsets.floor(base, end).1;
    }

    /// Notes how new the whole segment is, which ends at `end`: its last time entry.
    pub(crate) fn seal(&mut self, base: Offset, end: Offset) {
        let relative = end.distance_from(base) as u32;
        let known = self.times.last().is_some_and(|last| last.relative >= relative);
        if let (Some(max_timestamp), false) = (self.max_timestamp, known) {
            self.times.push(TimeEntry { max_timestamp, relative });
        }
    }
}

/// The segment that is written to.
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The log's end offset.
    pub(crate) end: Offset,
    pub(crate) len: u64,
    /// The wall clock when it got its first record, or soon after; for `segment.ms`.
    pub(crate) since: Option<TimestampMs>,
    pub(crate) index: Indexer,
    /// How many entries of the two indexes are in their files.
    saved: (usize, usize),
    allocated: u64,
    allocate_next: u64,
}

impl Active {
    pub(crate) fn create(disk: &dyn Disk, dir: &Arc<Path>, base: Offset) -> io::Result<Self> {
        let segment = Segment::new(dir.clone(), base);
        let file = disk.open(&segment.log_path(), OpenMode::Create)?;
        file.truncate(0)?;
        Ok(Self::resume(segment, file, base, 0, Indexer::default()))
    }

    /// Goes on with a file of `len` bytes of which `index` knows.
    pub(crate) fn resume(
        segment: Arc<Segment>,
        file: Arc<dyn DiskFile>,
        end: Offset,
        len: u64,
        index: Indexer,
    ) -> Self {
        *segment.open.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&file);
        Self {
            segment,
            file,
            end,
            len,
            since: None,
            index,
            saved: (0, 0),
            allocated: len,
            allocate_next: ALLOCATE_FIRST,
        }
    }

    pub(crate) fn base(&self) -> Offset {
        self.segment.base
    }

    /// Reserves space ahead, in growing steps so that a small partition reserves little. A failure is no error here:
    /// the write that follows says what is wrong.
    pub(crate) fn allocate_for(&mut self, bytes: u64, segment_bytes: u64) {
        if self.len + bytes <= self.allocated {
            return;
        }
        let room = segment_bytes.saturating_sub(self.len);
        let step = self.allocate_next.min(room);
        if step <= bytes {
            return;
        }
        if self.file.allocate(self.len, step).is_ok() {
            self.allocated = self.len + step;
            self.allocate_next = (self.allocate_next * 2).min(ALLOCATE_STEP_MAX);
        }
    }

    /// Writes the index entries that are not in their files yet.
    pub(crate) fn save_indexes(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.index.offsets.len() > self.saved.0 {
            self.index.offsets.save(disk, &self.segment.path(index::EXTENSION), self.saved.0)?;
            self.saved.0 = self.index.offsets.len();
        }
        if self.index.times.len() > self.saved.1 {
            self.index.times.save(disk, &self.segment.path(time_index::EXTENSION), self.saved.1)?;
            self.saved.1 = self.index.times.len();
        }
        Ok(())
    }

    /// Cuts it to the batch boundary `position`, where `end` is the next offset.
    pub(crate) fn truncate(&mut self, end: Offset, position: u64) -> io::Result<()> {
        self.file.truncate(position)?;
        self.index.truncate(self.base(), end, position);
        self.saved = (self.saved.0.min(self.index.offsets.len()), self.saved.1.min(self.index.times.len()));
        (self.end, self.len, self.allocated) = (end, position, position);
        self.allocate_next = ALLOCATE_FIRST;
        Ok(())
    }

    /// Ends it: gives back what was reserved and writes its indexes. Returns the sealed segment.
    pub(crate) fn seal(&mut self, disk: &dyn Disk) -> io::Result<Sealed> {
        if self.allocated > self.len {
            self.file.truncate(self.len)?;
        }
        self.index.seal(self.base(), self.end);
        self.save_indexes(disk)?;
        Ok(Sealed {
            segment: self.segment.clone(),
            end: self.end,
            len: self.len,
            max_timestamp: self.index.max_timestamp.unwrap_or(TimestampMs::NONE),
        })
    }
}

/// Finds the batch that holds `offset` among the `len` bytes of a segment, starting the walk at the best of what the
/// indexes say, and not believing them: an index entry that does not hold costs a longer walk. Returns its base offset
/// and position; a fault on the way is skipped if good batches follow at or before `offset`.
pub(crate) fn locate(
    file: &dyn DiskFile,
    base: Offset,
    len: u64,
    candidates: &[(Offset, u64)],
    offset: Offset,
) -> io::Result<Result<(Offset, u64), (Offset, u64)>> {
    let mut start = (base, 0);
    for &(candidate, position) in candidates {
        let mut scanner = Scanner::new(file, position, candidate, len).headers_only();
        if candidate <= offset && position < len && matches!(scanner.peek()?, Found::Batch { .. }) {
            start = (candidate, position);
            break;
        }
    }
    let mut scanner = Scanner::new(file, start.1, start.0, len).headers_only();
    loop {
        let (expected, position) = (scanner.expected(), scanner.position());
        match scanner.next()? {
            Found::Batch { header, .. } if header.next_offset() > offset => return Ok(Ok((expected, position))),
            Found::Batch { .. } => {}
            Found::End => return Ok(Err((expected, position))),
            Found::Bad(_) => match scanner.resync(offset)? {
                Some((at, found)) => scanner.jump(at, found),
                None => return Ok(Err((expected, position))),
            },
        }
    }
}
