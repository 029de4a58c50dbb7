//! The folder of a log: whose it is, and the names of what is in it.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use highwater_types::{Offset, TopicPartition};

use crate::disk::{self, Disk, OpenMode};
use crate::error::OpenError;
use crate::log::remove_files;
use crate::{index, segment, time_index};

/// Holds the partition that the folder belongs to (T21).
pub(crate) const TOPIC_ID_FILE: &str = "topic-id";

/// Marks the folder as the partition's, or says whose it is.
pub(crate) fn check_partition(disk: &dyn Disk, dir: &Path, partition: TopicPartition) -> Result<(), OpenError> {
    let path = dir.join(TOPIC_ID_FILE);
    let io = |source| OpenError::Io { path: path.clone(), source };
    let expected = format!("{partition}\n");
    let found = disk::read_small_file(disk, &path, 4096).map_err(io)?.unwrap_or_default();
    if found == expected.as_bytes() {
        return Ok(());
    }
    // A crash right after creation can leave parts of it, with zeroes between.
    let is_part = |(found, expected): (&u8, u8)| *found == 0 || *found == expected;
    if found.len() <= expected.len() && found.iter().zip(expected.bytes()).all(is_part) {
        let file = disk.open(&path, OpenMode::Create).map_err(io)?;
        return file.write_at(0, &[IoSlice::new(expected.as_bytes())]).map_err(io);
    }
    let found = String::from_utf8_lossy(&found).trim().to_owned();
    Err(OpenError::WrongPartition { path: dir.to_owned(), expected: partition, found })
}

/// The base offsets of the segments, in order. Removes leftovers: temporary files, and indexes without a segment.
pub(crate) fn bases(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<Offset>> {
    let entries = disk.read_dir(dir)?;
    let base = |name: &str, extension: &str| {
        let stem = name.strip_suffix(extension)?.strip_suffix('.')?;
        let digits = stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| stem.parse().ok().map(Offset::new)).flatten()
    };
    let bases: Vec<Offset> = entries.iter().filter_map(|entry| base(&entry.name, segment::EXTENSION)).collect();
    for entry in &entries {
        let indexed = [index::EXTENSION, time_index::EXTENSION].iter().find_map(|kind| base(&entry.name, kind));
        if indexed.is_some_and(|base| !bases.contains(&base)) || entry.name.ends_with(".tmp") {
            remove_files(disk, &[dir.join(&entry.name)])?;
        }
    }
    Ok(bases)
}

/// For the dump: the bases of a folder, without removing anything.
pub(crate) fn segment_paths(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = disk.read_dir(dir)?;
    let logs = entries.iter().filter(|entry| entry.name.ends_with(".log"));
    Ok(logs.map(|entry| dir.join(&entry.name)).collect())
}
