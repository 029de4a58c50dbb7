//! Records, as they lie in the bytes of a batch.
//!
//! Invariant: reading a record allocates nothing that its own bytes do not pay for; keys, values and headers are slices.

use std::ops::Range;

use bytes::Bytes;
use highwater_types::{Offset, TimestampMs, TimestampType};

use crate::varint::Cursor;
use crate::{BatchError, BatchHeader, RecordProblem};

/// One record. Its bytes are slices of the batch (or of what it decompressed to), which they keep in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    /// The producer's clock, or the leader's at append if the batch says so.
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// In the producer's order; names may repeat.
    pub headers: Vec<Header>,
}

/// A header of a record. The name is UTF-8 by convention; nothing on the way checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: Bytes,
    pub value: Option<Bytes>,
}

impl Header {
    /// The name as text; what is not UTF-8 is replaced.
    pub fn name_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }
}

/// Where the parts of one record lie.
pub(crate) struct Layout {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    /// The first header's position and how many there are.
    pub headers_at: usize,
    pub header_count: u32,
    /// Just behind the record.
    pub end: usize,
}

impl Layout {
    /// Reads the record at `cursor`, its headers excepted, and checks every length in it.
    #[inline(always)]
    pub fn read(cursor: &mut Cursor<'_>) -> Result<Self, RecordProblem> {
        let stated = cursor.varint()?;
        let length =
            usize::try_from(stated).map_err(|_| RecordProblem::Length { field: "the record", found: stated.into() })?;
        if length > cursor.remaining() {
            return Err(RecordProblem::Truncated);
        }
        let end = cursor.position + length;
        let mut inner = cursor.until(end);
        let _attributes = inner.byte()?;
        let timestamp_delta = inner.varlong()?;
        let offset_delta = inner.varint()?;
        let key = nullable(&mut inner, "the key")?;
        let value = nullable(&mut inner, "the value")?;
        let count = inner.varint()?;
        // A header takes two bytes at least.
        let header_count = u32::try_from(count).ok().filter(|&n| n as usize <= inner.remaining() / 2);
        let header_count = header_count.ok_or(RecordProblem::HeaderCount { found: count.into() })?;
        cursor.position = end;
        Ok(Self { timestamp_delta, offset_delta, key, value, headers_at: inner.position, header_count, end })
    }

    /// Calls `each` with the name and value of every header, and checks that they end where the record does.
    #[inline(always)]
    pub fn headers(
        &self,
        body: &[u8],
        mut each: impl FnMut(Range<usize>, Option<Range<usize>>),
    ) -> Result<(), RecordProblem> {
        let mut cursor = Cursor::new(&body[..self.end], self.headers_at);
        for _ in 0..self.header_count {
            let name = nullable(&mut cursor, "a header's name")?;
            let name = name.ok_or(RecordProblem::Length { field: "a header's name", found: -1 })?;
            each(name, nullable(&mut cursor, "a header's value")?);
        }
        match cursor.remaining() {
            0 => Ok(()),
            extra => Err(RecordProblem::Trailing { extra }),
        }
    }
}

/// A length, -1 for null, and as many bytes.
#[inline(always)]
fn nullable(cursor: &mut Cursor<'_>, field: &'static str) -> Result<Option<Range<usize>>, RecordProblem> {
    match cursor.varint()? {
        -1 => Ok(None),
        length if length < 0 => Err(RecordProblem::Length { field, found: length.into() }),
        length => {
            let start = cursor.skip(length as usize)?;
            Ok(Some(start..cursor.position))
        }
    }
}

/// The records of a batch, in order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records {
    header: BatchHeader,
    body: Bytes,
    position: usize,
    index: u32,
    left: u32,
}

impl Records {
    pub(crate) fn new(header: BatchHeader, body: Bytes) -> Self {
        // Not negative: the header was parsed.
        Self { header, body, position: 0, index: 0, left: header.record_count as u32 }
    }

    fn read(&mut self) -> Result<Record, RecordProblem> {
        let mut cursor = Cursor::new(&self.body, self.position);
        let layout = Layout::read(&mut cursor)?;
        let delta = layout.offset_delta;
        if delta < 0 || delta > self.header.last_offset_delta {
            let expected = self.header.last_offset_delta.into();
            return Err(RecordProblem::OffsetDelta { found: delta.into(), expected });
        }
        let timestamp = timestamp(&self.header, layout.timestamp_delta).ok_or(RecordProblem::Timestamp)?;
        let slice = |range: Range<usize>| self.body.slice(range);
        let mut headers = Vec::with_capacity(layout.header_count.min(8) as usize);
        layout
            .headers(&self.body, |name, value| headers.push(Header { name: slice(name), value: value.map(slice) }))?;
        let record = Record {
            offset: self.header.base_offset.plus(delta.into()),
            timestamp,
            key: layout.key.clone().map(slice),
            value: layout.value.clone().map(slice),
            headers,
        };
        self.position = layout.end;
        Ok(record)
    }
}

/// The timestamp of a record: its own, or the batch's if the leader set it. `None` if it overflows.
#[inline]
pub(crate) fn timestamp(header: &BatchHeader, delta: i64) -> Option<TimestampMs> {
    match header.attributes.timestamp_type() {
        TimestampType::LogAppendTime => Some(header.max_timestamp),
        TimestampType::CreateTime => header.base_timestamp.get().checked_add(delta).map(TimestampMs::new),
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match self.read() {
            Ok(record) => {
                self.left -= 1;
                self.index += 1;
                Some(Ok(record))
            }
            Err(problem) => {
                self.left = 0;
                Some(Err(BatchError::Record { at: 0, index: self.index, problem }))
            }
        }
    }

    /// An upper bound only: what is stated is not believed as a lower one.
    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl std::iter::FusedIterator for Records {}
