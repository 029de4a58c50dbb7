//! Whole batches, cut out of the bytes that they came in.
//!
//! Invariant: a [`Batch`] has all its bytes, a header that parsed, and, unless it was made by
//! [`Batch::from_bytes_unchecked_crc`], the CRC that its header states.

use bytes::Bytes;
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

use crate::compression::DecompressError;
use crate::header::{self, Attributes, BatchHeader, at};
use crate::{BatchError, Compression, Records};

/// One whole batch: its bytes and their parsed header. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// The one batch that `bytes` are, header and CRC checked.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, BatchError> {
        let length = whole_len(&bytes)?;
        check_crc(&bytes[..length])?;
        Self::exactly(bytes, length)
    }

    /// As [`Batch::from_bytes`], for bytes whose CRC was checked before or will be.
    pub fn from_bytes_unchecked_crc(bytes: Bytes) -> Result<Self, BatchError> {
        let length = whole_len(&bytes)?;
        Self::exactly(bytes, length)
    }

    fn exactly(bytes: Bytes, length: usize) -> Result<Self, BatchError> {
        match bytes.len() - length {
            0 => Ok(Self { header: BatchHeader::parse(&bytes)?, bytes }),
            extra => Err(BatchError::Trailing { at: 0, extra }),
        }
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The records, decompressed first if need be: whole, and to `limit_bytes` at most. Uncompressed records are
    /// slices of this batch.
    pub fn records(&self, limit_bytes: usize) -> Result<Records, BatchError> {
        self.unpack(limit_bytes).map(|unpacked| unpacked.records())
    }

    /// The batch with another greatest timestamp, and the CRC that goes with it.
    pub(crate) fn with_max_timestamp(self, max_timestamp: TimestampMs) -> Self {
        let mut bytes = Vec::from(self.bytes);
        header::put(&mut bytes, at::MAX_TIMESTAMP, max_timestamp.get().to_be_bytes());
        let crc = put_crc(&mut bytes);
        Self { header: BatchHeader { max_timestamp, crc, ..self.header }, bytes: bytes.into() }
    }
}

pub(crate) fn decompress_error(codec: Compression, limit: usize, error: DecompressError) -> BatchError {
    match error {
        DecompressError::TooLarge => BatchError::DecompressedTooLarge { at: 0, limit },
        DecompressError::Damaged(reason) => BatchError::Decompress { at: 0, codec, reason },
    }
}

/// Splits a concatenation of whole batches and checks their headers and CRCs. That offsets continue is the log's
/// business. On an error nothing is returned, and the error says at which byte the batch at fault starts.
pub fn split(bytes: Bytes) -> Result<Vec<Batch>, BatchError> {
    split_with(bytes, false)
}

/// As [`split`], but leaves out a last batch that is cut, as it may be in the answer to a fetch.
pub fn split_prefix(bytes: Bytes) -> Result<Vec<Batch>, BatchError> {
    split_with(bytes, true)
}

fn split_with(bytes: Bytes, may_be_cut: bool) -> Result<Vec<Batch>, BatchError> {
    let mut batches = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let rest = &bytes[start..];
        let length = match whole_len(rest) {
            Err(BatchError::Truncated { .. }) if may_be_cut => break,
            result => result.map_err(|error| error.shifted(start))?,
        };
        check_crc(&rest[..length]).map_err(|error| error.shifted(start))?;
        let header = BatchHeader::parse(rest).map_err(|error| error.shifted(start))?;
        batches.push(Batch { header, bytes: bytes.slice(start..start + length) });
        start += length;
    }
    Ok(batches)
}

/// Bytes of the batch at the start of `bytes`, all of which are there.
pub(crate) fn whole_len(bytes: &[u8]) -> Result<usize, BatchError> {
    let needed = header::total_len(bytes)?;
    if needed > bytes.len() {
        return Err(BatchError::Truncated { at: 0, needed, found: bytes.len() });
    }
    Ok(needed)
}

/// `batch` is exactly one batch.
pub(crate) fn check_crc(batch: &[u8]) -> Result<(), BatchError> {
    let stated = u32::from_be_bytes(header::field(batch, at::CRC));
    let computed = crc32c::crc32c(&batch[at::ATTRIBUTES..]);
    if stated == computed { Ok(()) } else { Err(BatchError::Crc { at: 0, stated, computed }) }
}

pub(crate) fn put_crc(batch: &mut [u8]) -> u32 {
    let crc = crc32c::crc32c(&batch[at::ATTRIBUTES..]);
    header::put(batch, at::CRC, crc.to_be_bytes());
    crc
}

/// Writes the base offset and the leader epoch into a batch; both lie outside its CRC. Panics if `batch` is shorter
/// than a header.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch) {
    header::put(batch, at::BASE_OFFSET, base_offset.get().to_be_bytes());
    header::put(batch, at::LEADER_EPOCH, leader_epoch.get().to_be_bytes());
}

/// States another session and sequence of the producer, and recomputes the CRC. `batch` is exactly one batch. Panics if
/// it is shorter than a header.
pub fn set_producer(batch: &mut [u8], id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) {
    header::put(batch, at::PRODUCER_ID, id.get().to_be_bytes());
    header::put(batch, at::PRODUCER_EPOCH, epoch.get().to_be_bytes());
    header::put(batch, at::BASE_SEQUENCE, base_sequence.get().to_be_bytes());
    put_crc(batch);
}

/// Makes `now` the timestamp of every record of the batch (LogAppendTime), and recomputes the CRC. `batch` is exactly
/// one batch. Panics if it is shorter than a header.
pub fn set_append_time(batch: &mut [u8], now: TimestampMs) {
    let bits = Attributes::with_append_time(i16::from_be_bytes(header::field(batch, at::ATTRIBUTES)));
    header::put(batch, at::ATTRIBUTES, bits.to_be_bytes());
    header::put(batch, at::MAX_TIMESTAMP, now.get().to_be_bytes());
    put_crc(batch);
}
