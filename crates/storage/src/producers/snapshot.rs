//! Producer states on the disk, as of one offset: `<20-digit offset>.producers`.
//!
//! What a snapshot says follows from the batches before its offset: it saves reading them, and holds what retention has taken
//! of them (T30). One that is cut or damaged (it has a CRC) is passed over for an older one, or for reading from the log's start. So is one of a log
//! that was cut since, which a power loss can bring back: it names the leader epoch of the record before its offset, which with
//! the offset stands for all that came before. (Where that record is gone from the log, it is believed.)

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::{AbortedTransaction, BATCHES_KEPT, Producer, ProducerStates, Stored};
use crate::disk::{self, Disk, OpenMode};

const EXTENSION: &str = "producers";
const MAGIC: u32 = 0x4857_5053;
const VERSION: u16 = 2;
/// Without the last markers.
const VERSION_1: u16 = 1;
/// No more is read of a file that claims to be one.
const BYTES_MAX: u64 = 256 << 20;

/// The snapshots of one log.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// Ascending.
    offsets: Vec<Offset>,
}

fn path(dir: &Path, offset: Offset) -> PathBuf {
    dir.join(format!("{:020}.{EXTENSION}", offset.get()))
}

impl Snapshots {
    /// Those that are there.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let entries = disk.read_dir(dir)?;
        let offset = |name: &str| {
            let stem = name.strip_suffix(EXTENSION)?.strip_suffix('.')?;
            let digits = stem.len() == 20 && stem.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| stem.parse().ok().map(Offset::new)).flatten()
        };
        let mut offsets: Vec<Offset> = entries.iter().filter_map(|entry| offset(&entry.name)).collect();
        offsets.sort_unstable();
        Ok(Self { offsets })
    }

    /// The newest that can be read and is not after `at`, and its offset. Those after `at` are removed.
    pub(crate) fn newest(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        at: Offset,
        epoch_before: impl Fn(Offset) -> LeaderEpoch,
    ) -> io::Result<Option<(Offset, ProducerStates)>> {
        while let Some(last) = self.offsets.last().copied() {
            if last <= at
                && let Some(bytes) = disk::read_small_file(disk, &path(dir, last), BYTES_MAX)?
                && let Some((epoch, states)) = decode(&bytes)
                && [epoch, LeaderEpoch::NONE].contains(&epoch_before(last))
            {
                return Ok(Some((last, states)));
            }
            self.remove(disk, dir, self.offsets.len() - 1)?;
        }
        Ok(None)
    }

    /// Writes one down, and keeps only it and the one before. Returns the file, to be synced with its folder.
    pub(crate) fn write(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        (offset, epoch_before): (Offset, LeaderEpoch),
        states: &ProducerStates,
    ) -> io::Result<PathBuf> {
        let bytes = encode(epoch_before, states);
        let path = path(dir, offset);
        let file = disk.open(&path, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_at(0, &[IoSlice::new(&bytes)])?;
        if self.offsets.last() != Some(&offset) {
            self.offsets.push(offset);
        }
        while self.offsets.len() > 2 {
            self.remove(disk, dir, 0)?;
        }
        Ok(path)
    }

    pub(crate) fn remove_all(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        while !self.offsets.is_empty() {
            self.remove(disk, dir, self.offsets.len() - 1)?;
        }
        Ok(())
    }

    fn remove(&mut self, disk: &dyn Disk, dir: &Path, index: usize) -> io::Result<()> {
        let offset = self.offsets.remove(index);
        match disk.remove_file(&path(dir, offset)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn encode(epoch_before: LeaderEpoch, states: &ProducerStates) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + states.producers.len() * 64 + states.aborted.len() * 24);
    out.put_u32(MAGIC);
    out.put_u16(VERSION);
    out.put_i32(epoch_before.get());
    // Counts fit: each entry takes memory.
    out.put_u32(states.producers.len() as u32);
    for (id, producer) in &states.producers {
        out.put_i64(id.get());
        out.put_i16(producer.epoch.get());
        out.put_i32(producer.coordinator_epoch);
        out.put_i64(producer.last_timestamp.get());
        out.put_i64(producer.transaction_start.map_or(-1, Offset::get));
        out.put_i64(producer.last_marker.map_or(-1, Offset::get));
        out.put_u8(producer.batches.len() as u8);
        for batch in &producer.batches {
            out.put_i32(batch.first_sequence);
            out.put_i32(batch.last_sequence);
            out.put_i64(batch.base_offset.get());
            out.put_i64(batch.last_offset.get());
            out.put_i64(batch.append_time.unwrap_or(TimestampMs::NONE).get());
        }
    }
    out.put_u32(states.ended.len() as u32);
    for (first, marker) in &states.ended {
        out.put_i64(first.get());
        out.put_i64(marker.get());
    }
    out.put_u32(states.aborted.len() as u32);
    for one in &states.aborted {
        out.put_i64(one.producer_id.get());
        out.put_i64(one.first_offset.get());
        out.put_i64(one.last_offset.get());
    }
    let crc = crc32c::crc32c(&out);
    out.put_u32(crc);
    out
}

/// `None` for anything that is not whole. Counts are believed only as far as bytes follow (T47).
fn decode(bytes: &[u8]) -> Option<(LeaderEpoch, ProducerStates)> {
    let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32c::crc32c(body).to_be_bytes() != crc {
        return None;
    }
    let mut at = body;
    if at.try_get_u32().ok()? != MAGIC {
        return None;
    }
    let version = at.try_get_u16().ok()?;
    if ![VERSION_1, VERSION].contains(&version) {
        return None;
    }
    let epoch_before = LeaderEpoch::new(at.try_get_i32().ok()?);
    let mut states = ProducerStates::default();
    for _ in 0..at.try_get_u32().ok()? {
        let id = ProducerId::new(at.try_get_i64().ok()?);
        let producer = decode_producer(&mut at, version)?;
        states.producers.insert(id, producer);
    }
    let mut ended = BTreeMap::new();
    for _ in 0..at.try_get_u32().ok()? {
        ended.insert(Offset::new(at.try_get_i64().ok()?), Offset::new(at.try_get_i64().ok()?));
    }
    states.ended = ended;
    for _ in 0..at.try_get_u32().ok()? {
        states.aborted.push(AbortedTransaction {
            producer_id: ProducerId::new(at.try_get_i64().ok()?),
            first_offset: Offset::new(at.try_get_i64().ok()?),
            last_offset: Offset::new(at.try_get_i64().ok()?),
        });
    }
    at.is_empty().then_some((epoch_before, states))
}

fn decode_producer(at: &mut &[u8], version: u16) -> Option<Producer> {
    let epoch = ProducerEpoch::new(at.try_get_i16().ok()?);
    let coordinator_epoch = at.try_get_i32().ok()?;
    let last_timestamp = TimestampMs::new(at.try_get_i64().ok()?);
    let mut offset = || Some(Some(at.try_get_i64().ok()?).filter(|offset| *offset >= 0).map(Offset::new));
    let transaction_start = offset()?;
    let last_marker = if version == VERSION_1 { None } else { offset()? };
    let count = usize::from(at.try_get_u8().ok()?);
    if count > BATCHES_KEPT {
        return None;
    }
    let mut batches = VecDeque::with_capacity(BATCHES_KEPT + 1);
    for _ in 0..count {
        batches.push_back(Stored {
            first_sequence: at.try_get_i32().ok()?,
            last_sequence: at.try_get_i32().ok()?,
            base_offset: Offset::new(at.try_get_i64().ok()?),
            last_offset: Offset::new(at.try_get_i64().ok()?),
            append_time: Some(TimestampMs::new(at.try_get_i64().ok()?)).filter(|time| *time != TimestampMs::NONE),
        });
    }
    Some(Producer { epoch, coordinator_epoch, last_timestamp, batches, transaction_start, last_marker })
}

#[cfg(test)]
pub(super) mod for_tests {
    use super::*;

    pub(crate) fn encoded(states: &ProducerStates) -> Vec<u8> {
        encode(LeaderEpoch::FIRST, states)
    }

    pub(crate) fn decoded(bytes: &[u8]) -> Option<ProducerStates> {
        decode(bytes).map(|(_, states)| states)
    }
}
