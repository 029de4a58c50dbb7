//! The checks on what a producer sent, before it is appended.
//!
//! Invariant: what passes here can be read back by any client of the format, costs no more than the limits say to
//! read, and claims nothing that only the broker may write (control batches, append time).

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use highwater_types::{ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::batch::{self, decompress_error};
use crate::compression::{self, DecompressError};
use crate::header::{BatchHeader, HEADER_LEN};
use crate::record::{Layout, timestamp};
use crate::varint::Cursor;
use crate::{Batch, BatchError, Compression, RecordProblem};

/// What a producer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceLimits {
    /// Largest batch, header included, compressed as it is.
    pub batch_bytes_max: usize,
    /// Largest record, as it is once decompressed.
    pub record_bytes_max: usize,
    /// To how much all batches of one call may decompress together.
    pub decompressed_bytes_max: usize,
    /// Whether every record must have a key, as compaction needs.
    pub keys_required: bool,
}

impl Default for ProduceLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: 1 << 20,
            record_bytes_max: 1 << 20,
            decompressed_bytes_max: 64 << 20,
            keys_required: false,
        }
    }
}

/// Checks the batches that a producer sent, one after the other in `bytes`, wholly: CRC, the structure of every record
/// (inside compression too), offset deltas 0, 1, 2 ... to the stated count, timestamps, sizes, and that nothing is
/// claimed that only the broker may. On an error nothing is returned.
///
/// A greatest timestamp that the records do not bear out is corrected, as Kafka does: retention and look-up by time
/// go by it, and some clients do not set it.
pub fn validate_produce(bytes: Bytes, limits: &ProduceLimits) -> Result<Vec<Batch>, BatchError> {
    if bytes.is_empty() {
        return Err(BatchError::Empty { found: 0 });
    }
    let mut batches = Vec::with_capacity(1);
    let mut unpacking = Unpacking { left: limits.decompressed_bytes_max, ..Unpacking::default() };
    let mut start = 0;
    while start < bytes.len() {
        let rest = &bytes[start..];
        let length = check_envelope(rest, limits).map_err(|error| error.shifted(start))?;
        let batch = Batch::from_bytes(bytes.slice(start..start + length)).map_err(|error| error.shifted(start))?;
        let max_timestamp = check_batch(&batch, limits, &mut unpacking).map_err(|error| error.shifted(start))?;
        batches.push(if max_timestamp == batch.header().max_timestamp {
            batch
        } else {
            batch.with_max_timestamp(max_timestamp)
        });
        start += length;
    }
    Ok(batches)
}

fn check_envelope(rest: &[u8], limits: &ProduceLimits) -> Result<usize, BatchError> {
    let size = crate::header::total_len(rest)?;
    if size > limits.batch_bytes_max {
        return Err(BatchError::BatchTooLarge { at: 0, size, limit: limits.batch_bytes_max });
    }
    batch::whole_len(rest)
}

/// What one thread unpacks at a time without asking the others: more than batches of records have, and little enough for each of
/// many threads.
const UNPACKED_FREELY_BYTES_MAX: usize = 16 << 20;
/// For all that is larger: one at a time, however many strangers send what is small and unpacks to much (T47).
static LARGE: Mutex<()> = Mutex::new(());

/// The records of one compressed batch after the other, unpacked.
#[derive(Default)]
struct Unpacking {
    records: Vec<u8>,
    /// Until `records` is gone.
    large: Option<MutexGuard<'static, ()>>,
    /// To how much further batches may unpack.
    left: usize,
}

impl Unpacking {
    fn unpack(&mut self, codec: Compression, packed: &[u8]) -> Result<&[u8], DecompressError> {
        let freely = self.left.min(UNPACKED_FREELY_BYTES_MAX);
        let mut unpacked = match self.large {
            Some(_) => Err(DecompressError::TooLarge),
            None => compression::decompress(codec, packed, freely, &mut self.records),
        };
        if unpacked == Err(DecompressError::TooLarge) && freely < self.left {
            self.records = Vec::new();
            self.large.get_or_insert_with(|| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
            // Room for all at once takes memory only as it is filled; a buffer that grows, as it otherwise does, has its bytes twice.
            let _ = self.records.try_reserve_exact(self.left.saturating_add(1 << 10));
            unpacked = compression::decompress(codec, packed, self.left, &mut self.records);
        }
        unpacked?;
        self.left -= self.records.len();
        Ok(&self.records)
    }
}

/// The greatest timestamp of its records.
fn check_batch(batch: &Batch, limits: &ProduceLimits, unpacking: &mut Unpacking) -> Result<TimestampMs, BatchError> {
    let header = batch.header();
    check_rules(header)?;
    let body = &batch.bytes()[HEADER_LEN..];
    match header.attributes.compression() {
        Compression::None => check_records(header, body, limits),
        codec => {
            let records = unpacking.unpack(codec, body);
            let records = records.map_err(|error| decompress_error(codec, limits.decompressed_bytes_max, error))?;
            check_records(header, records, limits)
        }
    }
}

fn check_rules(header: &BatchHeader) -> Result<(), BatchError> {
    let rule = |rule| Err(BatchError::Rule { at: 0, rule });
    let attributes = header.attributes;
    if attributes.is_control() {
        return rule("a producer can't write control batches");
    }
    if attributes.has_unknown_bits() {
        return rule("it has attribute bits that are not in use");
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        return rule("a producer can't state append time; the leader sets it where the topic asks for it");
    }
    if header.producer_id == ProducerId::NONE {
        if attributes.is_transactional() {
            return rule("it is transactional, and has no producer id");
        }
    } else if header.producer_id < ProducerId::NONE {
        return rule("its producer id is negative");
    } else if header.producer_epoch < ProducerEpoch::FIRST || header.base_sequence < Sequence::FIRST {
        return rule("it has a producer id, and no producer epoch or sequence");
    }
    let (stated, found) = (i64::from(header.last_offset_delta) + 1, i64::from(header.record_count));
    if stated != found {
        return Err(BatchError::Count { at: 0, stated, found });
    }
    Ok(())
}

fn check_records(header: &BatchHeader, body: &[u8], limits: &ProduceLimits) -> Result<TimestampMs, BatchError> {
    let mut cursor = Cursor::new(body, 0);
    let mut max_timestamp = i64::MIN;
    // Not negative: the header was parsed; at least 1: the last offset delta is not negative.
    let count = header.record_count as u32;
    for index in 0..count {
        if cursor.remaining() == 0 {
            return Err(BatchError::Count { at: 0, stated: count.into(), found: index.into() });
        }
        let start = cursor.position;
        let timestamp = check_record(header, body, &mut cursor, index, limits.keys_required)
            .map_err(|problem| BatchError::Record { at: 0, index, problem })?;
        let size = cursor.position - start;
        if size > limits.record_bytes_max {
            return Err(BatchError::RecordTooLarge { at: 0, index, size, limit: limits.record_bytes_max });
        }
        max_timestamp = max_timestamp.max(timestamp.get());
    }
    match cursor.remaining() {
        0 => Ok(TimestampMs::new(max_timestamp)),
        extra => Err(BatchError::Trailing { at: 0, extra }),
    }
}

#[inline]
fn check_record(
    header: &BatchHeader,
    body: &[u8],
    cursor: &mut Cursor<'_>,
    index: u32,
    key_required: bool,
) -> Result<TimestampMs, RecordProblem> {
    let layout = Layout::read(cursor)?;
    if key_required && layout.key.is_none() {
        return Err(RecordProblem::NoKey);
    }
    if i64::from(layout.offset_delta) != i64::from(index) {
        return Err(RecordProblem::OffsetDelta { found: layout.offset_delta.into(), expected: index.into() });
    }
    layout.headers(body, |_, _| {})?;
    timestamp(header, layout.timestamp_delta).filter(|&t| t >= TimestampMs::NONE).ok_or(RecordProblem::Timestamp)
}
