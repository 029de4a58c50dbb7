//! The records of one compressed batch, checked as they are unpacked: in a window that slides over them.
//!
//! Invariant: the window has no more than twice of what is needed at a time: a record of the greatest size that is allowed, what
//! the codec looks back into, and a piece of what it yields.

use bytes::Bytes;
use highwater_types::TimestampMs;

use crate::compression::{DecompressError, Output, Stream, WINDOW_LEN};
use crate::header::BatchHeader;
use crate::validate::CheckedRecords;
use crate::varint::Cursor;
use crate::{BatchError, Compression, ProduceLimits, RecordProblem};

pub(crate) struct Sliding {
    stream: Stream<Bytes>,
    window: Output,
    /// In the window: behind the last record that was checked.
    position: usize,
    checked: CheckedRecords,
    /// Bytes behind the last record that there should be.
    extra: usize,
}

/// What is at a position.
enum Next {
    /// A record, or what passes for none whatever follows.
    Whole,
    /// The beginning of one.
    Cut,
    TooLarge(usize),
}

impl Sliding {
    pub fn over(codec: Compression, body: Bytes) -> Result<Self, DecompressError> {
        let (window, checked) = (Output::default(), CheckedRecords::default());
        Ok(Self { stream: Stream::open(codec, body)?, window, position: 0, checked, extra: 0 })
    }

    /// Unpacks the next piece, if it has at most `left` bytes, and says how many it has. `None`: there is no more.
    pub fn fill(&mut self, left: usize) -> Result<Option<usize>, DecompressError> {
        let length = self.window.filled().len();
        let done_with = self.position.saturating_sub(WINDOW_LEN);
        // Not for less: each byte is moved once at most.
        if done_with >= length - done_with {
            self.window.forget(done_with);
            self.position -= done_with;
        }
        let before = self.window.filled().len();
        let more = self.stream.next(left, &mut self.window)?;
        Ok(more.then(|| self.window.filled().len() - before))
    }

    /// Checks what is there as far as records are whole.
    pub fn check(&mut self, header: &BatchHeader, limits: &ProduceLimits) -> Result<(), BatchError> {
        let mut cursor = Cursor::new(self.window.filled(), self.position);
        while self.checked.lack_some_of(header) {
            match next(cursor, limits.record_bytes_max) {
                Next::Whole => self.checked.next(header, limits, &mut cursor)?,
                Next::Cut => break,
                Next::TooLarge(size) => return Err(self.checked.next_is_too_large(size, limits.record_bytes_max)),
            }
        }
        self.position = cursor.position;
        if !self.checked.lack_some_of(header) {
            self.extra = self.extra.saturating_add(cursor.remaining());
            self.position += cursor.remaining();
        }
        Ok(())
    }

    /// There is no more: the greatest timestamp of the records.
    pub fn end(mut self, header: &BatchHeader, limits: &ProduceLimits) -> Result<TimestampMs, BatchError> {
        let mut cursor = Cursor::new(self.window.filled(), self.position);
        while self.checked.lack_some_of(header) {
            self.checked.next(header, limits, &mut cursor)?;
        }
        self.checked.end(self.extra + cursor.remaining())
    }
}

fn next(mut cursor: Cursor<'_>, record_bytes_max: usize) -> Next {
    let start = cursor.position;
    match cursor.varint() {
        Err(RecordProblem::Truncated) => Next::Cut,
        Err(_) => Next::Whole,
        Ok(length) => {
            let Ok(length) = usize::try_from(length) else { return Next::Whole };
            let size = length.saturating_add(cursor.position - start);
            if size > record_bytes_max {
                Next::TooLarge(size)
            } else if length > cursor.remaining() {
                Next::Cut
            } else {
                Next::Whole
            }
        }
    }
}
