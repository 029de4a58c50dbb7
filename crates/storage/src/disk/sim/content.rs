//! What one simulated file holds: as the process sees it, and as the device has it.

use std::io;

use super::SimRandom;

/// A change that the device does not have yet.
struct Change {
    number: u64,
    kind: ChangeKind,
    /// A sync failed to write it: the page cache calls it clean, and it never reaches the device (T44).
    doomed: bool,
}

enum ChangeKind {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Default)]
pub(super) struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    written: u64,
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

fn apply(bytes: &mut Vec<u8>, change: &ChangeKind) {
    match change {
        ChangeKind::Write { offset, data } => write(bytes, *offset, data),
        ChangeKind::SetLen(len) => bytes.resize(*len, 0),
    }
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    /// The number of the latest change.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let start = (offset as usize).min(self.current.len());
        let end = start.saturating_add(len).min(self.current.len());
        self.current[start..end].to_vec()
    }

    fn change(&mut self, kind: ChangeKind) {
        apply(&mut self.current, &kind);
        self.written += 1;
        self.unsynced.push(Change { number: self.written, kind, doomed: false });
    }

    pub(super) fn write(&mut self, offset: u64, data: Vec<u8>) {
        self.change(ChangeKind::Write { offset: offset as usize, data });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len != self.len() {
            self.change(ChangeKind::SetLen(len as usize));
        }
    }

    /// The device has every change up to `covered`.
    pub(super) fn persist(&mut self, covered: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            let goes = change.number <= covered && !change.doomed;
            if goes {
                apply(durable, &change.kind);
            }
            !goes
        });
    }

    /// The device will never have the changes up to `covered`.
    pub(super) fn doom(&mut self, covered: u64) {
        self.unsynced.iter_mut().filter(|change| change.number <= covered).for_each(|change| change.doomed = true);
    }

    pub(super) fn flip(&mut self, byte: usize, bit: u8) -> io::Result<()> {
        let Some(current) = self.current.get_mut(byte) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such byte"));
        };
        *current ^= 1 << (bit % 8);
        if let Some(durable) = self.durable.get_mut(byte) {
            *durable ^= 1 << (bit % 8);
        }
        Ok(())
    }

    /// Power loss. Of the changes that were not synced, keeps: none; a prefix, its last write cut anywhere; or any
    /// subset, cut at any byte (a device has no order without a sync).
    pub(super) fn lose_unsynced(&mut self, random: &mut SimRandom, all: bool) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let how = if all { 0 } else { random.below(3) };
        let kept = if how == 1 { random.below(unsynced.len() as u64 + 1) as usize } else { unsynced.len() };
        for (index, change) in unsynced.iter().enumerate() {
            let keep = match how {
                1 => index < kept && !change.doomed,
                2 => random.below(2) == 0 && !change.doomed,
                _ => false,
            };
            if !keep {
                continue;
            }
            match &change.kind {
                ChangeKind::Write { offset, data } if index + 1 == kept || how == 2 && random.below(3) == 0 => {
                    let cut = random.below(data.len() as u64 + 1) as usize;
                    // Either half can be the one that arrived.
                    if random.below(4) == 0 {
                        write(&mut self.durable, offset + cut, &data[cut..]);
                    } else {
                        write(&mut self.durable, *offset, &data[..cut]);
                    }
                }
                kind => apply(&mut self.durable, kind),
            }
        }
        self.current = self.durable.clone();
    }
}
