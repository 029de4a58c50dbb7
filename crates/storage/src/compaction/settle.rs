//! The files of a swap, and what is left of one after a crash.
//!
//! A group of segments `b..e` becomes one, in this order:
//! 1. `<b>.compacted.tmp` (and its indexes) are written and synced, and their names;
//! 2. if there is more than one segment, the mark `<b>-<e>.compacted`, and its name;
//! 3. under the log's lock, `<b>.compacted.tmp` is renamed to `<b>.log`;
//! 4. the folder is synced, then the other old segments are removed, the folder synced, then the mark, and the folder synced.
//!
//! **Invariant**: with a mark and its `.compacted.tmp`, every old segment is there: the swap never was. With a mark and no
//! `.compacted.tmp`, `<b>.log` is the new segment, and segments that begin inside `b..e` are old ones: before the log makes a
//! new one there (after a truncation), it settles.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use highwater_types::{LeaderEpoch, Offset};

use crate::disk::{self, Disk};
use crate::index;
use crate::log::remove_files;
use crate::segment::{self, Sealed};
use crate::time_index;

const MARK: &str = "compacted";
pub(super) const TEMPORARY: &str = "compacted.tmp";
const CLEANED_FILE: &str = "compacted-to";
const CLEANED_MAGIC: u32 = 0x4857_4354;

pub(super) fn mark_path(dir: &Path, base: Offset, end: Offset) -> PathBuf {
    dir.join(format!("{:020}-{:020}.{MARK}", base.get(), end.get()))
}

fn parse_mark(name: &str) -> Option<(Offset, Offset)> {
    let (base, end) = name.strip_suffix(MARK)?.strip_suffix('.')?.split_once('-')?;
    let offset = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 20).map(Offset::new);
    Some((offset(base)?, offset(end)?))
}

/// What is left to do once a segment was swapped in: see the module.
pub struct Settlement {
    dir: PathBuf,
    mark: Option<PathBuf>,
    old: Vec<PathBuf>,
    /// Held while files are removed, so that nobody makes new ones of their names in between.
    done: Mutex<bool>,
}

impl Settlement {
    /// `old` are the segments replaced, of which the first one's files have new content by now.
    pub(super) fn new(dir: &Path, old: &[Sealed], mark: Option<PathBuf>) -> Self {
        let old = old.iter().skip(1).flat_map(|sealed| sealed.segment.paths()).collect();
        Self { dir: dir.to_owned(), mark, old, done: Mutex::new(false) }
    }

    /// Blocking.
    pub(crate) fn settle(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if !*done {
            disk.sync_dir_blocking(&self.dir)?;
            remove_files(disk, &self.old)?;
            if let Some(mark) = &self.mark {
                disk.sync_dir_blocking(&self.dir)?;
                remove_files(disk, std::slice::from_ref(mark))?;
                disk.sync_dir_blocking(&self.dir)?;
            }
            *done = true;
        }
        Ok(())
    }

    pub(crate) fn is_done(&self) -> bool {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what is left of passes that ended before their swap, and settles those that ended after it: when the log is opened, and
/// when the log has no swap to settle. Blocking.
pub(crate) fn roll_back_or_settle(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let names: BTreeSet<String> = disk.read_dir(dir)?.into_iter().map(|entry| entry.name).collect();
    let temporary = |base: Offset| format!("{:020}.{TEMPORARY}", base.get());
    let base_of = |name: &str| {
        let (stem, extension) = name.split_once('.')?;
        let is_of_segment = [segment::EXTENSION, index::EXTENSION, time_index::EXTENSION].contains(&extension);
        stem.parse().ok().filter(|_| is_of_segment && stem.len() == 20).map(Offset::new)
    };
    for (name, (base, end)) in names.iter().filter_map(|name| Some((name, parse_mark(name)?))) {
        let mark = dir.join(name);
        if !names.contains(&temporary(base)) {
            // The names that are seen may not be on the disk yet.
            disk.sync_dir_blocking(dir)?;
            let inside = |name: &&String| base_of(name).is_some_and(|found| base < found && found < end);
            let old: Vec<PathBuf> = names.iter().filter(inside).map(|name| dir.join(name)).collect();
            tracing::info!(mark = %mark.display(), files = old.len(), "completing a compaction that was under way");
            remove_files(disk, &old)?;
            disk.sync_dir_blocking(dir)?;
        }
        remove_files(disk, &[mark])?;
        disk.sync_dir_blocking(dir)?;
    }
    let leftovers: Vec<PathBuf> = names
        .iter()
        .filter(|name| name.contains(".compacted.") && name.ends_with(".tmp"))
        .map(|n| dir.join(n))
        .collect();
    remove_files(disk, &leftovers)
}

/// Notes up to where the log is clean; `epoch` is the leader epoch of the record before, so that what a truncation has replaced is
/// not taken for clean. Blocking.
pub(super) fn save_cleaned(disk: &dyn Disk, dir: &Path, to: Offset, epoch: LeaderEpoch) -> io::Result<()> {
    let mut out = Vec::with_capacity(20);
    out.extend_from_slice(&CLEANED_MAGIC.to_be_bytes());
    out.extend_from_slice(&to.get().to_be_bytes());
    out.extend_from_slice(&epoch.get().to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
    disk::replace_file(disk, &dir.join(CLEANED_FILE), &out)
}

/// What [`save_cleaned`] noted; `None` if there is nothing that can be read: then all is dirty.
pub(crate) fn load_cleaned(disk: &dyn Disk, dir: &Path) -> io::Result<Option<(Offset, LeaderEpoch)>> {
    let Some(bytes) = disk::read_small_file(disk, &dir.join(CLEANED_FILE), 4096)? else { return Ok(None) };
    let Some((body, crc)) = bytes.split_at_checked(16) else { return Ok(None) };
    if crc != crc32c::crc32c(body).to_be_bytes() || body[..4] != CLEANED_MAGIC.to_be_bytes() {
        return Ok(None);
    }
    let mut offset = [0; 8];
    offset.copy_from_slice(&body[4..12]);
    let mut epoch = [0; 4];
    epoch.copy_from_slice(&body[12..16]);
    let to = i64::from_be_bytes(offset);
    Ok((to >= 0).then(|| (Offset::new(to), LeaderEpoch::new(i32::from_be_bytes(epoch)))))
}
