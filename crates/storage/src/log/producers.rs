//! What the log knows of its producers, kept with it through appends, rolls, truncation and restarts (T3, T30).

use std::io;

use highwater_record::{Batch, BatchHeader, EndTransactionMarker, EpochHistory};
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TimestampMs, TimestampType};

use super::{Appended, Log};
use crate::disk::{Disk, OpenMode};
use crate::error::{AppendError, DamagedRange};
use crate::producers::{
    AbortedTransaction, OngoingTransaction, ProducerDescription, ProducerStateError, ProducerStates, SequenceCheck,
    Snapshots, marker_of,
};
use crate::scan::{Found, Scanner};
use crate::segment::Sealed;

#[derive(Debug, Default)]
pub(super) struct Producers {
    pub(super) states: ProducerStates,
    snapshots: Option<Snapshots>,
    /// Damage hid some batches: what is known is not written down, and learned again once they are healed.
    has_gaps: bool,
}

impl Producers {
    pub(super) fn has_gaps(&self) -> bool {
        self.has_gaps
    }
}

impl Log {
    /// Whether a batch of a numbered producer is the next one, or stored already (T29). Batches without a producer always
    /// may be appended.
    pub fn check_producer(&self, header: &BatchHeader) -> Result<SequenceCheck, ProducerStateError> {
        self.producers.states.check(header)
    }

    /// The producer's open transaction.
    pub fn ongoing_transaction(&self, producer: ProducerId) -> Option<OngoingTransaction> {
        self.producers.states.ongoing(producer)
    }

    /// The first offset of the oldest transaction that is open, or whose marker is not below `high_watermark` (T32).
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        self.producers.states.first_unstable_offset(high_watermark)
    }

    /// The aborted transactions that have records in `from..to`, in the order of their markers.
    pub fn aborted_in(&self, from: Offset, to: Offset) -> Vec<AbortedTransaction> {
        self.producers.states.aborted_in(from, to)
    }

    /// The newest epoch of `producer` that a batch or a marker had, if it is known.
    pub fn producer_epoch(&self, producer: ProducerId) -> Option<ProducerEpoch> {
        self.producers.states.epoch_of(producer)
    }

    /// Every producer that is known.
    pub fn producers(&self) -> Vec<ProducerDescription> {
        self.producers.states.describe()
    }

    /// Forgets the producers that `has_gone` names, if their newest records are older than `before`: but for those with an open
    /// transaction. Timestamps are the producers' own, so they alone don't say that one has gone. Returns how many.
    pub fn expire_producers(&mut self, before: TimestampMs, has_gone: impl Fn(ProducerId) -> bool) -> usize {
        self.producers.states.expire(before, has_gone)
    }

    /// Appends the marker of a transaction, as leader. Refused if the producer's epoch or the coordinator's is over.
    pub fn append_marker(
        &mut self,
        batch: &Batch,
        epoch: LeaderEpoch,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        let marker = marker_of(batch).ok_or(AppendError::Empty)?;
        self.producers.states.check_marker(batch.header(), marker).map_err(AppendError::Producer)?;
        self.append_leader(std::slice::from_ref(batch), epoch, TimestampType::CreateTime, now)
    }

    /// `headers` as they were appended, and the markers that their batches are.
    pub(super) fn note_producers(
        &mut self,
        headers: &[BatchHeader],
        markers: impl IntoIterator<Item = Option<EndTransactionMarker>>,
    ) {
        for (header, marker) in headers.iter().zip(markers) {
            if header.producer_id != ProducerId::NONE {
                self.producers.states.apply(header, marker);
            }
        }
    }

    /// Writes down what is known at the log's end. Failing costs reading, later.
    pub(super) fn save_producers(&mut self) {
        let end = self.end_offset();
        let epoch = epoch_before(&self.epochs, end);
        let Producers { states, snapshots: Some(snapshots), has_gaps: false } = &mut self.producers else { return };
        match snapshots.write(&*self.disk, &self.dir, (end, epoch), states) {
            Ok(path) => {
                self.unsynced.indexes.push(path);
                self.unsynced.dir = true;
            }
            Err(error) => tracing::debug!(partition = %self.partition, %error, "no snapshot of the producers"),
        }
    }

    /// Learns what the log says of producers up to its end: from the newest snapshot, and the batches behind it. Reads from the
    /// page cache, a segment as a rule.
    pub(super) fn learn_producers(&mut self) -> io::Result<()> {
        let end = self.end_offset();
        let mut snapshots = match self.producers.snapshots.take() {
            Some(snapshots) => snapshots,
            None => Snapshots::open(&*self.disk, &self.dir)?,
        };
        let (mut from, mut states) = {
            let epochs = &self.epochs;
            let newest = snapshots.newest(&*self.disk, &self.dir, end, |offset| epoch_before(epochs, offset))?;
            newest.unwrap_or_default()
        };
        let mut gaps = Vec::new();
        let active = self.segment_at(end);
        for part in self.sealed.iter().chain(std::iter::once(&active)) {
            if part.end <= from {
                continue;
            }
            learn(&*self.disk, part, from, &mut states, &mut gaps)?;
            from = part.end;
        }
        states.start_moved(self.start);
        states.committed(self.high_watermark);
        self.producers = Producers { states, snapshots: Some(snapshots), has_gaps: !gaps.is_empty() };
        gaps.into_iter().for_each(|gap| self.note_damage(gap));
        Ok(())
    }

    /// What was hidden by damage may be there again.
    pub(super) fn learn_healed_producers(&mut self) -> io::Result<()> {
        if self.producers.has_gaps { self.learn_producers() } else { Ok(()) }
    }

    pub(super) fn forget_producers(&mut self) -> io::Result<()> {
        self.producers.states = ProducerStates::default();
        self.producers.has_gaps = false;
        match &mut self.producers.snapshots {
            Some(snapshots) => snapshots.remove_all(&*self.disk, &self.dir),
            None => Ok(()),
        }
    }

    #[cfg(test)]
    pub(crate) fn producer_states(&self) -> &ProducerStates {
        &self.producers.states
    }
}

/// The leader epoch of the record before `offset`, as far as the history goes back.
pub(super) fn epoch_before(epochs: &EpochHistory, offset: Offset) -> LeaderEpoch {
    let before = epochs.entries().iter().rev().find(|(_, start)| *start < offset);
    // Of an empty log nothing is known.
    before.map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch)
}

/// Applies the batches of a segment from offset `from` on. Those that can't be read are `gaps`.
fn learn(
    disk: &dyn Disk,
    part: &Sealed,
    from: Offset,
    states: &mut ProducerStates,
    gaps: &mut Vec<DamagedRange>,
) -> io::Result<()> {
    let file = disk.open(&part.segment.log_path(), OpenMode::Read)?;
    // With CRCs: a header that rotted must not be learned from, and its neighbours not be blamed for it.
    let mut scanner = Scanner::new(&*file, 0, part.base(), part.len).until(Some(part.end));
    loop {
        match scanner.next()? {
            Found::Batch { header, position } => {
                if header.base_offset < from || header.producer_id == ProducerId::NONE {
                    continue;
                }
                let marker = match header.attributes.is_control() {
                    false => None,
                    true => {
                        Batch::from_bytes(scanner.batch_bytes(position, &header)?).ok().as_ref().and_then(marker_of)
                    }
                };
                states.apply(&header, marker);
            }
            Found::End if scanner.expected() == part.end => return Ok(()),
            Found::End => {
                gaps.push(DamagedRange { start: scanner.expected(), end: part.end });
                return Ok(());
            }
            Found::Bad(_) => {
                let start = scanner.expected();
                let next = scanner.resync(part.end)?;
                gaps.push(DamagedRange { start, end: next.map_or(part.end, |(_, offset)| offset) });
                match next {
                    Some((position, offset)) => scanner.jump(position, offset),
                    None => return Ok(()),
                }
            }
        }
    }
}
