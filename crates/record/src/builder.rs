//! Building a batch, as a producer does.

use bytes::Bytes;
use highwater_types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::header::{self, Attributes, HEADER_LEN, LENGTH_PREFIX, MAGIC, at};
use crate::{BatchError, Compression, batch, compression, varint};

/// Collects records into one buffer, and makes a batch of them: base offset 0, leader epoch -1.
///
/// Records go straight to where they lie in an uncompressed batch; a compressed one takes a second buffer at the end.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    buffer: Vec<u8>,
    compression: Compression,
    level: Option<i32>,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: Sequence,
    transactional: bool,
}

/// No batch can be larger: its length is 32 bit, signed.
const BATCH_LEN_MAX: usize = i32::MAX as usize;

impl BatchBuilder {
    /// `level` is the codec's own (gzip 0 to 9, zstd from negative to 19; others have none), clamped; `None` for its
    /// default.
    pub fn new(compression: Compression, level: Option<i32>) -> Self {
        Self::with_capacity(compression, level, 4096)
    }

    /// With room for records of so many bytes, so that appending never moves them.
    pub fn with_capacity(compression: Compression, level: Option<i32>, bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(HEADER_LEN + bytes);
        buffer.resize(HEADER_LEN, 0);
        Self {
            buffer,
            compression,
            level,
            base_timestamp: -1,
            max_timestamp: -1,
            count: 0,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: Sequence::NONE,
            transactional: false,
        }
    }

    /// States the producer's session and the sequence of the first record.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
    }

    pub fn set_transactional(&mut self, transactional: bool) {
        self.transactional = transactional;
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch if it were built now without compression.
    pub fn estimated_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The most bytes that such a record can take in a batch.
    pub fn record_bytes_max(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) -> usize {
        // Attributes 1, timestamp delta 10, and 5 for each of length, offset delta, key, value and header count.
        let fixed = 36 + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        headers.iter().fold(fixed, |sum, (name, value)| sum + 10 + name.len() + value.map_or(0, <[u8]>::len))
    }

    /// Appends a record and returns its index. Refused only if the batch would pass the format's own bounds (2 GiB,
    /// 2^31 records) or the timestamps are centuries of centuries apart; then nothing has changed.
    pub fn append(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<u32, BatchError> {
        self.append_with(timestamp, key, value, headers.iter().map(|&(name, value)| (name.as_bytes(), value)))
    }

    /// As [`BatchBuilder::append`], for headers that are held in any other way.
    pub fn append_with<'a, H>(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<u32, BatchError>
    where
        H: IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        H::IntoIter: Clone,
    {
        let refused = |why| Err(BatchError::Builder { why });
        let headers = headers.into_iter();
        let first = self.count == 0;
        let base = if first { timestamp.get() } else { self.base_timestamp };
        let Some(timestamp_delta) = timestamp.get().checked_sub(base) else {
            return refused("its timestamp is too far from the first record's");
        };
        let offset_delta = i64::from(self.count);
        let mut header_count = 0i64;
        let mut length = 1 + varint::length(timestamp_delta) + varint::length(offset_delta);
        length = length.saturating_add(nullable_length(key)).saturating_add(nullable_length(value));
        for (name, value) in headers.clone() {
            header_count += 1;
            length = length.saturating_add(nullable_length(Some(name))).saturating_add(nullable_length(value));
        }
        length = length.saturating_add(varint::length(header_count));
        // 5 for the record's own length.
        if length > BATCH_LEN_MAX - 5 - self.buffer.len() {
            return refused("the batch would be larger than 2 GiB");
        }
        if self.count == i32::MAX {
            return refused("the batch has 2^31 - 1 records");
        }

        let out = &mut self.buffer;
        out.reserve(length + 5);
        varint::put(out, length as i64);
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put_nullable(out, key);
        put_nullable(out, value);
        varint::put(out, header_count);
        for (name, value) in headers {
            put_nullable(out, Some(name));
            put_nullable(out, value);
        }

        self.base_timestamp = base;
        self.max_timestamp = if first { timestamp.get() } else { self.max_timestamp.max(timestamp.get()) };
        self.count += 1;
        Ok(offset_delta as u32)
    }

    /// The batch. Fails if there is no record in it, or if the codec fails.
    pub fn build(self) -> Result<Bytes, BatchError> {
        let attributes = Attributes::new(self.compression, TimestampType::CreateTime);
        self.finish(attributes)
    }

    pub(crate) fn finish(mut self, attributes: Attributes) -> Result<Bytes, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Builder { why: "there is no record to build a batch of" });
        }
        let attributes = if self.transactional { attributes.transactional() } else { attributes };
        if self.compression != Compression::None {
            let codec = self.compression;
            let mut packed = vec![0; HEADER_LEN];
            compression::compress(codec, self.level, &self.buffer[HEADER_LEN..], &mut packed)
                .map_err(|reason| BatchError::Compress { codec, reason })?;
            if packed.len() > BATCH_LEN_MAX {
                return Err(BatchError::Builder { why: "the batch is larger than 2 GiB" });
            }
            self.buffer = packed;
        }
        let out = &mut self.buffer[..];
        let length = (out.len() - LENGTH_PREFIX) as i32;
        header::put(out, at::LENGTH, length.to_be_bytes());
        header::put(out, at::MAGIC, MAGIC.to_be_bytes());
        header::put(out, at::ATTRIBUTES, attributes.bits().to_be_bytes());
        header::put(out, at::LAST_OFFSET_DELTA, (self.count - 1).to_be_bytes());
        header::put(out, at::BASE_TIMESTAMP, self.base_timestamp.to_be_bytes());
        header::put(out, at::MAX_TIMESTAMP, self.max_timestamp.to_be_bytes());
        header::put(out, at::PRODUCER_ID, self.producer_id.get().to_be_bytes());
        header::put(out, at::PRODUCER_EPOCH, self.producer_epoch.get().to_be_bytes());
        header::put(out, at::BASE_SEQUENCE, self.base_sequence.get().to_be_bytes());
        header::put(out, at::RECORD_COUNT, self.count.to_be_bytes());
        batch::stamp(out, Offset::ZERO, LeaderEpoch::NONE);
        batch::put_crc(out);
        Ok(self.buffer.into())
    }
}

#[inline]
fn nullable_length(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |b| varint::length(b.len() as i64).saturating_add(b.len()))
}

#[inline]
fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return varint::put(out, -1) };
    varint::put(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}
