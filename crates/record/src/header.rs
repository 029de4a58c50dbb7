//! The 61 bytes in front of every record batch.
//!
//! Invariant: a [`BatchHeader`] that parsed is consistent in itself (lengths, counts and offsets can't overflow what
//! is computed from them). It says nothing about the bytes behind it; only a [`crate::Batch`] does.

use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::{BatchError, Compression};

/// Bytes of the header of a record batch.
pub const HEADER_LEN: usize = 61;
/// The only version of the format that is read and written.
pub const MAGIC: i8 = 2;
/// Bytes that the stated batch length does not count: base offset and the length itself.
pub const LENGTH_PREFIX: usize = 12;
/// The fewest bytes that an uncompressed record can have: each of its seven fields in one byte.
pub(crate) const RECORD_LEN_MIN: usize = 7;

pub(crate) mod at {
    pub const BASE_OFFSET: usize = 0;
    pub const LENGTH: usize = 8;
    pub const LEADER_EPOCH: usize = 12;
    pub const MAGIC: usize = 16;
    pub const CRC: usize = 17;
    /// The CRC covers everything from here on.
    pub const ATTRIBUTES: usize = 21;
    pub const LAST_OFFSET_DELTA: usize = 23;
    pub const BASE_TIMESTAMP: usize = 27;
    pub const MAX_TIMESTAMP: usize = 35;
    pub const PRODUCER_ID: usize = 43;
    pub const PRODUCER_EPOCH: usize = 51;
    pub const BASE_SEQUENCE: usize = 53;
    pub const RECORD_COUNT: usize = 57;
}

/// The attribute bits of a batch. Only made from bits whose codec is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes {
    bits: i16,
    compression: Compression,
}

impl Attributes {
    const CODEC_MASK: i16 = 0b111;
    const APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    const KNOWN: i16 = Self::CODEC_MASK | Self::APPEND_TIME | Self::TRANSACTIONAL | Self::CONTROL;

    pub const fn new(compression: Compression, timestamp_type: TimestampType) -> Self {
        let time = match timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => Self::APPEND_TIME,
        };
        Self { bits: compression.id() as i16 | time, compression }
    }
    #[must_use]
    pub const fn transactional(self) -> Self {
        Self { bits: self.bits | Self::TRANSACTIONAL, ..self }
    }
    #[must_use]
    pub const fn control(self) -> Self {
        Self { bits: self.bits | Self::CONTROL, ..self }
    }
    /// `Err` with the codec's id if it is not known. Bits without a meaning here are kept.
    pub const fn from_bits(bits: i16) -> Result<Self, u8> {
        let id = (bits & Self::CODEC_MASK) as u8;
        match Compression::from_id(id) {
            Some(compression) => Ok(Self { bits, compression }),
            None => Err(id),
        }
    }
    pub const fn bits(self) -> i16 {
        self.bits
    }
    pub const fn compression(self) -> Compression {
        self.compression
    }
    pub const fn timestamp_type(self) -> TimestampType {
        if self.bits & Self::APPEND_TIME == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }
    pub const fn is_transactional(self) -> bool {
        self.bits & Self::TRANSACTIONAL != 0
    }
    pub const fn is_control(self) -> bool {
        self.bits & Self::CONTROL != 0
    }
    #[must_use]
    pub(crate) const fn uncompressed(self) -> Self {
        Self { bits: self.bits & !Self::CODEC_MASK, compression: Compression::None }
    }
    #[must_use]
    pub(crate) const fn with_bits(self, bits: i16) -> Self {
        Self { bits: self.bits | (bits & !Self::CODEC_MASK), ..self }
    }
    pub(crate) const fn has_unknown_bits(self) -> bool {
        self.bits & !Self::KNOWN != 0
    }
    pub(crate) const fn with_append_time(bits: i16) -> i16 {
        bits | Self::APPEND_TIME
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attributes")
            .field("compression", &self.compression)
            .field("timestamp_type", &self.timestamp_type())
            .field("transactional", &self.is_transactional())
            .field("control", &self.is_control())
            .field("bits", &format_args!("{:#06x}", self.bits))
            .finish()
    }
}

/// The parsed header of a record batch v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record; written by the leader, 0 or so from a producer.
    pub base_offset: Offset,
    /// Bytes after this field; see [`BatchHeader::total_len`].
    pub batch_length: i32,
    /// The leader that appended it; written by the leader.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    pub attributes: Attributes,
    /// Offset of the last record, less the base offset. Kept by compaction even if that record goes.
    pub last_offset_delta: i32,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: Sequence,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads and sanity-checks the header at the start of `bytes`; what follows it is not looked at, and may be cut.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        total_len(bytes)?;
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(BatchError::Truncated { at: 0, needed: HEADER_LEN, found: bytes.len() });
        };
        let attributes = Attributes::from_bits(i16::from_be_bytes(field(head, at::ATTRIBUTES)))
            .map_err(|id| BatchError::UnsupportedCompression { at: 0, id })?;
        let header = Self {
            base_offset: Offset::new(i64::from_be_bytes(field(head, at::BASE_OFFSET))),
            batch_length: i32::from_be_bytes(field(head, at::LENGTH)),
            leader_epoch: LeaderEpoch::new(i32::from_be_bytes(field(head, at::LEADER_EPOCH))),
            crc: u32::from_be_bytes(field(head, at::CRC)),
            attributes,
            last_offset_delta: i32::from_be_bytes(field(head, at::LAST_OFFSET_DELTA)),
            base_timestamp: TimestampMs::new(i64::from_be_bytes(field(head, at::BASE_TIMESTAMP))),
            max_timestamp: TimestampMs::new(i64::from_be_bytes(field(head, at::MAX_TIMESTAMP))),
            producer_id: ProducerId::new(i64::from_be_bytes(field(head, at::PRODUCER_ID))),
            producer_epoch: ProducerEpoch::new(i16::from_be_bytes(field(head, at::PRODUCER_EPOCH))),
            base_sequence: Sequence::new(i32::from_be_bytes(field(head, at::BASE_SEQUENCE))),
            record_count: i32::from_be_bytes(field(head, at::RECORD_COUNT)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        let bad = |field, found, why| Err(BatchError::Field { at: 0, field, found, why });
        let (base, delta) = (self.base_offset.get(), self.last_offset_delta);
        if base < 0 {
            return bad("base offset", base, "offsets start at 0");
        }
        if delta < 0 {
            return bad("last offset delta", delta.into(), "the last record can't be before the first");
        }
        if base > i64::MAX - i64::from(delta) - 1 {
            return bad("base offset", base, "the offsets of its records would overflow");
        }
        let count = i64::from(self.record_count);
        if count < 0 || count > i64::from(delta) + 1 {
            return bad("record count", count, "it must lie between 0 and the last offset delta + 1");
        }
        let body = self.total_len() - HEADER_LEN;
        if self.attributes.compression() == Compression::None && self.record_count as usize > body / RECORD_LEN_MIN {
            return bad("record count", count, "so many records don't fit into its bytes");
        }
        Ok(())
    }

    /// Bytes of the whole batch, this header included.
    pub fn total_len(&self) -> usize {
        self.batch_length as usize + LENGTH_PREFIX
    }
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta.into())
    }
    /// The offset after the last record: the base offset of the batch that follows.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }
}

/// Bytes of the whole batch that starts `bytes`, of which at least [`MAGIC`]'s position must be there. Checks nothing
/// but magic and length, so that a damaged batch is told by its CRC and not by whichever field was hit.
pub(crate) fn total_len(bytes: &[u8]) -> Result<usize, BatchError> {
    if bytes.len() <= at::MAGIC {
        return Err(BatchError::Truncated { at: 0, needed: HEADER_LEN, found: bytes.len() });
    }
    let found = bytes[at::MAGIC] as i8;
    if found != MAGIC {
        return Err(BatchError::Magic { at: 0, found });
    }
    let stated = i32::from_be_bytes(field(bytes, at::LENGTH));
    if stated < (HEADER_LEN - LENGTH_PREFIX) as i32 {
        return Err(BatchError::Length { at: 0, stated });
    }
    Ok(stated as usize + LENGTH_PREFIX)
}

/// `N` bytes from `position` on, which the caller knows to be there.
pub(crate) fn field<const N: usize>(bytes: &[u8], position: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[position..position + N]);
    out
}

/// Writes `value` at `position`, which the caller knows to be there.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], position: usize, value: [u8; N]) {
    bytes[position..position + N].copy_from_slice(&value);
}
