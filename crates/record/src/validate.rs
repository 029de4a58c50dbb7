//! The checks on what a producer sent, before it is appended.
//!
//! Invariant: what passes here can be read back by any client of the format, costs no more than the limits say to
//! read, and claims nothing that only the broker may write (control batches, append time).

use bytes::Bytes;
use highwater_types::{ProducerEpoch, ProducerId, Sequence, TimestampMs, TimestampType};

use crate::batch::{self, decompress_error};
use crate::compression::{self, DecompressError};
use crate::header::{BatchHeader, HEADER_LEN};
use crate::record::{Layout, timestamp};
use crate::sliding::Sliding;
use crate::varint::Cursor;
use crate::{Batch, BatchError, Compression, RecordProblem, RefusedRecords};

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

/// To how much a batch may unpack to be checked at once: more than producers usually put into one, and little enough for each of many
/// threads.
const AT_ONCE_BYTES_MAX: usize = 4 << 20;

/// Checks the batches that a producer sent, one after the other in `bytes`, wholly: CRC, the structure of every record
/// (inside compression too), offset deltas 0, 1, 2 ... to the stated count, timestamps, sizes, and that nothing is
/// claimed that only the broker may. On an error nothing is returned.
///
/// A greatest timestamp that the records do not bear out is corrected, as Kafka does: retention and look-up by time
/// go by it, and some clients do not set it.
///
/// All in one go; a broker, whose threads serve others too, goes step by step: [`Validation`].
pub fn validate_produce(bytes: Bytes, limits: &ProduceLimits) -> Result<Vec<Batch>, BatchError> {
    let mut validation = Validation::new(bytes, *limits);
    loop {
        if let Step::Done(batches) = validation.advance(&mut { usize::MAX }, true)? {
            return Ok(batches);
        }
    }
}

/// [`validate_produce`] in steps, each of which takes a bounded time, however many records a stranger packed into few bytes (T47).
///
/// What unpacks to no more than 4 MiB is unpacked at once, and nothing of it is kept from one step to the next. What unpacks to more
/// is checked in a window that slides over it, and kept from step to step: about twice a record of the greatest size, and what the
/// codec looks back into (`large`). Only with zstd windows beyond 8 MiB and with unframed snappy is that up to all of it.
pub struct Validation {
    bytes: Bytes,
    limits: ProduceLimits,
    /// Where the batch begins that is checked, or is next.
    start: usize,
    checked: Vec<Batch>,
    /// To how much further batches may unpack.
    left: usize,
    /// The batch at `start`, if it is one to check in a window.
    large: Option<Batch>,
    /// As far as it is checked.
    sliding: Option<Sliding>,
    at_once_bytes_max: usize,
}

/// What came of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Done(Vec<Batch>),
    /// There is more to do.
    More,
    /// There is more to do, with `may_be_large` only.
    Large,
}

impl Validation {
    pub fn new(bytes: Bytes, limits: ProduceLimits) -> Self {
        Self {
            bytes,
            limits,
            start: 0,
            checked: Vec::with_capacity(1),
            left: limits.decompressed_bytes_max,
            large: None,
            sliding: None,
            at_once_bytes_max: AT_ONCE_BYTES_MAX,
        }
    }

    /// Goes on until about `budget` bytes of records, unpacked, were looked at; what was is taken from it. `may_be_large`: whether
    /// what is large may be checked too, which keeps memory until it is done; for one at a time. Not to be called after an error.
    pub fn advance(&mut self, budget: &mut usize, may_be_large: bool) -> Result<Step, BatchError> {
        self.step(budget, may_be_large).map_err(|error| error.shifted(self.start))
    }

    fn step(&mut self, budget: &mut usize, may_be_large: bool) -> Result<Step, BatchError> {
        if self.bytes.is_empty() {
            return Err(BatchError::Empty { found: 0 });
        }
        let mut unpacked = Vec::new();
        loop {
            if let Some(batch) = self.large.take() {
                if !may_be_large {
                    self.large = Some(batch);
                    return Ok(Step::Large);
                }
                match self.slide(&batch, budget)? {
                    Some(max_timestamp) => self.accept(batch, max_timestamp),
                    None => {
                        self.large = Some(batch);
                        return Ok(Step::More);
                    }
                }
            }
            if self.start == self.bytes.len() {
                return Ok(Step::Done(std::mem::take(&mut self.checked)));
            }
            if *budget == 0 {
                return Ok(Step::More);
            }
            let rest = &self.bytes[self.start..];
            let length = check_envelope(rest, &self.limits)?;
            let batch = Batch::from_bytes(self.bytes.slice(self.start..self.start + length))?;
            check_rules(batch.header())?;
            match self.check_at_once(&batch, &mut unpacked, budget)? {
                Some(max_timestamp) => self.accept(batch, max_timestamp),
                None => self.large = Some(batch),
            }
        }
    }

    fn accept(&mut self, batch: Batch, max_timestamp: TimestampMs) {
        self.start += batch.bytes().len();
        self.checked.push(if max_timestamp == batch.header().max_timestamp {
            batch
        } else {
            batch.with_max_timestamp(max_timestamp)
        });
    }

    /// The greatest timestamp of its records. `None` if it is too large for this.
    fn check_at_once(
        &mut self,
        batch: &Batch,
        unpacked: &mut Vec<u8>,
        budget: &mut usize,
    ) -> Result<Option<TimestampMs>, BatchError> {
        let body = &batch.bytes()[HEADER_LEN..];
        let codec = batch.header().attributes.compression();
        let records = if codec == Compression::None {
            body
        } else {
            let most = self.left.min(self.at_once_bytes_max);
            match compression::decompress(codec, body, most, unpacked) {
                Ok(()) => self.left -= unpacked.len(),
                Err(DecompressError::TooLarge) if most < self.left => {
                    *budget = budget.saturating_sub(most);
                    return Ok(None);
                }
                Err(error) => return Err(self.decompress_error(codec, error)),
            }
            unpacked
        };
        *budget = budget.saturating_sub(records.len());
        let mut checked = CheckedRecords::default();
        let mut cursor = Cursor::new(records, 0);
        while checked.lack_some_of(batch.header()) {
            checked.next(batch.header(), &self.limits, &mut cursor)?;
        }
        checked.end(cursor.remaining()).map(Some)
    }

    /// The greatest timestamp of its records. `None` if the budget ended first.
    fn slide(&mut self, batch: &Batch, budget: &mut usize) -> Result<Option<TimestampMs>, BatchError> {
        let header = batch.header();
        let codec = header.attributes.compression();
        let mut sliding = match self.sliding.take() {
            Some(sliding) => sliding,
            None => {
                Sliding::over(codec, batch.bytes().slice(HEADER_LEN..)).map_err(|e| self.decompress_error(codec, e))?
            }
        };
        while *budget > 0 {
            match sliding.fill(self.left).map_err(|error| self.decompress_error(codec, error))? {
                Some(length) => {
                    self.left -= length;
                    *budget = budget.saturating_sub(length);
                    sliding.check(header, &self.limits)?;
                }
                None => return sliding.end(header, &self.limits).map(Some),
            }
        }
        self.sliding = Some(sliding);
        Ok(None)
    }

    fn decompress_error(&self, codec: Compression, error: DecompressError) -> BatchError {
        decompress_error(codec, self.limits.decompressed_bytes_max, error)
    }
}

fn check_envelope(rest: &[u8], limits: &ProduceLimits) -> Result<usize, BatchError> {
    let size = crate::header::total_len(rest)?;
    if size > limits.batch_bytes_max {
        return Err(BatchError::BatchTooLarge { at: 0, size, limit: limits.batch_bytes_max });
    }
    batch::whole_len(rest)
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

/// The records of a batch that were checked.
#[derive(Default)]
pub(crate) struct CheckedRecords {
    count: u32,
    max_timestamp: Option<TimestampMs>,
    /// Told once all were checked: the batch may yet be found unsound.
    refused: RefusedRecords,
}

impl CheckedRecords {
    #[inline]
    pub fn lack_some_of(&self, header: &BatchHeader) -> bool {
        // Not negative: the header was parsed; at least 1: the last offset delta is not negative.
        self.count < header.record_count as u32
    }

    /// Checks the one at `cursor`, which lacks only if the records end there.
    #[inline]
    pub fn next(
        &mut self,
        header: &BatchHeader,
        limits: &ProduceLimits,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), BatchError> {
        let index = self.count;
        if cursor.remaining() == 0 {
            return Err(BatchError::Count { at: 0, stated: header.record_count.into(), found: index.into() });
        }
        let start = cursor.position;
        let timestamp = match check_record(header, cursor, index, limits.keys_required) {
            Ok(timestamp) => timestamp,
            Err(problem) if problem.is_refusal() => {
                self.refused.push(index, problem);
                TimestampMs::NONE
            }
            Err(problem) => return Err(BatchError::Record { at: 0, index, problem }),
        };
        let size = cursor.position - start;
        if size > limits.record_bytes_max {
            return Err(BatchError::RecordTooLarge { at: 0, index, size, limit: limits.record_bytes_max });
        }
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(Some(timestamp));
        Ok(())
    }

    /// As [`next`](Self::next) if it is larger than is allowed.
    pub fn next_is_too_large(&self, size: usize, limit: usize) -> BatchError {
        BatchError::RecordTooLarge { at: 0, index: self.count, size, limit }
    }

    /// All were checked, and `extra` bytes are left: the greatest timestamp.
    pub fn end(self, extra: usize) -> Result<TimestampMs, BatchError> {
        if extra > 0 {
            return Err(BatchError::Trailing { at: 0, extra });
        }
        if !self.refused.named.is_empty() {
            return Err(BatchError::Refused { at: 0, records: self.refused });
        }
        Ok(self.max_timestamp.unwrap_or(TimestampMs::NONE))
    }
}

#[inline]
fn check_record(
    header: &BatchHeader,
    cursor: &mut Cursor<'_>,
    index: u32,
    key_required: bool,
) -> Result<TimestampMs, RecordProblem> {
    let layout = Layout::read(cursor)?;
    if i64::from(layout.offset_delta) != i64::from(index) {
        return Err(RecordProblem::OffsetDelta { found: layout.offset_delta.into(), expected: index.into() });
    }
    layout.headers(cursor.bytes(), |_, _| {})?;
    // Refusals come last: what is refused is sound.
    if key_required && layout.key.is_none() {
        return Err(RecordProblem::NoKey);
    }
    timestamp(header, layout.timestamp_delta).filter(|&t| t >= TimestampMs::NONE).ok_or(RecordProblem::Timestamp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::BatchBuilder;

    const LIMITS: ProduceLimits = ProduceLimits {
        batch_bytes_max: 1 << 20,
        record_bytes_max: 50_000,
        decompressed_bytes_max: 400_000,
        keys_required: false,
    };

    fn batch(codec: Compression, values: &[Vec<u8>]) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec, None);
        for (index, value) in values.iter().enumerate() {
            builder.append(TimestampMs::new(1000 - index as i64), Some(b"k"), Some(value), &[("h", None)]).unwrap();
        }
        builder.build().unwrap().to_vec()
    }

    /// With what is more than `at_once` checked in a window, and `budget` a step.
    fn in_steps(bytes: &[u8], at_once: usize, budget: usize) -> Result<Vec<Batch>, BatchError> {
        let mut validation = Validation::new(Bytes::copy_from_slice(bytes), LIMITS);
        validation.at_once_bytes_max = at_once;
        let mut may_be_large = false;
        loop {
            match validation.advance(&mut { budget }, may_be_large)? {
                Step::Done(batches) => return Ok(batches),
                Step::More => {}
                Step::Large => {
                    assert!(!may_be_large);
                    may_be_large = true;
                }
            }
        }
    }

    fn values() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let short = proptest::collection::vec(any::<u8>(), 0..20);
        let long = (any::<u8>(), 0usize..49_900).prop_map(|(byte, length)| vec![byte; length]);
        proptest::collection::vec(prop_oneof![6 => short, 1 => long], 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn steps_find_what_one_go_finds(
            values in proptest::collection::vec(values(), 1..4),
            at_once in 0usize..100_000,
            budget in 1usize..200_000,
        ) {
            for codec in Compression::ALL {
                let bytes: Vec<u8> = values.iter().flat_map(|values| batch(codec, values)).collect();
                prop_assert_eq!(in_steps(&bytes, at_once, budget), validate_produce(bytes.into(), &LIMITS));
            }
        }

        /// Records that are not: whatever is wrong with them is found in either way, if perhaps not the same first.
        #[test]
        fn steps_refuse_what_one_go_refuses(
            values in values(),
            hits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
            cut in 0usize..3,
            budget in 1usize..200_000,
        ) {
            let plain = batch(Compression::None, &values);
            let mut body = plain[HEADER_LEN..].to_vec();
            for (position, byte) in hits {
                let position = position % body.len();
                body[position] = byte;
            }
            body.truncate(body.len() - cut.min(body.len() - 1));
            for codec in Compression::ALL {
                let mut bytes = plain[..HEADER_LEN].to_vec();
                compression::compress(codec, None, &body, &mut bytes).unwrap();
                let length = (bytes.len() - crate::LENGTH_PREFIX) as i32;
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
                bytes[22] = codec.id();
                batch::put_crc(&mut bytes);
                let (stepwise, at_once) = (in_steps(&bytes, 0, budget), in_steps(&bytes, 1 << 20, budget));
                match (&stepwise, &at_once) {
                    (Err(BatchError::RecordTooLarge { .. }), Err(_)) => {}
                    _ => prop_assert_eq!(&stepwise, &at_once, "{}", codec),
                }
            }
        }
    }

    #[test]
    fn t47_a_step_ends_soon_and_what_is_large_waits_to_be_allowed() {
        let values = vec![vec![0; 40_000]; 9];
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let bytes = [batch(codec, &[b"small".to_vec()]), batch(codec, &values)].concat();
            let mut validation = Validation::new(bytes.into(), LIMITS);
            validation.at_once_bytes_max = 50_000;
            assert_eq!(validation.advance(&mut 1, false), Ok(Step::More), "{codec}");
            assert_eq!(validation.advance(&mut 100_000, false), Ok(Step::Large), "{codec}");
            assert_eq!(validation.advance(&mut 100_000, false), Ok(Step::Large), "{codec}");
            let mut steps = 0;
            let batches = loop {
                let mut budget = 100_000;
                match validation.advance(&mut budget, true).unwrap() {
                    Step::Done(batches) => break batches,
                    step => assert_eq!((step, budget), (Step::More, 0), "{codec}"),
                }
                steps += 1;
            };
            assert!(batches.len() == 2 && steps >= 2, "{codec} took {steps} steps");
        }
    }
}
