//! What a log must know that its batches don't say: its start offset, how far it is known to be synced (the recovery
//! point), the high watermark, how it was closed, and whether recovery cut it where it may have been synced.
//!
//! One file of two slots, each with a CRC and a sequence number. It is written (not synced) after every sync of the
//! log, so that after kill -9 the recovery point is exact, and synced now and then, so that after power loss it is near.
//!
//! **Invariants**: the slot that was last synced is never written to before the other one is synced, so that a torn
//! write leaves what was promised. The log was synced up to a slot's `recovery_point` when it was written, and no
//! truncation below that follows before a newer slot is synced.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use highwater_types::Offset;

use crate::disk::{Disk, DiskFile, OpenMode};

pub(crate) const FILE_NAME: &str = "checkpoint";
const MAGIC: u32 = 0x4857_4350;
const SLOT_LEN: usize = 64;
/// The slots lie in separate sectors, so that one torn sector can't hit both.
const SLOT_POSITIONS: [u64; 2] = [0, 4096];

/// One state of the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    pub start_offset: Offset,
    /// Everything below was on the disk when this was written.
    pub recovery_point: Offset,
    pub high_watermark: Offset,
    /// Where the log ended when it was closed in order; `None` while it is open.
    pub closed_at: Option<Offset>,
    /// Recovery cut the log here although sound batches followed, and nobody has been told yet ([`crate::Log::doubt`]).
    pub doubt: Option<Offset>,
}

impl Checkpoint {
    fn encode(&self, sequence: u64) -> [u8; SLOT_LEN] {
        let mut slot = [0; SLOT_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            slot[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC.to_be_bytes());
        put(&sequence.to_be_bytes());
        for offset in [self.start_offset, self.recovery_point, self.high_watermark] {
            put(&offset.get().to_be_bytes());
        }
        put(&self.closed_at.map_or(-1, Offset::get).to_be_bytes());
        // One more than the offset, for slots from before there was such a thing have zeroes here.
        put(&self.doubt.map_or(0, |from| from.get().saturating_add(1)).to_be_bytes());
        let crc = crc32c::crc32c(&slot[..SLOT_LEN - 4]);
        slot[SLOT_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
        slot
    }

    fn decode(slot: &[u8]) -> Option<(u64, Self)> {
        let slot: &[u8; SLOT_LEN] = slot.get(..SLOT_LEN)?.try_into().ok()?;
        let (body, crc) = slot.split_at(SLOT_LEN - 4);
        if crc != crc32c::crc32c(body).to_be_bytes() || body[..4] != MAGIC.to_be_bytes() {
            return None;
        }
        let number = |index: usize| body[4 + 8 * index..12 + 8 * index].try_into().map(i64::from_be_bytes).ok();
        let offset = |index| number(index).filter(|offset| *offset >= 0).map(Offset::new);
        let checkpoint = Self {
            start_offset: offset(1)?,
            recovery_point: offset(2)?,
            high_watermark: offset(3)?,
            closed_at: offset(4),
            doubt: number(5).and_then(|next| next.checked_sub(1)).filter(|from| *from >= 0).map(Offset::new),
        };
        Some((number(0)? as u64, checkpoint))
    }
}

/// The file; knows which slot may be written.
pub(crate) struct CheckpointFile {
    file: Arc<dyn DiskFile>,
    sequence: u64,
    latest: Checkpoint,
    /// What the file was last given.
    put: Checkpoint,
    /// Of the slot that was last synced.
    synced: Checkpoint,
    synced_slot: usize,
    /// The greatest recovery point that a slot on the disk may have.
    claimed: Offset,
    /// The other slot was written to since.
    is_newer_unsynced: bool,
    /// A sync of the file runs: what it covers must stay as it is until it ends.
    syncing: bool,
    /// What it covers is newer than the synced slot.
    covers_newer: bool,
    /// Written while a sync ran; goes to the file when it ends.
    waiting: bool,
}

impl CheckpointFile {
    /// Opens or creates it. `None` for the checkpoint if the file holds none: a new log, or both slots are damaged.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, Option<Checkpoint>)> {
        let file = disk.open(&dir.join(FILE_NAME), OpenMode::Create)?;
        let found = Self::read(&*file)?;
        let (synced_slot, sequence, latest) = found.unwrap_or_default();
        if found.is_some() {
            // Which slot is on the disk is not known after a crash: make the one that counts so.
            file.sync_blocking()?;
        } else {
            // Takes its space now: letting go of records must work on a full disk (T46).
            for position in SLOT_POSITIONS {
                file.write_at(position, &[IoSlice::new(&[0; SLOT_LEN])])?;
            }
        }
        let claimed = latest.recovery_point;
        let this = Self {
            file,
            sequence,
            latest,
            put: latest,
            synced: latest,
            synced_slot,
            claimed,
            is_newer_unsynced: false,
            syncing: false,
            covers_newer: false,
            waiting: false,
        };
        Ok((this, found.map(|(_, _, checkpoint)| checkpoint)))
    }

    /// The newest valid slot: which, its sequence number, its content.
    fn read(file: &dyn DiskFile) -> io::Result<Option<(usize, u64, Checkpoint)>> {
        let mut best = None;
        for (slot, position) in SLOT_POSITIONS.into_iter().enumerate() {
            let found = Checkpoint::decode(&file.read_at(position, SLOT_LEN)?);
            let found = found.map(|(sequence, checkpoint)| (slot, sequence, checkpoint));
            best = best.into_iter().chain(found).max_by_key(|(_, sequence, _)| *sequence);
        }
        Ok(best)
    }

    /// For the dump: the newest valid slot.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Checkpoint>> {
        let file = match disk.open(&dir.join(FILE_NAME), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        Ok(Self::read(&*file)?.map(|(_, _, checkpoint)| checkpoint))
    }

    /// What was last written (synced or not).
    pub(crate) fn latest(&self) -> &Checkpoint {
        &self.latest
    }

    /// Writes to the page cache, or after the sync that runs.
    pub(crate) fn write(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        self.latest = checkpoint;
        self.waiting = true;
        if self.syncing { Ok(()) } else { self.put() }
    }

    /// Truncation below this needs [`Self::write_durably`] first.
    pub(crate) fn claimed(&self) -> Offset {
        self.claimed
    }

    /// A recovery point that any crash leaves, or a later one.
    pub(crate) fn certain_recovery_point(&self) -> Offset {
        self.synced.recovery_point.min(self.put.recovery_point).min(self.latest.recovery_point)
    }

    fn put(&mut self) -> io::Result<()> {
        self.put = self.latest;
        self.claimed = self.claimed.max(self.latest.recovery_point);
        self.sequence += 1;
        let slot = self.latest.encode(self.sequence);
        self.file.write_at(SLOT_POSITIONS[1 - self.synced_slot], &[IoSlice::new(&slot)])?;
        (self.waiting, self.is_newer_unsynced) = (false, true);
        Ok(())
    }

    fn newer_is_synced(&mut self) {
        self.synced_slot = 1 - self.synced_slot;
        self.synced = self.put;
        self.is_newer_unsynced = false;
    }

    /// A sync of [`Self::file`] begins.
    pub(crate) fn sync_begins(&mut self) {
        (self.syncing, self.covers_newer) = (true, self.is_newer_unsynced);
    }

    /// That sync has succeeded.
    pub(crate) fn sync_ended(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.syncing) && self.covers_newer {
            self.newer_is_synced();
        }
        if self.waiting { self.put() } else { Ok(()) }
    }

    /// Writes and syncs, blocking. If a sync runs beside it, it covers the same slot.
    pub(crate) fn write_durably(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        self.latest = checkpoint;
        self.put()?;
        self.file.sync_blocking()?;
        if self.syncing {
            self.covers_newer = true;
            self.synced = checkpoint;
        } else {
            self.newer_is_synced();
        }
        self.claimed = checkpoint.recovery_point;
        Ok(())
    }

    pub(crate) fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::{Crash, SimDisk};

    fn state(recovery_point: i64) -> Checkpoint {
        let recovery_point = Offset::new(recovery_point);
        Checkpoint { recovery_point, closed_at: Some(recovery_point), ..Default::default() }
    }

    #[test]
    fn power_loss_leaves_the_synced_state_or_a_later_one_whatever_tears() {
        for seed in 0..300 {
            let hardware = SimDisk::new(seed);
            let (disk, dir) = (hardware.mount(), Path::new("/"));
            let (mut file, found) = CheckpointFile::open(&*disk, dir).unwrap();
            assert_eq!(found, None);
            disk.sync_dir_blocking(dir).unwrap();
            file.write_durably(state(1)).unwrap();
            file.write(state(2)).unwrap();
            file.sync_begins();
            file.write(state(3)).unwrap();
            file.file().sync_blocking().unwrap();
            file.sync_ended().unwrap();
            for later in 4..4 + (seed % 4) as i64 {
                file.write(state(later)).unwrap();
            }
            hardware.crash(Crash::Power);
            let found = CheckpointFile::open(&*hardware.mount(), dir).unwrap().1.unwrap();
            assert!(found.recovery_point >= Offset::new(2), "seed {seed}: {found:?}");
        }
    }

    #[test]
    fn a_damaged_slot_leaves_the_one_before() {
        let hardware = SimDisk::new(1);
        let (disk, dir) = (hardware.mount(), Path::new("/"));
        let (mut file, _) = CheckpointFile::open(&*disk, dir).unwrap();
        file.write_durably(state(1)).unwrap();
        file.write_durably(state(2)).unwrap();
        assert_eq!(CheckpointFile::load(&*disk, dir).unwrap(), Some(state(2)));
        hardware.flip_bit(&dir.join(FILE_NAME), SLOT_POSITIONS[0] + 20, 3).unwrap();
        assert_eq!(CheckpointFile::load(&*disk, dir).unwrap(), Some(state(1)));
    }
}
