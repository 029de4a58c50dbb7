//! The sparse time index of a segment: how new the records before a batch are at most, one entry beside each of the
//! offset index, and at the end of a sealed segment one for the whole. Rebuildable.

use std::io::{self, IoSlice};
use std::path::Path;

use highwater_types::{Offset, TimestampMs};

use crate::disk::{Disk, OpenMode};

pub(crate) const EXTENSION: &str = "timeindex";
const ENTRY_LEN: usize = 12;

/// Every record of the segment before its base offset + `relative` has `max_timestamp` or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeEntry {
    pub max_timestamp: TimestampMs,
    pub relative: u32,
}

/// The entries of one segment, in order. Offsets grow strictly; timestamps never shrink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TimeIndex {
    entries: Vec<TimeEntry>,
}

impl TimeIndex {
    /// The longest prefix of the file's entries that can be right.
    pub(crate) fn load(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let bytes = match disk.open(path, OpenMode::Read) {
            Ok(file) => file.read_at(0, file.len()? as usize)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut index = Self::default();
        for bytes in bytes.as_chunks::<ENTRY_LEN>().0 {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
            let max_timestamp = TimestampMs::new(i64::from_be_bytes([a, b, c, d, e, f, g, h]));
            let entry = TimeEntry { max_timestamp, relative: u32::from_be_bytes([i, j, k, l]) };
            let grows = index
                .entries
                .last()
                .is_none_or(|last| last.relative < entry.relative && last.max_timestamp <= entry.max_timestamp);
            if entry.relative == 0 || !grows {
                break;
            }
            index.entries.push(entry);
        }
        Ok(index)
    }

    pub(crate) fn push(&mut self, entry: TimeEntry) {
        if self.entries.last().is_none_or(|last| last.relative < entry.relative) {
            self.entries.push(entry);
        }
    }

    pub(crate) fn entries(&self) -> &[TimeEntry] {
        &self.entries
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn last(&self) -> Option<TimeEntry> {
        self.entries.last().copied()
    }

    /// The newest entry that speaks of nothing at `offset` or after.
    pub(crate) fn last_before(&self, base: Offset, offset: Offset) -> Option<TimeEntry> {
        let after = self.entries.partition_point(|entry| base.plus(entry.relative.into()) <= offset);
        after.checked_sub(1).map(|index| self.entries[index])
    }

    /// An offset before which every record is older than `timestamp`: where a search for it may begin.
    pub(crate) fn search_start(&self, base: Offset, timestamp: TimestampMs) -> Offset {
        let after = self.entries.partition_point(|entry| entry.max_timestamp < timestamp);
        after.checked_sub(1).map_or(base, |index| base.plus(self.entries[index].relative.into()))
    }

    /// Forgets what speaks of records at the segment's base + `relative` or after. What is left is true also of a
    /// segment that was cut there.
    pub(crate) fn truncate(&mut self, relative: u64) {
        let keep = self.entries.partition_point(|entry| u64::from(entry.relative) <= relative);
        self.entries.truncate(keep);
    }

    /// Writes the entries from number `from` on to their place in the file.
    pub(crate) fn save(&self, disk: &dyn Disk, path: &Path, from: usize) -> io::Result<()> {
        let file = disk.open(path, OpenMode::Create)?;
        let mut bytes = Vec::with_capacity((self.entries.len() - from) * ENTRY_LEN);
        for entry in &self.entries[from..] {
            bytes.extend_from_slice(&entry.max_timestamp.get().to_be_bytes());
            bytes.extend_from_slice(&entry.relative.to_be_bytes());
        }
        file.truncate((from * ENTRY_LEN) as u64)?;
        file.write_at((from * ENTRY_LEN) as u64, &[IoSlice::new(&bytes)])
    }
}
