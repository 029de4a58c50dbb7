//! What compaction makes of batches: some records fewer, none, or one empty batch for a run of them.
//!
//! **Invariants**: offsets, order, timestamps, keys, values and headers of the records that stay are as they were, and so
//! are the header's offsets, producer, sequence and greatest timestamp. A filler stands for offsets of which no record is
//! left; it names no producer. The delete horizon (KIP-534) is kept where Kafka keeps it: in the base timestamp, with an
//! attribute bit, and the records' timestamp deltas count from it.

use bytes::Bytes;
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::batch::{decompress_error, put_crc};
use crate::header::{self, Attributes, BatchHeader, HEADER_LEN, LENGTH_PREFIX, MAGIC, at};
use crate::record::{Layout, timestamp};
use crate::varint::{self, Cursor};
use crate::{Batch, BatchError, Compression, RecordProblem, Records, compression, stamp};

/// A batch with its records decompressed.
#[derive(Debug, Clone)]
pub struct Unpacked {
    header: BatchHeader,
    head: Bytes,
    body: Bytes,
}

impl Batch {
    /// Decompresses the records if need be: to `limit_bytes` at most.
    pub fn unpack(&self, limit_bytes: usize) -> Result<Unpacked, BatchError> {
        let body = match self.header().attributes.compression() {
            Compression::None => self.bytes().slice(HEADER_LEN..),
            codec => {
                let mut out = Vec::new();
                compression::decompress(codec, &self.bytes()[HEADER_LEN..], limit_bytes, &mut out)
                    .map_err(|error| decompress_error(codec, limit_bytes, error))?;
                Bytes::from(out)
            }
        };
        Ok(Unpacked { header: *self.header(), head: self.bytes().slice(..HEADER_LEN), body })
    }

    /// The batch without any record: what it says of its offsets and its producer stays.
    pub fn emptied(&self) -> Bytes {
        let mut out = self.bytes()[..HEADER_LEN].to_vec();
        let bits = self.header().attributes.uncompressed().bits();
        header::put(&mut out, at::ATTRIBUTES, bits.to_be_bytes());
        finish(&mut out, 0);
        out.into()
    }
}

impl Unpacked {
    pub fn records(&self) -> Records {
        Records::new(self.header, self.body.clone())
    }

    /// The batch with only those records for whose number `keep` is true, compressed as it was. With a `horizon` it
    /// becomes the batch's delete horizon, in place of any before.
    pub fn retain(&self, keep: &[bool], horizon: Option<TimestampMs>) -> Result<Bytes, BatchError> {
        let bad = |index: usize, problem| BatchError::Record { at: 0, index: index as u32, problem };
        let base = horizon.unwrap_or(self.header.base_timestamp).get();
        let mut cursor = Cursor::new(&self.body, 0);
        let mut out = self.head.to_vec();
        let mut count = 0;
        for (index, keep) in keep.iter().enumerate().take(self.header.record_count as usize) {
            let start = cursor;
            let layout = Layout::read(&mut cursor).map_err(|problem| bad(index, problem))?;
            if !keep {
                continue;
            }
            // With append time the deltas say nothing.
            let delta = match self.header.attributes.timestamp_type() {
                TimestampType::LogAppendTime => layout.timestamp_delta,
                TimestampType::CreateTime => timestamp(&self.header, layout.timestamp_delta)
                    .and_then(|time| time.get().checked_sub(base))
                    .ok_or(bad(index, RecordProblem::Timestamp))?,
            };
            put_record(&mut out, &self.body, start, &layout, (delta, layout.offset_delta))
                .map_err(|problem| bad(index, problem))?;
            count += 1;
        }
        self.finish(out, count, horizon)
    }

    /// The part from offset `first` on, which must lie inside it: what a log takes that starts there. Its sequence is that of its first
    /// offset.
    pub fn from_offset(&self, first: Offset) -> Result<Bytes, BatchError> {
        let bad = |index: u32, problem| BatchError::Record { at: 0, index, problem };
        // Below 2^31, as it lies inside.
        let skip = first.distance_from(self.header.base_offset).min(self.header.last_offset_delta as u64) as i32;
        let mut cursor = Cursor::new(&self.body, 0);
        let mut out = self.head.to_vec();
        let mut count = 0;
        for index in 0..self.header.record_count as u32 {
            let start = cursor;
            let layout = Layout::read(&mut cursor).map_err(|problem| bad(index, problem))?;
            if layout.offset_delta >= skip {
                let deltas = (layout.timestamp_delta, layout.offset_delta - skip);
                put_record(&mut out, &self.body, start, &layout, deltas).map_err(|problem| bad(index, problem))?;
                count += 1;
            }
        }
        stamp(&mut out, self.header.base_offset.plus(skip.into()), self.header.leader_epoch);
        header::put(&mut out, at::LAST_OFFSET_DELTA, (self.header.last_offset_delta - skip).to_be_bytes());
        if self.header.base_sequence != Sequence::NONE {
            // They go around after the largest.
            let sequence = self.header.base_sequence.get().wrapping_add(skip) & i32::MAX;
            header::put(&mut out, at::BASE_SEQUENCE, sequence.to_be_bytes());
        }
        self.finish(out, count, None)
    }

    fn finish(&self, mut out: Vec<u8>, count: i32, horizon: Option<TimestampMs>) -> Result<Bytes, BatchError> {
        let mut attributes = self.header.attributes;
        if let Some(horizon) = horizon {
            attributes = attributes.with_delete_horizon();
            header::put(&mut out, at::BASE_TIMESTAMP, horizon.get().to_be_bytes());
        }
        let codec = attributes.compression();
        if count == 0 {
            attributes = attributes.uncompressed();
        } else if codec != Compression::None {
            let mut packed = out[..HEADER_LEN].to_vec();
            compression::compress(codec, None, &out[HEADER_LEN..], &mut packed)
                .map_err(|reason| BatchError::Compress { codec, reason })?;
            out = packed;
        }
        if out.len() > i32::MAX as usize {
            return Err(BatchError::Builder { why: "the batch would be larger than 2 GiB" });
        }
        header::put(&mut out, at::ATTRIBUTES, attributes.bits().to_be_bytes());
        finish(&mut out, count);
        Ok(out.into())
    }
}

/// The record that begins at `start`, with other deltas of time and offset.
fn put_record(
    out: &mut Vec<u8>,
    body: &[u8],
    start: Cursor<'_>,
    layout: &Layout,
    (delta, offset): (i64, i32),
) -> Result<(), RecordProblem> {
    let mut fields = start;
    let _length = fields.varint()?;
    let attributes = fields.byte()?;
    let _timestamp = fields.varlong()?;
    let _offset = fields.varint()?;
    let rest = &body[fields.position..layout.end];
    let offset = i64::from(offset);
    varint::put(out, (1 + varint::length(delta) + varint::length(offset) + rest.len()) as i64);
    out.push(attributes);
    varint::put(out, delta);
    varint::put(out, offset);
    out.extend_from_slice(rest);
    Ok(())
}

/// States length, record count and CRC of what is in `out`.
fn finish(out: &mut [u8], count: i32) {
    let length = (out.len() - LENGTH_PREFIX) as i32;
    header::put(out, at::LENGTH, length.to_be_bytes());
    header::put(out, at::RECORD_COUNT, count.to_be_bytes());
    put_crc(out);
}

/// The longest run of offsets for which one filler can stand.
pub const FILLER_OFFSETS_MAX: u64 = i32::MAX as u64;

/// The empty batch that stands for the offsets `base..next` of one leader epoch; there must be one at least, and
/// [`FILLER_OFFSETS_MAX`] at most.
pub fn filler(base: Offset, next: Offset, epoch: LeaderEpoch) -> Bytes {
    let mut out = vec![0; HEADER_LEN];
    let last_delta = next.distance_from(base).clamp(1, FILLER_OFFSETS_MAX) as i32 - 1;
    header::put(&mut out, at::MAGIC, MAGIC.to_be_bytes());
    header::put(&mut out, at::LAST_OFFSET_DELTA, last_delta.to_be_bytes());
    header::put(&mut out, at::BASE_TIMESTAMP, TimestampMs::NONE.get().to_be_bytes());
    header::put(&mut out, at::MAX_TIMESTAMP, TimestampMs::NONE.get().to_be_bytes());
    header::put(&mut out, at::PRODUCER_ID, ProducerId::NONE.get().to_be_bytes());
    header::put(&mut out, at::PRODUCER_EPOCH, ProducerEpoch::NONE.get().to_be_bytes());
    header::put(&mut out, at::BASE_SEQUENCE, Sequence::NONE.get().to_be_bytes());
    stamp(&mut out, base, epoch);
    finish(&mut out, 0);
    out.into()
}

impl BatchHeader {
    /// Whether it stands for offsets of which compaction has left nothing: see [`filler`].
    pub fn is_filler(&self) -> bool {
        self.record_count == 0 && self.producer_id == ProducerId::NONE && !self.attributes.is_control()
    }

    /// When the tombstones in it, or the marker that it is, may go; set once they were clean (KIP-534).
    pub fn delete_horizon(&self) -> Option<TimestampMs> {
        self.attributes.has_delete_horizon().then_some(self.base_timestamp)
    }
}

impl Attributes {
    const DELETE_HORIZON: i16 = 1 << 6;

    pub const fn has_delete_horizon(self) -> bool {
        self.bits() & Self::DELETE_HORIZON != 0
    }
    #[must_use]
    pub(crate) const fn with_delete_horizon(self) -> Self {
        self.with_bits(Self::DELETE_HORIZON)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchBuilder, split};

    fn batch(codec: Compression) -> Batch {
        let mut builder = BatchBuilder::new(codec, None);
        builder.set_producer(ProducerId::new(9), ProducerEpoch::new(2), Sequence::new(40));
        for n in 0..6i64 {
            let (key, value) = (format!("k{n}"), format!("v{n}"));
            let value = (n != 4).then_some(value.as_bytes());
            builder
                .append(TimestampMs::new(1000 - n * 7), Some(key.as_bytes()), value, &[("h", Some(b"x")), ("n", None)])
                .unwrap();
        }
        let mut bytes = builder.build().unwrap().to_vec();
        stamp(&mut bytes, Offset::new(100), LeaderEpoch::new(3));
        split(bytes.into()).unwrap().remove(0)
    }

    #[test]
    fn what_stays_of_a_batch_is_as_it_was() {
        let codecs = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        for codec in codecs {
            let whole = batch(codec);
            let keep = [false, true, false, false, true, false];
            for horizon in [None, Some(TimestampMs::new(5_000_000_000_000))] {
                let kept = whole.unpack(1 << 20).unwrap().retain(&keep, horizon).unwrap();
                let kept = Batch::from_bytes(kept).unwrap();
                let (header, before) = (kept.header(), whole.header());
                assert_eq!((header.base_offset, header.last_offset()), (before.base_offset, before.last_offset()));
                assert_eq!((header.leader_epoch, header.max_timestamp), (before.leader_epoch, before.max_timestamp));
                assert_eq!((header.producer_id, header.base_sequence), (before.producer_id, before.base_sequence));
                assert_eq!((header.record_count, header.attributes.compression()), (2, codec));
                assert_eq!(header.delete_horizon(), horizon);
                let of = |batch: &Batch| batch.records(1 << 20).unwrap().map(Result::unwrap).collect::<Vec<_>>();
                let expected: Vec<_> =
                    of(&whole).into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(record, _)| record).collect();
                assert_eq!(of(&kept), expected);
                // Once more: a horizon that is there stays, or is replaced.
                let again = kept.unpack(1 << 20).unwrap().retain(&[false, true], None).unwrap();
                let again = Batch::from_bytes(again).unwrap();
                assert_eq!((of(&again), again.header().delete_horizon()), (expected[1..].to_vec(), horizon));
            }
        }
    }

    #[test]
    fn the_part_from_an_offset_on_has_the_records_from_there_on() {
        for codec in [Compression::None, Compression::Zstd] {
            let whole = batch(codec);
            let part =
                Batch::from_bytes(whole.unpack(1 << 20).unwrap().from_offset(Offset::new(102)).unwrap()).unwrap();
            let header = part.header();
            assert_eq!((header.base_offset.get(), header.next_offset()), (102, whole.header().next_offset()));
            assert_eq!((header.base_sequence.get(), header.record_count), (42, 4));
            let of = |batch: &Batch| batch.records(1 << 20).unwrap().map(Result::unwrap).collect::<Vec<_>>();
            assert_eq!(of(&part), of(&whole)[2..]);
        }
    }

    #[test]
    fn an_emptied_batch_says_what_it_said_of_its_producer() {
        let whole = batch(Compression::Zstd);
        let empty = Batch::from_bytes(whole.emptied()).unwrap();
        let same = BatchHeader {
            batch_length: empty.header().batch_length,
            crc: empty.header().crc,
            attributes: empty.header().attributes,
            record_count: 0,
            ..*whole.header()
        };
        assert_eq!(*empty.header(), same);
        assert_eq!((empty.bytes().len(), empty.records(0).unwrap().count()), (HEADER_LEN, 0));
        assert!(!empty.header().is_filler());
        let none = whole.unpack(1 << 20).unwrap().retain(&[false; 6], None).unwrap();
        assert_eq!(none, empty.into_bytes());
    }

    #[test]
    fn a_filler_stands_for_its_offsets() {
        let filler = Batch::from_bytes(filler(Offset::new(7), Offset::new(12), LeaderEpoch::new(4))).unwrap();
        let header = filler.header();
        assert!(header.is_filler());
        assert_eq!((header.base_offset.get(), header.next_offset().get(), header.leader_epoch.get()), (7, 12, 4));
        assert_eq!((filler.records(0).unwrap().count(), header.delete_horizon()), (0, None));
    }
}
