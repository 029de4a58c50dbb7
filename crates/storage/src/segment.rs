//! One segment: a file of whole batches, named after the offset of the first, with its two indexes.
//!
//! **Invariants**: only the last segment of a log is written to. A segment holds the offsets from its base to the next
//! segment's base, and nothing that lies in its file beyond its length counts.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_record::{Batch, BatchHeader};
use highwater_types::{Offset, TimestampMs};

use crate::disk::{self, Disk, DiskFile, OpenMode};
use crate::index::{self, OffsetEntry, OffsetIndex};
use crate::log::remove_files;
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
    /// Its name belongs to another segment's file by now. Set under the lock of `open`.
    is_replaced: AtomicBool,
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
        Arc::new(Self {
            base,
            dir,
            open: Mutex::new(Weak::<NoFile>::new()),
            hints: Mutex::default(),
            is_replaced: AtomicBool::new(false),
        })
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
        if self.is_replaced.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = disk.open(&self.log_path(), OpenMode::Read)?;
        *open = Arc::downgrade(&file);
        Ok(file)
    }

    /// Another file is about to take its name: who has the old one open may go on with it, nobody opens it any more.
    pub(crate) fn replaced(&self) {
        let _open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_replaced.store(true, Ordering::Relaxed);
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
    /// The wall clock when it got its first record, if that was in this run of the process.
    pub(crate) since: Option<TimestampMs>,
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
    pub(crate) fn truncate(&mut self, disk: &dyn Disk, end: Offset, position: u64) -> io::Result<()> {
        self.truncate_file(position)?;
        self.index.truncate(self.base(), end, position);
        (self.end, self.len) = (end, position);
        // Nothing of what was cut off stays in the index files.
        self.saved = (0, 0);
        let [_, offsets, times] = self.segment.paths();
        let saved = self.index.offsets.save(disk, &offsets, 0).and_then(|()| self.index.times.save(disk, &times, 0));
        match saved {
            Ok(()) => self.saved = (self.index.offsets.len(), self.index.times.len()),
            Err(error) if disk::is_disk_full(&error) => remove_files(disk, &[offsets, times])?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Cuts off bytes that belong to no batch, and what was reserved.
    pub(crate) fn truncate_file(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        self.allocated = len;
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
            since: self.since,
        })
    }
}

/// Where a batch was found, or where what was looked for is missing: a base offset and a position.
pub(crate) type Place = (Offset, u64);

/// Finds the batch that holds `offset` among the `len` bytes of a segment that ends at `end`. Starts the walk at the
/// first of `candidates` that holds, and does not believe them: a wrong index entry costs a longer walk. Goes by headers;
/// only if they don't add up, by CRCs too, past what is damaged. `Err` is where the damage starts that has `offset`.
pub(crate) fn locate(
    file: &dyn DiskFile,
    (base, end): (Offset, Offset),
    len: u64,
    candidates: &[Place],
    offset: Offset,
) -> io::Result<Result<Place, Place>> {
    let scan = |(offset, position): Place| Scanner::new(file, position, offset, len).until(Some(end));
    let mut start = (base, 0);
    for &candidate in candidates {
        if candidate.0 <= offset
            && candidate.1 < len
            && matches!(scan(candidate).headers_only().peek()?, Found::Batch { .. })
        {
            start = candidate;
            break;
        }
    }
    let mut scanner = scan(start).headers_only();
    loop {
        let place = (scanner.expected(), scanner.position());
        match scanner.next()? {
            Found::Batch { header, .. } if header.next_offset() <= offset => {}
            // That a batch reaches to the offset is said by its header alone, unless it starts there.
            Found::Batch { header, .. } => {
                if place.0 == offset || Batch::from_bytes(scanner.batch_bytes(place.1, &header)?).is_ok() {
                    return Ok(Ok(place));
                }
                break;
            }
            Found::End | Found::Bad(_) => break,
        }
    }
    let mut scanner = scan(start);
    loop {
        let place = (scanner.expected(), scanner.position());
        match scanner.next()? {
            Found::Batch { header, .. } if header.next_offset() > offset => return Ok(Ok(place)),
            Found::Batch { .. } => {}
            Found::End => return Ok(Err(place)),
            Found::Bad(_) => match scanner.resync(offset)? {
                Some((position, offset)) => scanner.jump(position, offset),
                None => return Ok(Err(place)),
            },
        }
    }
}
