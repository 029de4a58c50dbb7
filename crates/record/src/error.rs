//! Why bytes were refused as record batches.

use highwater_types::ErrorCode;

use crate::Compression;

/// What is wrong with a batch. `at` is the position, in the bytes that were handed in, of the first byte of the
/// batch at fault: nothing before it is at fault, and nothing of the input was accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("record batch at byte {at} is cut: it needs {needed} bytes, {found} are there")]
    Truncated { at: usize, needed: usize, found: usize },
    #[error("record batch at byte {at} has magic {found}; only magic 2 (record batch v2) is supported")]
    Magic { at: usize, found: i8 },
    #[error("record batch at byte {at} states a length of {stated} after its first 12 bytes; at least 49 is needed")]
    Length { at: usize, stated: i32 },
    #[error("record batch at byte {at} is damaged: it states CRC-32C {stated:#010x}, its bytes give {computed:#010x}")]
    Crc { at: usize, stated: u32, computed: u32 },
    #[error("record batch at byte {at} has {field} {found}, which can't be: {why}")]
    Field { at: usize, field: &'static str, found: i64, why: &'static str },
    #[error("record batch at byte {at} states {stated} records, {found} are in it")]
    Count { at: usize, stated: i64, found: i64 },
    #[error("record batch at byte {at}, record {index}: {problem}")]
    Record { at: usize, index: u32, problem: RecordProblem },
    #[error("record batch at byte {at}, {records}")]
    Refused { at: usize, records: RefusedRecords },
    #[error("record batch at byte {at} has {extra} bytes after its last record")]
    Trailing { at: usize, extra: usize },
    #[error("record batch at byte {at} can't be decompressed as {codec}: {reason}")]
    Decompress { at: usize, codec: Compression, reason: String },
    #[error("record batch at byte {at} decompresses to more than the {limit} bytes allowed")]
    DecompressedTooLarge { at: usize, limit: usize },
    #[error("record batch at byte {at} has compression codec {id}; known are 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd")]
    UnsupportedCompression { at: usize, id: u8 },
    #[error("record batch at byte {at} is {size} bytes; at most {limit} are allowed")]
    BatchTooLarge { at: usize, size: usize, limit: usize },
    #[error("record batch at byte {at}, record {index} is {size} bytes; at most {limit} are allowed")]
    RecordTooLarge { at: usize, index: u32, size: usize, limit: usize },
    #[error("record batch at byte {at} is not allowed: {rule}")]
    Rule { at: usize, rule: &'static str },
    #[error("there is no record batch in the {found} bytes sent")]
    Empty { found: usize },
    #[error("the record batch being built can't take this record: {why}")]
    Builder { why: &'static str },
    #[error("compressing the record batch as {codec} failed: {reason}")]
    Compress { codec: Compression, reason: String },
}

/// Records of a batch that is sound, each of which is not allowed for itself (KIP-467): the batch would be taken without them. Not
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RefusedRecords {
    /// The first of them, and what is wrong with each.
    pub named: Vec<(u32, RecordProblem)>,
    /// Further ones.
    pub more: u32,
}

impl RefusedRecords {
    /// So many are named: of a batch of nothing else, an answer would be larger than the batch.
    pub const NAMED_MAX: usize = 1_000;

    #[cold]
    pub(crate) fn push(&mut self, index: u32, problem: RecordProblem) {
        if self.named.len() < Self::NAMED_MAX {
            self.named.push((index, problem));
        } else {
            self.more += 1;
        }
    }
}

impl std::fmt::Display for RefusedRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some((index, problem)) = self.named.first() else { return Ok(()) };
        write!(f, "record {index}: {problem}")?;
        match self.named.len() - 1 + self.more as usize {
            0 => Ok(()),
            1 => f.write_str("; and one more record that is not allowed"),
            others => write!(f, "; and {others} more records that are not allowed"),
        }
    }
}

/// What is wrong with one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    #[error("the bytes end in the middle of it")]
    Truncated,
    #[error("a variable-length number is longer than its type allows")]
    Varint,
    #[error("{field} has length {found}, which can't be")]
    Length { field: &'static str, found: i64 },
    #[error("its fields end {extra} bytes before its stated length")]
    Trailing { extra: usize },
    #[error("its offset delta is {found}, not {expected}")]
    OffsetDelta { found: i64, expected: i64 },
    #[error("its timestamp is out of range")]
    Timestamp,
    #[error("it has {found} headers, which can't be")]
    HeaderCount { found: i64 },
    #[error("it has no key, and the topic is compacted (cleanup.policy): give it one, or use another topic")]
    NoKey,
    #[error("it is not a control record: {0}")]
    Control(&'static str),
}

impl RecordProblem {
    /// Whether the record is sound as such, and merely not allowed.
    pub(crate) const fn is_refusal(self) -> bool {
        matches!(self, Self::NoKey | Self::Timestamp)
    }
}

impl BatchError {
    /// The code that crosses process boundaries.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. }
            | Self::Magic { .. }
            | Self::Length { .. }
            | Self::Crc { .. }
            | Self::Field { .. }
            | Self::Count { .. }
            | Self::Record { .. }
            | Self::Trailing { .. }
            | Self::Decompress { .. } => ErrorCode::CorruptBatch,
            Self::DecompressedTooLarge { .. } | Self::BatchTooLarge { .. } => ErrorCode::BatchTooLarge,
            Self::RecordTooLarge { .. } => ErrorCode::RecordTooLarge,
            Self::UnsupportedCompression { .. } => ErrorCode::UnsupportedCompression,
            Self::Rule { .. } | Self::Refused { .. } | Self::Builder { .. } => ErrorCode::InvalidRecord,
            Self::Empty { .. } => ErrorCode::InvalidRequest,
            Self::Compress { .. } => ErrorCode::Internal,
        }
    }

    /// The same error for a batch that starts `by` bytes further into the input.
    #[must_use]
    pub(crate) fn shifted(mut self, by: usize) -> Self {
        match &mut self {
            Self::Truncated { at, .. }
            | Self::Magic { at, .. }
            | Self::Length { at, .. }
            | Self::Crc { at, .. }
            | Self::Field { at, .. }
            | Self::Count { at, .. }
            | Self::Record { at, .. }
            | Self::Refused { at, .. }
            | Self::Trailing { at, .. }
            | Self::Decompress { at, .. }
            | Self::DecompressedTooLarge { at, .. }
            | Self::UnsupportedCompression { at, .. }
            | Self::BatchTooLarge { at, .. }
            | Self::RecordTooLarge { at, .. }
            | Self::Rule { at, .. } => *at += by,
            Self::Empty { .. } | Self::Builder { .. } | Self::Compress { .. } => {}
        }
        self
    }
}
