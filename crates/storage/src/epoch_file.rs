//! The leader epochs of a log on disk: a log of its own of small records, each with a CRC, so that taking a new epoch
//! under the partition's lock costs one small write and no fsync. It is synced together with the batches of the epoch,
//! before their offsets count as durable.
//!
//! What the log's start leaves behind is not written down: the checkpoint knows the start.
//!
//! **Invariant**: replaying the records gives the history. A torn last record is dropped: recovery finds the epochs of
//! what lies above the recovery point in the batches.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use highwater_record::EpochHistory;
use highwater_types::{LeaderEpoch, Offset};

use crate::disk::{self, Disk, DiskFile, OpenMode};

pub(crate) const FILE_NAME: &str = "leader-epochs";
const RECORD_LEN: usize = 24;
/// Longer files are written anew when they are opened.
const RECORDS_MAX: usize = 256;
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EpochRecord {
    Assign(LeaderEpoch, Offset),
    TruncateFrom(Offset),
    Clear,
}

impl EpochRecord {
    fn encode(self) -> [u8; RECORD_LEN] {
        let (kind, epoch, offset) = match self {
            Self::Assign(epoch, start) => (1_u8, epoch, start),
            Self::TruncateFrom(offset) => (2, LeaderEpoch::NONE, offset),
            Self::Clear => (3, LeaderEpoch::NONE, Offset::ZERO),
        };
        let mut record = [0; RECORD_LEN];
        record[0] = kind;
        record[4..8].copy_from_slice(&epoch.get().to_be_bytes());
        record[8..16].copy_from_slice(&offset.get().to_be_bytes());
        let crc = crc32c::crc32c(&record[..20]);
        record[20..].copy_from_slice(&crc.to_be_bytes());
        record
    }

    fn decode(record: &[u8; RECORD_LEN]) -> Option<Self> {
        let crc = crc32c::crc32c(&record[..20]);
        if record[20..] != crc.to_be_bytes() {
            return None;
        }
        let epoch = LeaderEpoch::new(i32::from_be_bytes(record[4..8].try_into().ok()?));
        let offset = Offset::new(i64::from_be_bytes(record[8..16].try_into().ok()?));
        match record[0] {
            1 => Some(Self::Assign(epoch, offset)),
            2 => Some(Self::TruncateFrom(offset)),
            3 => Some(Self::Clear),
            _ => None,
        }
    }

    fn apply(self, history: &mut EpochHistory) -> bool {
        match self {
            Self::Assign(epoch, start) => return history.assign(epoch, start).is_ok(),
            Self::TruncateFrom(offset) => drop(history.truncate_from(offset)),
            Self::Clear => history.clear(),
        }
        true
    }
}

/// What a replay of the file gave.
pub(crate) struct Replayed {
    pub(crate) history: EpochHistory,
    /// Whole records that were good.
    pub(crate) records: usize,
    /// A record that is not the last is damaged: the history is to be rebuilt from the batches.
    pub(crate) damaged: bool,
}

fn replay(bytes: &[u8]) -> Replayed {
    let (records, rest) = bytes.as_chunks::<RECORD_LEN>();
    let mut replayed = Replayed { history: EpochHistory::new(), records: 0, damaged: false };
    for (index, record) in records.iter().enumerate() {
        let good = EpochRecord::decode(record).is_some_and(|record| record.apply(&mut replayed.history));
        if !good {
            replayed.damaged = index + 1 < records.len() || !rest.is_empty();
            break;
        }
        replayed.records += 1;
    }
    replayed
}

/// The open file.
pub(crate) struct EpochFile {
    file: Arc<dyn DiskFile>,
    len: u64,
    /// Records for which there was no space: truncation goes on when a disk is full (T46), and nothing counts as
    /// durable before they are written.
    waiting: Vec<EpochRecord>,
}

impl EpochFile {
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, Replayed)> {
        let path = dir.join(FILE_NAME);
        let bytes = disk::read_small_file(disk, &path, FILE_BYTES_MAX)?.unwrap_or_default();
        let replayed = replay(&bytes);
        if replayed.records > RECORDS_MAX && !replayed.damaged {
            return Ok((Self::rewrite(disk, dir, &replayed.history)?, replayed));
        }
        let file = disk.open(&path, OpenMode::Create)?;
        let len = (replayed.records * RECORD_LEN) as u64;
        if len < bytes.len() as u64 {
            file.truncate(len)?;
        }
        Ok((Self { file, len, waiting: Vec::new() }, replayed))
    }

    /// Puts a file with just `history` in the place of what is there, durably; blocks on fsync.
    pub(crate) fn rewrite(disk: &dyn Disk, dir: &Path, history: &EpochHistory) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let records = history.entries().iter().map(|(epoch, start)| EpochRecord::Assign(*epoch, *start).encode());
        let bytes: Vec<u8> = records.flatten().collect();
        disk::replace_file(disk, &path, &bytes)?;
        Ok(Self { file: disk.open(&path, OpenMode::ReadWrite)?, len: bytes.len() as u64, waiting: Vec::new() })
    }

    /// For the dump.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Replayed> {
        let bytes = disk::read_small_file(disk, &dir.join(FILE_NAME), FILE_BYTES_MAX)?.unwrap_or_default();
        Ok(replay(&bytes))
    }

    /// Writes to the page cache, or later if there is no space.
    pub(crate) fn append(&mut self, record: EpochRecord) -> io::Result<()> {
        self.waiting.push(record);
        self.write_waiting().map(|_| ())
    }

    /// Writes what had no space before. Returns whether nothing waits any more.
    pub(crate) fn write_waiting(&mut self) -> io::Result<bool> {
        while let Some(record) = self.waiting.first() {
            match self.file.write_at(self.len, &[IoSlice::new(&record.encode())]) {
                Err(error) if disk::is_disk_full(&error) => return Ok(false),
                written => written?,
            }
            self.waiting.remove(0);
            self.len += RECORD_LEN as u64;
        }
        Ok(true)
    }

    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;

    fn offset(value: i64) -> Offset {
        Offset::new(value)
    }

    #[test]
    fn t3_a_replay_gives_the_history_also_after_truncations() {
        let disk = SimDisk::new(1).mount();
        let dir = Path::new("/");
        let (mut file, _) = EpochFile::open(&*disk, dir).unwrap();
        let mut history = EpochHistory::new();
        let records = [
            EpochRecord::Assign(LeaderEpoch::new(0), offset(0)),
            EpochRecord::Assign(LeaderEpoch::new(3), offset(50)),
            EpochRecord::Assign(LeaderEpoch::new(5), offset(60)),
            EpochRecord::TruncateFrom(offset(55)),
            EpochRecord::Assign(LeaderEpoch::new(6), offset(100)),
        ];
        for record in records {
            file.append(record).unwrap();
            assert!(record.apply(&mut history));
            assert_eq!(EpochFile::open(&*disk, dir).unwrap().1.history, history);
        }
        assert_eq!(history.entries().len(), 3);
        let rewritten = EpochFile::rewrite(&*disk, dir, &history).unwrap();
        assert_eq!(rewritten.len, 3 * RECORD_LEN as u64);
        assert_eq!(EpochFile::load(&*disk, dir).unwrap().history, history);
    }

    #[test]
    fn a_torn_last_record_is_dropped_and_a_damaged_earlier_one_is_told() {
        let hardware = SimDisk::new(1);
        let disk = hardware.mount();
        let dir = Path::new("/");
        let (mut file, _) = EpochFile::open(&*disk, dir).unwrap();
        for epoch in 0..3 {
            file.append(EpochRecord::Assign(LeaderEpoch::new(epoch), offset(epoch.into()))).unwrap();
        }
        file.file.truncate(file.len - 1).unwrap();
        let replayed = EpochFile::load(&*disk, dir).unwrap();
        assert_eq!((replayed.records, replayed.damaged), (2, false));
        hardware.flip_bit(&dir.join(FILE_NAME), 10, 0).unwrap();
        assert!(EpochFile::load(&*disk, dir).unwrap().damaged);
    }
}
