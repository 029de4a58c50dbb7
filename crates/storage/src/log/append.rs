//! Appends, as leader and as follower: one write to the page cache each, whole or not at all.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use highwater_record::{Batch, BatchHeader, EndTransactionMarker, HEADER_LEN, filler, set_append_time, stamp};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset, TimestampMs, TimestampType};

use super::Log;
use crate::disk;
use crate::error::AppendError;
use crate::producers::marker_of;

/// Most bytes to which one batch is decompressed to be cut.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Batches smaller than this on average are copied into one piece, which the cache then holds: small slices of a large
/// network buffer would keep all of it in memory.
const COPY_BELOW_BYTES: usize = 16 << 10;

/// From this size on a producer's batch may be kept as it came.
const KEEP_FROM_BYTES: usize = 64 << 10;

/// Headers of batches, and the markers that they are.
type Noted = (Vec<BatchHeader>, Vec<Option<EndTransactionMarker>>);

fn noted(batches: &[Batch]) -> Noted {
    batches.iter().map(|batch| (*batch.header(), marker_of(batch))).unzip()
}

/// The bytes of a batch, to be written to: as they are if nobody else holds them and little memory hangs on behind them.
fn own(batch: Batch) -> BytesMut {
    let length = batch.bytes().len();
    match batch.into_bytes().try_into_mut() {
        Ok(bytes) if bytes.capacity() <= length + length / 8 => bytes,
        Ok(bytes) => BytesMut::from(&bytes[..]),
        Err(shared) => BytesMut::from(&shared[..]),
    }
}

/// Where an append went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// The offset after the last record.
    pub end_offset: Offset,
    pub bytes: u64,
    /// What all its records have as timestamp, with LogAppendTime.
    pub append_time: Option<TimestampMs>,
}

impl Log {
    /// Appends what a producer sent, as leader: stamps base offsets and the leader epoch into a copy. The batches must
    /// have been validated. Whole or nothing.
    pub fn append_leader(
        &mut self,
        batches: &[Batch],
        epoch: LeaderEpoch,
        timestamp_type: TimestampType,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.check_leads(batches, epoch)?;
        let mut bytes = BytesMut::with_capacity(batches.iter().map(|batch| batch.bytes().len()).sum());
        batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
        self.stamp_and_write(bytes, noted(batches), epoch, timestamp_type, now)
    }

    /// As [`append_leader`](Self::append_leader). A large batch that nobody else holds is stamped where it is, and its memory
    /// kept, with what lies in front of it there: let that be little.
    pub fn append_leader_owned(
        &mut self,
        batches: Vec<Batch>,
        epoch: LeaderEpoch,
        timestamp_type: TimestampType,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        match <[Batch; 1]>::try_from(batches) {
            Ok([batch]) if batch.bytes().len() >= KEEP_FROM_BYTES => {
                self.check_leads(std::slice::from_ref(&batch), epoch)?;
                let noted = noted(std::slice::from_ref(&batch));
                self.stamp_and_write(own(batch), noted, epoch, timestamp_type, now)
            }
            Ok(small) => self.append_leader(&small, epoch, timestamp_type, now),
            Err(several) => self.append_leader(&several, epoch, timestamp_type, now),
        }
    }

    fn check_leads(&self, batches: &[Batch], epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.check_appendable()?;
        let latest = self.epochs.latest().unwrap_or(LeaderEpoch::NONE);
        match batches {
            [] => Err(AppendError::Empty),
            _ if epoch < latest => Err(AppendError::EpochWentBack { latest, found: epoch }),
            _ => Ok(()),
        }
    }

    /// `bytes` are the batches, one behind the other, as they were sent.
    fn stamp_and_write(
        &mut self,
        mut bytes: BytesMut,
        (mut headers, markers): Noted,
        epoch: LeaderEpoch,
        timestamp_type: TimestampType,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        let append_time = (timestamp_type == TimestampType::LogAppendTime).then_some(now);
        let (mut rest, mut next) = (&mut bytes[..], self.end_offset());
        for header in &mut headers {
            let (batch, behind) = rest.split_at_mut(header.total_len());
            stamp(batch, next, epoch);
            (header.base_offset, header.leader_epoch) = (next, epoch);
            if let Some(now) = append_time {
                set_append_time(batch, now);
                header.max_timestamp = now;
            }
            (rest, next) = (behind, header.next_offset());
        }
        let appended = self.write(&headers, vec![bytes.freeze()], Some(now))?;
        self.note_producers(&headers, markers);
        Ok(Appended { append_time, ..appended })
    }

    /// Appends what the leader sent, as follower: the bytes as they are. Offsets must continue at the log's end (but
    /// for a filler, of which the part before it is left out), and leader epochs never go back. Whole or nothing.
    pub fn append_follower(&mut self, batches: &[Batch]) -> Result<Appended, AppendError> {
        self.check_appendable()?;
        let cut = self.cut_to_fit(batches);
        let batches = cut.as_deref().unwrap_or(batches);
        let (mut expected, mut latest) = (self.end_offset(), self.epochs.latest().unwrap_or(LeaderEpoch::NONE));
        for header in batches.iter().map(Batch::header) {
            if header.base_offset != expected {
                return Err(AppendError::OffsetGap { expected, found: header.base_offset });
            }
            if header.leader_epoch < latest {
                return Err(AppendError::EpochWentBack { latest, found: header.leader_epoch });
            }
            (expected, latest) = (header.next_offset(), header.leader_epoch);
        }
        let total: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        let headers: Vec<BatchHeader> = batches.iter().map(|batch| *batch.header()).collect();
        let pieces = match batches {
            [] => return Err(AppendError::Empty),
            _ if total / batches.len() < COPY_BELOW_BYTES => {
                let mut bytes = BytesMut::with_capacity(total);
                batches.iter().for_each(|batch| bytes.extend_from_slice(batch.bytes()));
                vec![bytes.freeze()]
            }
            _ => batches.iter().map(|batch| batch.bytes().clone()).collect(),
        };
        let appended = self.write(&headers, pieces, None)?;
        if !mutation::is_on(Mutation::FollowersLearnNoProducers) {
            self.note_producers(&headers, batches.iter().map(marker_of));
        }
        Ok(appended)
    }

    /// A leader's filler may begin before this log's end: replicas are compacted each for itself. What it says of the offsets
    /// from there on is taken. Everything else begins where a batch of this log ends, if the two logs are the same up to there; but for an empty log
    /// that starts where the leader's does, inside a batch.
    fn cut_to_fit(&self, batches: &[Batch]) -> Option<Vec<Batch>> {
        let (first, end) = (batches.first()?.header(), self.end_offset());
        let overlaps = first.base_offset < end && end < first.next_offset();
        let part = match first.is_filler() {
            _ if !overlaps => return None,
            true => filler(end, first.next_offset(), first.leader_epoch),
            false if self.start == end => batches[0].unpack(DECOMPRESSED_BYTES_MAX).ok()?.from_offset(end).ok()?,
            false => return None,
        };
        let mut cut = batches.to_vec();
        cut[0] = Batch::from_bytes(part).ok()?;
        Some(cut)
    }

    /// `pieces` are the bytes of the batches: one for all, or one for each.
    fn write(
        &mut self,
        headers: &[BatchHeader],
        pieces: Vec<Bytes>,
        now: Option<TimestampMs>,
    ) -> Result<Appended, AppendError> {
        let total: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let base_offset = self.end_offset();
        self.roll_for(total, headers, now)?;
        if self.active.since.is_none() {
            self.active.since = now;
        }
        let mut epochs = headers.iter().map(|header| (header.leader_epoch, header.base_offset));
        epochs.try_for_each(|(epoch, start)| self.assign_epoch(epoch, start))?;
        self.active.allocate_for(total, self.config.segment_bytes);
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.unsynced.active = true;
        if let Err(error) = self.active.file.write_at(self.active.len, &slices) {
            return Err(self.undo_write(error));
        }
        self.config.status.spend(total);

        let base = self.active.base();
        for header in headers {
            self.active.index.add(base, header, self.active.len, self.config.index_interval_bytes);
            self.active.len += header.total_len() as u64;
            self.active.end = header.next_offset();
        }
        self.cache_pieces(headers, pieces);
        Ok(Appended { base_offset, end_offset: self.active.end, bytes: total, append_time: None })
    }

    fn cache_pieces(&mut self, headers: &[BatchHeader], pieces: Vec<Bytes>) {
        let limit = self.config.cache_bytes;
        match <[Bytes; 1]>::try_from(pieces) {
            Ok([all]) => self.cache.push(headers[0].base_offset, self.active.end, all, limit),
            Err(each) => headers.iter().zip(each).for_each(|(header, bytes)| {
                self.cache.push(header.base_offset, header.next_offset(), bytes, limit);
            }),
        }
    }

    /// Starts a new segment if the present one has no room for so much, or is too old.
    fn roll_for(&mut self, total: u64, headers: &[BatchHeader], now: Option<TimestampMs>) -> Result<(), AppendError> {
        let too_large = self.active.len > 0 && self.active.len + total > self.config.segment_bytes;
        let last = headers.last().map_or(self.active.end, BatchHeader::last_offset);
        // The indexes hold 32 bits.
        let too_wide = last.distance_from(self.active.base()) > u64::from(u32::MAX)
            || self.active.len + total > u64::from(u32::MAX) - HEADER_LEN as u64;
        if too_large || too_wide || now.is_some_and(|now| self.is_roll_due(now)) {
            match self.roll() {
                Err(error) if disk::is_disk_full(&error) => return Err(AppendError::DiskFull),
                Err(error) => return Err(self.fail_append(error)),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// After a write that failed half way: the bytes that got there are cut off again. No space left is told and
    /// forgotten (T46); anything else ends all writing (T44).
    fn undo_write(&mut self, error: std::io::Error) -> AppendError {
        if !disk::is_disk_full(&error) {
            return self.fail_append(error);
        }
        // The epochs of the append stay assigned: they start at the log's end, which is where they will start.
        match self.active.truncate_file(self.active.len) {
            Ok(()) => AppendError::DiskFull,
            Err(error) => self.fail_append(error),
        }
    }
}
