//! Walks the batches of a segment file, checking what it is told to check: the one reader that recovery, cold reads,
//! look-ups by time, truncation, healing and the dump share. Blocking: for start-up and [`crate::Disk::execute`].

use std::io;
use std::ops::ControlFlow;

use bytes::Bytes;
use highwater_record::{Batch, BatchHeader, HEADER_LEN};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{LeaderEpoch, Offset};

use crate::disk::DiskFile;

const BLOCK_BYTES: usize = 256 << 10;

/// What is wrong at a position where a batch should start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the file ends in the middle of a batch")]
    Cut,
    #[error("{0}")]
    Header(String),
    #[error("the batch has base offset {found}, not {expected}")]
    Offset { expected: Offset, found: Offset },
    #[error("the batch goes on to offset {found}, across {limit}, where one ends")]
    Past { limit: Offset, found: Offset },
    #[error("the batch has leader epoch {found}, older than {latest} before it")]
    Epoch { latest: LeaderEpoch, found: LeaderEpoch },
    #[error("the batch's CRC-32C is wrong")]
    Crc,
}

/// What is at the scanner's position.
#[derive(Debug)]
pub(crate) enum Found {
    Batch {
        header: BatchHeader,
        position: u64,
    },
    /// The end, exactly between two batches.
    End,
    Bad(Fault),
}

/// Goes through a file batch by batch.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    /// Where the next batch starts.
    position: u64,
    /// Bytes of the file that count.
    end: u64,
    /// The base offset that the next batch must have.
    expected: Offset,
    /// Where the segment's offsets end, if that is known.
    limit: Option<Offset>,
    /// An offset that is known to be where a batch starts or the log ended.
    boundary: Option<Offset>,
    check_crc: bool,
    buffer: Bytes,
    buffer_start: u64,
}

impl<'a> Scanner<'a> {
    /// From the batch with base offset `expected` at `position`, in the first `end` bytes of `file`.
    pub(crate) fn new(file: &'a dyn DiskFile, position: u64, expected: Offset, end: u64) -> Self {
        Self {
            file,
            position,
            end,
            expected,
            limit: None,
            boundary: None,
            check_crc: !mutation::is_on(Mutation::CrcNotChecked),
            buffer: Bytes::new(),
            buffer_start: 0,
        }
    }

    /// Looks at headers only, and does not read what is between them if that is long.
    pub(crate) fn headers_only(mut self) -> Self {
        self.check_crc = false;
        self
    }

    /// The segment ends at offset `limit`: no batch goes past it, and the last one ends there.
    pub(crate) fn until(mut self, limit: Option<Offset>) -> Self {
        self.limit = limit;
        self
    }

    /// No batch reaches across offset `boundary`.
    pub(crate) fn with_boundary(mut self, boundary: Option<Offset>) -> Self {
        self.boundary = boundary;
        self
    }

    /// The offset that a batch reaches across and may not.
    fn crossed(&self, header: &BatchHeader) -> Option<Offset> {
        let next = header.next_offset();
        let boundary = self.boundary.filter(|boundary| header.base_offset < *boundary && *boundary < next);
        self.limit.filter(|limit| next > *limit).or(boundary)
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn expected(&self) -> Offset {
        self.expected
    }

    /// Goes on at another place.
    pub(crate) fn jump(&mut self, position: u64, expected: Offset) {
        (self.position, self.expected) = (position, expected);
    }

    /// Up to `len` bytes from `position`, fewer only where the file ends.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<Bytes> {
        let len = (len as u64).min(self.end.saturating_sub(position)) as usize;
        let buffered =
            position.checked_sub(self.buffer_start).filter(|skip| skip + len as u64 <= self.buffer.len() as u64);
        let skip = match buffered {
            Some(skip) => skip as usize,
            None => {
                let wanted = (len.max(BLOCK_BYTES) as u64).min(self.end.saturating_sub(position)) as usize;
                self.buffer = Bytes::from(self.file.read_at(position, wanted)?);
                self.buffer_start = position;
                0
            }
        };
        Ok(self.buffer.slice(skip..(skip + len).min(self.buffer.len())))
    }

    /// The batch at the present position, which stays.
    pub(crate) fn peek(&mut self) -> io::Result<Found> {
        if self.position >= self.end {
            return Ok(Found::End);
        }
        let head = self.bytes(self.position, HEADER_LEN)?;
        if head.len() < HEADER_LEN {
            return Ok(Found::Bad(Fault::Cut));
        }
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(error) => return Ok(Found::Bad(Fault::Header(error.to_string()))),
        };
        if header.base_offset != self.expected {
            return Ok(Found::Bad(Fault::Offset { expected: self.expected, found: header.base_offset }));
        }
        if let Some(limit) = self.crossed(&header) {
            return Ok(Found::Bad(Fault::Past { limit, found: header.next_offset() }));
        }
        if header.total_len() as u64 > self.end - self.position {
            return Ok(Found::Bad(Fault::Cut));
        }
        if self.check_crc {
            let bytes = self.bytes(self.position, header.total_len())?;
            if Batch::from_bytes(bytes).is_err() {
                return Ok(Found::Bad(Fault::Crc));
            }
        }
        Ok(Found::Batch { header, position: self.position })
    }

    /// The batch at the present position; goes on to the next.
    pub(crate) fn next(&mut self) -> io::Result<Found> {
        let found = self.peek()?;
        if let Found::Batch { header, .. } = &found {
            self.position += header.total_len() as u64;
            self.expected = header.next_offset();
        }
        Ok(found)
    }

    /// The bytes of the batch at `position`, which a scan has found there.
    pub(crate) fn batch_bytes(&mut self, position: u64, header: &BatchHeader) -> io::Result<Bytes> {
        self.bytes(position, header.total_len())
    }

    /// After a fault: the next position that has a good batch with a base offset from the expected one up to `high`,
    /// and that offset. Since a CRC does not cover the base offset, what follows the batch must bear it out.
    pub(crate) fn resync(&mut self, high: Offset) -> io::Result<Option<(u64, Offset)>> {
        let mut position = self.position + 1;
        while position + HEADER_LEN as u64 <= self.end {
            let block = self.bytes(position, BLOCK_BYTES)?;
            if block.len() < HEADER_LEN {
                break;
            }
            let low = self.expected;
            let starts = 0..=block.len() - HEADER_LEN;
            let plausible = |start: &usize| {
                BatchHeader::parse(&block[*start..]).is_ok_and(|header| {
                    (low..=high).contains(&header.base_offset)
                        && header.total_len() as u64 <= self.end - position - *start as u64
                })
            };
            let candidates: Vec<usize> = starts.filter(plausible).collect();
            for start in candidates {
                let at = position + start as u64;
                let header = match BatchHeader::parse(&block[start..]) {
                    Ok(header) => header,
                    Err(_) => continue,
                };
                let whole = self.file.read_at(at, header.total_len())?;
                if Batch::from_bytes(whole.into()).is_ok() && self.is_borne_out(at, &header)? {
                    return Ok(Some((at, header.base_offset)));
                }
            }
            position += (block.len() - HEADER_LEN + 1) as u64;
        }
        Ok(None)
    }
}

impl Scanner<'_> {
    /// Whether the batch at `position` is followed by one that continues its offsets, or ends the segment.
    fn is_borne_out(&self, position: u64, header: &BatchHeader) -> io::Result<bool> {
        let next = position + header.total_len() as u64;
        if self.crossed(header).is_some() {
            return Ok(false);
        }
        if next >= self.end {
            return Ok(self.limit.is_none_or(|limit| limit == header.next_offset()));
        }
        // Its base offset is the first field of a batch. The rest of what follows may be damaged too.
        let follows = self.file.read_at(next, 8)?;
        Ok(follows == header.next_offset().get().to_be_bytes())
    }
}

/// Goes through headers from a batch that is known to start at `position` until `visit` breaks, and returns what it
/// broke with; `None` at the end or at a fault.
pub(crate) fn walk<T>(
    scanner: &mut Scanner<'_>,
    mut visit: impl FnMut(&BatchHeader, u64) -> ControlFlow<T>,
) -> io::Result<Option<T>> {
    while let Found::Batch { header, position } = scanner.next()? {
        if let ControlFlow::Break(value) = visit(&header, position) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
