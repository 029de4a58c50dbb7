//! The sparse offset index of a segment: which batch starts at which position, one entry for about so many bytes of
//! log. Rebuildable: whoever uses an entry checks that the batch is there, so a damaged index costs time, not truth.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use highwater_types::Offset;

use crate::disk::{Disk, OpenMode};

pub(crate) const EXTENSION: &str = "index";
const ENTRY_LEN: usize = 8;

/// The batch whose base offset is the segment's base + `relative` starts at `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetEntry {
    pub relative: u32,
    pub position: u32,
}

/// The entries of one segment, in order. Both parts grow strictly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OffsetIndex {
    entries: Vec<OffsetEntry>,
}

impl OffsetIndex {
    /// The longest prefix of the file's entries that can be right for a segment of `segment_len` bytes.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, segment_len: u64) -> io::Result<Self> {
        let bytes = match disk.open(path, OpenMode::Read) {
            Ok(file) => file.read_at(0, file.len()? as usize)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut index = Self::default();
        for entry in bytes.as_chunks::<ENTRY_LEN>().0 {
            let [a, b, c, d, e, f, g, h] = *entry;
            let entry =
                OffsetEntry { relative: u32::from_be_bytes([a, b, c, d]), position: u32::from_be_bytes([e, f, g, h]) };
            let last = index.entries.last().copied().unwrap_or(OffsetEntry { relative: 0, position: 0 });
            if entry.relative <= last.relative
                || entry.position <= last.position
                || u64::from(entry.position) >= segment_len
            {
                break;
            }
            index.entries.push(entry);
        }
        Ok(index)
    }

    pub(crate) fn push(&mut self, entry: OffsetEntry) {
        self.entries.push(entry);
    }

    pub(crate) fn entries(&self) -> &[OffsetEntry] {
        &self.entries
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Offset and position of the last indexed batch that starts at or before `offset`; the segment's start at least.
    pub(crate) fn floor(&self, base: Offset, offset: Offset) -> (Offset, u64) {
        let relative = offset.distance_from(base);
        let after = self.entries.partition_point(|entry| u64::from(entry.relative) <= relative);
        match after.checked_sub(1) {
            Some(index) => (base.plus(self.entries[index].relative.into()), self.entries[index].position.into()),
            None => (base, 0),
        }
    }

    /// Forgets batches that start at `position` or after.
    pub(crate) fn truncate(&mut self, position: u64) {
        let keep = self.entries.partition_point(|entry| u64::from(entry.position) < position);
        self.entries.truncate(keep);
    }

    /// Forgets batches that start after the segment's base + `relative`.
    pub(crate) fn truncate_after(&mut self, relative: u32) {
        let keep = self.entries.partition_point(|entry| entry.relative <= relative);
        self.entries.truncate(keep);
    }

    /// Writes the entries from number `from` on to their place in the file.
    pub(crate) fn save(&self, disk: &dyn Disk, path: &Path, from: usize) -> io::Result<()> {
        let file = disk.open(path, OpenMode::Create)?;
        let entries = self.entries[from..].iter();
        let bytes: Vec<u8> =
            entries.flat_map(|entry| [entry.relative.to_be_bytes(), entry.position.to_be_bytes()]).flatten().collect();
        file.truncate((from * ENTRY_LEN) as u64)?;
        file.write_at((from * ENTRY_LEN) as u64, &[IoSlice::new(&bytes)])
    }
}

/// `<20-digit base>.<extension>` in `dir`.
pub(crate) fn path(dir: &Path, base: Offset, extension: &str) -> PathBuf {
    dir.join(format!("{:020}.{extension}", base.get()))
}
