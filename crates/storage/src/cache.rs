//! Recent appends, kept in memory as they were written: followers and tailing consumers read them without touching
//! files.
//!
//! **Invariant**: the entries are contiguous, end at the log's end offset, and hold whole batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use highwater_record::BatchHeader;
use highwater_types::Offset;

/// Entries below this size are merged, so that a reader gets few pieces.
const SMALL_BYTES: usize = 16 << 10;
/// Size at which a run of small entries is merged.
const MERGED_BYTES: usize = 64 << 10;
/// What a log may keep even when the budget of the process is used up.
const FLOOR_BYTES: usize = 256 << 10;

/// Bounds what all caches of a process hold together. While it is used up, a log that holds more than its even share makes
/// room for its appends by itself; one that holds less grows at the expense of those, as they append next. So it is exceeded by
/// no more than idle logs hold, until [`crate::Log::age_cache`] empties them.
pub struct CacheBudget {
    limit: usize,
    used: AtomicUsize,
    /// Caches that hold anything.
    holders: AtomicUsize,
}

impl CacheBudget {
    pub const fn new(limit_bytes: usize) -> Self {
        Self { limit: limit_bytes, used: AtomicUsize::new(0), holders: AtomicUsize::new(0) }
    }
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
    /// Whether a log that holds so much has to make room.
    fn is_over(&self, held_bytes: usize) -> bool {
        let share = self.limit / self.holders.load(Ordering::Relaxed).max(1);
        self.used_bytes() > self.limit && held_bytes > share.max(FLOOR_BYTES)
    }
}

struct Entry {
    base: Offset,
    end: Offset,
    bytes: Bytes,
}

pub(crate) struct Cache {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The last entries that are small and not yet merged: how many, and their bytes.
    small: (usize, usize),
    /// Where the log ended at the last `age`; what is older goes at the next.
    aged_end: Offset,
    budget: Arc<CacheBudget>,
}

/// The part of a run of batches that a read gets: from the batch with `from` on, batches that end at or before `below`,
/// no more than `max_bytes` (but the first in any case, with `first_anyway`). Returns the byte range.
fn select(bytes: &[u8], from: Offset, below: Offset, max_bytes: usize, first_anyway: bool) -> (usize, usize) {
    let (mut position, mut start) = (0, None);
    while position < bytes.len() {
        // What was appended parses.
        let Ok(header) = BatchHeader::parse(&bytes[position..]) else { break };
        let end = position + header.total_len();
        if header.next_offset() > from {
            let begun = *start.get_or_insert(position);
            let first = begun == position;
            if header.next_offset() > below || (end - begun > max_bytes && !(first && first_anyway)) {
                break;
            }
        }
        position = end;
    }
    (start.unwrap_or(position), position)
}

impl Cache {
    pub(crate) fn new(budget: Arc<CacheBudget>) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, small: (0, 0), aged_end: Offset::ZERO, budget }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an append; `bytes` are whole batches from `base` up to `end`.
    pub(crate) fn push(&mut self, base: Offset, end: Offset, bytes: Bytes, limit: usize) {
        if self.entries.back().is_some_and(|last| last.end != base) {
            self.clear();
        }
        let len = bytes.len();
        if self.bytes == 0 && len > 0 {
            self.budget.holders.fetch_add(1, Ordering::Relaxed);
        }
        self.bytes += len;
        self.budget.used.fetch_add(len, Ordering::Relaxed);
        self.entries.push_back(Entry { base, end, bytes });
        if len >= SMALL_BYTES {
            self.small = (0, 0);
        } else {
            self.small = (self.small.0 + 1, self.small.1 + len);
            if self.small.1 >= MERGED_BYTES {
                self.merge_small();
            }
        }
        self.shrink_to(limit);
        while self.budget.is_over(self.bytes) {
            self.pop_oldest();
        }
    }

    fn merge_small(&mut self) {
        let first = self.entries.len() - self.small.0;
        let mut merged = BytesMut::with_capacity(self.small.1);
        self.entries.range(first..).for_each(|entry| merged.extend_from_slice(&entry.bytes));
        let (base, end) = (self.entries[first].base, self.entries[self.entries.len() - 1].end);
        self.entries.truncate(first);
        self.entries.push_back(Entry { base, end, bytes: merged.freeze() });
        self.small = (0, 0);
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.release(entry.bytes.len());
            if self.small.0 > self.entries.len() {
                self.small = (self.entries.len(), self.bytes);
            }
        }
    }

    fn release(&mut self, bytes: usize) {
        if bytes > 0 && self.bytes == bytes {
            self.budget.holders.fetch_sub(1, Ordering::Relaxed);
        }
        self.bytes -= bytes;
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn shrink_to(&mut self, limit: usize) {
        while self.bytes > limit && !self.entries.is_empty() {
            self.pop_oldest();
        }
    }

    /// Drops what was there at the previous call already: called now and then, it empties the cache of an idle log.
    pub(crate) fn age(&mut self, log_end: Offset) {
        while self.entries.front().is_some_and(|entry| entry.end <= self.aged_end) {
            self.pop_oldest();
        }
        self.aged_end = log_end;
    }

    pub(crate) fn clear(&mut self) {
        self.release(self.bytes);
        self.entries = VecDeque::new();
        self.small = (0, 0);
        self.aged_end = Offset::ZERO;
    }

    /// The log now ends at `end`, the start of a batch.
    pub(crate) fn truncate_to(&mut self, end: Offset) {
        self.small = (0, 0);
        self.aged_end = self.aged_end.min(end);
        while let Some(last) = self.entries.back_mut() {
            if last.end <= end {
                break;
            }
            if last.base < end {
                let (_, keep) = select(&last.bytes, last.base, end, usize::MAX, true);
                let cut = last.bytes.len() - keep;
                last.bytes.truncate(keep);
                last.end = end;
                self.release(cut);
                break;
            }
            let len = last.bytes.len();
            self.entries.pop_back();
            self.release(len);
        }
    }

    /// As [`crate::Log::read`]; `None` if the batch with `from` is not here.
    pub(crate) fn read(&self, from: Offset, below: Offset, max_bytes: usize, at_least_one: bool) -> Option<Vec<Bytes>> {
        if from < self.entries.front()?.base || from >= self.entries.back()?.end {
            return None;
        }
        let first = self.entries.partition_point(|entry| entry.end <= from);
        let (mut pieces, mut left) = (Vec::new(), max_bytes);
        for entry in self.entries.range(first..) {
            let whole = entry.base >= from && entry.end <= below && entry.bytes.len() <= left;
            let (start, end) = if whole {
                (0, entry.bytes.len())
            } else {
                select(&entry.bytes, from, below, left, at_least_one && pieces.is_empty())
            };
            if end > start {
                pieces.push(entry.bytes.slice(start..end));
                left = left.saturating_sub(end - start);
            }
            if end < entry.bytes.len() || left == 0 {
                break;
            }
        }
        Some(pieces)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.clear();
    }
}
