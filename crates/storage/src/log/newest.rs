//! The look-up of the newest record by timestamp. Exact: timestamps may go back, and the newest of a segment may lie where the
//! reader can't see it.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use highwater_record::Batch;
use highwater_types::{Offset, TimestampMs};

use super::Log;
use super::read::{DECOMPRESSED_BYTES_MAX, Searched, TimestampFound, search};
use crate::disk::{self, Disk};
use crate::error::ReadError;
use crate::index::{self, OffsetIndex};
use crate::scan::{Found, Scanner};
use crate::segment::{Place, Sealed};
use crate::time_index::{self, TimeIndex};

/// What the time index says of the visible part of a segment: the newest record before `end` has this timestamp, unless
/// that one lies before the log's start.
#[derive(Clone, Copy)]
struct Indexed {
    newest: TimestampMs,
    /// Where a search for it may begin.
    search_from: Place,
    end: Offset,
    /// Where a walk from `end` on may begin.
    walk_from: Place,
}

impl Indexed {
    fn of(sealed: &Sealed, times: &TimeIndex, offsets: &OffsetIndex, first: Offset, below: Offset) -> Option<Self> {
        let base = sealed.base();
        let (newest, end) = if sealed.end <= below {
            (sealed.max_timestamp, sealed.end)
        } else {
            let entry = times.last_before(base, below)?;
            (entry.max_timestamp, base.plus(entry.relative.into()))
        };
        let search_from = offsets.floor(base, times.search_start(base, newest).max(first));
        Some(Self { newest, search_from, end, walk_from: offsets.floor(base, end) })
    }
}

/// A look-up of the newest record, to be run outside the log's lock.
pub struct NewestSearch {
    disk: Arc<dyn Disk>,
    /// Those that may hold it, the newest first; with what is known of the active one, whose index is in memory.
    segments: Vec<(Sealed, Option<Option<Indexed>>)>,
    start: Offset,
    below: Offset,
}

impl NewestSearch {
    /// The record with the largest timestamp at or after the log's start and below the limit, the first of several.
    pub async fn run(self) -> Result<Option<TimestampFound>, ReadError> {
        let mut best = None;
        for (sealed, indexed) in self.segments {
            // A segment says of itself that nothing in it is newer than this.
            let upper = TimestampFound { offset: sealed.base(), timestamp: sealed.max_timestamp };
            if newer(best, Some(upper)) == best && best.is_some() {
                continue;
            }
            let (disk, path) = (Arc::clone(&self.disk), sealed.segment.log_path());
            let (first, below) = (self.start, self.below);
            let found = disk::run_on(&*self.disk, move || newest_in(&*disk, &sealed, indexed, first, below)).await;
            match found.and_then(|found| found) {
                Ok(found) => best = newer(best, found),
                Err(source) if source.kind() == io::ErrorKind::NotFound => return Err(ReadError::Gone),
                Err(source) => return Err(ReadError::Io { path, source }),
            }
        }
        Ok(best)
    }
}

/// The newer one; of two that are alike, the first in the log.
fn newer(one: Option<TimestampFound>, other: Option<TimestampFound>) -> Option<TimestampFound> {
    let key = |found: &TimestampFound| (found.timestamp, std::cmp::Reverse(found.offset));
    one.into_iter().chain(other).max_by_key(key)
}

fn newest_in(
    disk: &dyn Disk,
    sealed: &Sealed,
    indexed: Option<Option<Indexed>>,
    first: Offset,
    below: Offset,
) -> io::Result<Option<TimestampFound>> {
    let indexed = match indexed {
        Some(indexed) => indexed,
        None => {
            let times = TimeIndex::load(disk, &sealed.segment.path(time_index::EXTENSION))?;
            let offsets = OffsetIndex::load(disk, &sealed.segment.path(index::EXTENSION), sealed.len)?;
            Indexed::of(sealed, &times, &offsets, first, below)
        }
    };
    let (mut found, mut walk_from) = (None, (sealed.base(), 0));
    if let Some(indexed) = indexed {
        let end = indexed.end.min(below);
        // What the index speaks of may be before the log's start, gone by compaction, or damaged: then every batch is looked at.
        if let Searched::Found(one) = search(disk, sealed, Some(indexed.search_from), indexed.newest, first, end)? {
            found = Some(one);
            walk_from = indexed.walk_from;
        }
        if found.is_some() && end >= sealed.end.min(below) {
            return Ok(found);
        }
    }
    Ok(newer(found, walk(disk, sealed, walk_from, first, below)?))
}

/// Looks at each batch from `from` on.
fn walk(
    disk: &dyn Disk,
    sealed: &Sealed,
    from: Place,
    first: Offset,
    below: Offset,
) -> io::Result<Option<TimestampFound>> {
    let file = sealed.segment.file(disk)?;
    let mut scanner = Scanner::new(&*file, from.1, from.0, sealed.len).until(Some(sealed.end)).headers_only();
    let mut best: Option<TimestampFound> = None;
    loop {
        match scanner.next()? {
            Found::End => return Ok(best),
            // Damage is told by reads; here it only may not hide what follows.
            Found::Bad(_) => match scanner.resync(sealed.end)? {
                Some((position, offset)) => scanner.jump(position, offset),
                None => return Ok(best),
            },
            Found::Batch { header, .. } if header.base_offset >= below => return Ok(best),
            Found::Batch { header, position } => {
                let can_be_newer = best.is_none_or(|best| header.max_timestamp > best.timestamp);
                if can_be_newer && header.next_offset() > first && header.record_count > 0 {
                    let bytes = scanner.batch_bytes(position, &header)?;
                    best = newer(best, newest_of(bytes, first, below));
                }
            }
        }
    }
}

fn newest_of(bytes: Bytes, first: Offset, below: Offset) -> Option<TimestampFound> {
    let records = Batch::from_bytes(bytes).and_then(|batch| batch.records(DECOMPRESSED_BYTES_MAX)).ok()?;
    let visible = records.map_while(Result::ok).filter(|record| record.offset >= first && record.offset < below);
    visible
        .map(|record| TimestampFound { offset: record.offset, timestamp: record.timestamp })
        .fold(None, |best, one| newer(best, Some(one)))
}

impl Log {
    /// Plans a look-up of the newest record below `below`.
    pub fn newest_record(&self, below: Offset) -> NewestSearch {
        let (active, start) = (self.segment_at(self.end_offset()), self.start);
        let all = self.sealed.iter().chain(std::iter::once(&active));
        let visible = all.filter(|sealed| sealed.end > start && sealed.base() < below && sealed.len > 0);
        let mut segments: Vec<_> = visible
            .map(|sealed| {
                let known = &self.active.index;
                let is_active = sealed.base() == self.active.base();
                let indexed = is_active.then(|| Indexed::of(sealed, &known.times, &known.offsets, start, below));
                (sealed.clone(), indexed)
            })
            .collect();
        segments.sort_by_key(|(sealed, _)| (std::cmp::Reverse(sealed.max_timestamp), sealed.base()));
        NewestSearch { disk: Arc::clone(&self.disk), segments, start, below }
    }
}
