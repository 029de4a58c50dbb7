//! Requests out of the bytes of a connection.
//!
//! **Invariant**: what is held of a frame is bounded by what has come, whatever length it states (T47): room is made and taken
//! from the broker's budget piece by piece, each no larger than what has come of it, or than the frame before it was. So a
//! producer of large requests has each read into one buffer of its size, and nothing of it is moved as it grows. Where all
//! that have some wait for more, one of them at a time goes on beyond the budget, and no further than its frame.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use highwater_broker::Budget;
use kafka_protocol::protocol::StrBytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::layout::{LayoutError, tagged_fields_len};

/// The first piece of a frame.
const PIECE_BYTES_MIN: usize = 32 << 10;
/// Later ones.
const PIECE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a frame's length.
const LENGTH_BYTES: usize = 4;
/// Key, version and correlation id.
const HEAD_BYTES: usize = 8;

/// The bytes of the first request, at the least.
pub(crate) const HANDSHAKE_BYTES: usize = LENGTH_BYTES + HEAD_BYTES;

/// Why a connection is closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a frame of {stated} bytes; at most {max} are allowed")]
    Length { stated: i32, max: usize },
    #[error("the connection ended within a request")]
    Cut,
}

/// One request: its header's fixed part, the rest still to be read.
pub(crate) struct Frame {
    pub api_key: i16,
    pub version: i16,
    pub correlation_id: i32,
    /// From the client id on.
    pub rest: Bytes,
    /// Its share of the broker's budget.
    pub share: Share,
}

/// Of the broker's budget. Given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// `None`: too small to count, or given on to what keeps the records.
    pub permit: Option<OwnedSemaphorePermit>,
    /// There was not enough for all of it: see [`Budget::overdraft`].
    overdraft: Option<OwnedSemaphorePermit>,
}

enum Room {
    Permit(Option<OwnedSemaphorePermit>),
    Overdraft(Option<OwnedSemaphorePermit>),
}

/// What a header has besides.
pub(crate) struct Header {
    /// A copy: the frame's memory is for who takes the body.
    pub client_id: Option<StrBytes>,
    pub body: Bytes,
}

impl Frame {
    /// Out of a frame without its length. `None`: it is too short.
    pub(crate) fn of(mut frame: Bytes, share: Share) -> Option<Self> {
        let api_key = frame.try_get_i16().ok()?;
        let version = frame.try_get_i16().ok()?;
        let correlation_id = frame.try_get_i32().ok()?;
        Some(Self { api_key, version, correlation_id, rest: frame, share })
    }
}

impl Header {
    /// The rest of a frame's header, and what follows it.
    pub(crate) fn of(mut rest: Bytes, is_flexible: bool) -> Result<Self, LayoutError> {
        let stated = rest.try_get_i16().map_err(|_| LayoutError::Cut)?;
        let client_id = match stated {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| LayoutError::Length(length.into()))?;
                if length > rest.len() {
                    return Err(LayoutError::Cut);
                }
                StrBytes::from_utf8(Bytes::copy_from_slice(&rest.split_to(length))).ok()
            }
        };
        if is_flexible {
            // There are none that we know.
            rest.advance(tagged_fields_len(&rest)?);
        }
        Ok(Self { client_id, body: rest })
    }
}

/// Told each time a frame has to wait for room.
type OnWait = Box<dyn Fn() + Send>;

/// Reads frames. Dropping a call of [`next`](Self::next) loses nothing.
pub(crate) struct FrameReader<R> {
    io: R,
    budget: Budget,
    on_wait: OnWait,
    frame_bytes_max: usize,
    buffer: BytesMut,
    /// For bytes of the frame that is being read.
    share: Share,
    permitted: usize,
    waiting: Option<BoxFuture<'static, Room>>,
    /// Bytes of the frame before.
    before: usize,
    /// When the last bytes came.
    progress: Instant,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, budget: Budget, frame_bytes_max: usize, on_wait: OnWait) -> Self {
        Self {
            io,
            budget,
            on_wait,
            frame_bytes_max,
            buffer: BytesMut::new(),
            share: Share::default(),
            permitted: 0,
            waiting: None,
            before: 0,
            progress: Instant::now(),
        }
    }

    /// Since when nothing came, and whether a frame has begun and is not whole.
    pub(crate) fn silent_since(&self) -> (Instant, bool) {
        (self.progress, !self.buffer.is_empty())
    }

    /// The next request; `None`: the connection ended after a whole one.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let wanted = match self.length()? {
                None => LENGTH_BYTES,
                Some(length) => {
                    let whole = LENGTH_BYTES + length;
                    let arrived = self.buffer.len();
                    if arrived >= whole {
                        self.permit(length).await;
                        let frame = self.cut(length);
                        return Ok(Some(frame.ok_or(FrameError::Cut)?));
                    }
                    let room = room(whole, arrived, self.before);
                    if whole > PIECE_BYTES_MIN {
                        self.permit(room).await;
                    }
                    room
                }
            };
            let arrived = self.buffer.len();
            self.buffer.reserve(wanted.max(arrived + PIECE_BYTES_MIN) - arrived);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
            }
            self.progress = Instant::now();
        }
    }

    /// The length of the frame that the buffer begins with.
    fn length(&self) -> Result<Option<usize>, FrameError> {
        let Some(head) = self.buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let stated = i32::from_be_bytes(*head);
        let length = usize::try_from(stated).ok().filter(|length| (HEAD_BYTES..=self.frame_bytes_max).contains(length));
        length.map(Some).ok_or(FrameError::Length { stated, max: self.frame_bytes_max })
    }

    /// Waits until `bytes` of the frame are within the broker's budget.
    async fn permit(&mut self, bytes: usize) {
        if bytes <= self.permitted || self.share.overdraft.is_some() {
            return;
        }
        let had = self.permitted;
        let at_once = if self.waiting.is_none() { self.budget.try_grow(had, bytes) } else { None };
        let room = match at_once {
            Some(permit) => Room::Permit(Some(permit)),
            None => {
                let (budget, on_wait) = (self.budget.clone(), &self.on_wait);
                let waiting = self.waiting.get_or_insert_with(|| {
                    on_wait();
                    Box::pin(async move {
                        tokio::select! {
                            biased;
                            permit = budget.grow(had, bytes) => Room::Permit(permit),
                            // Who has nothing holds nobody up.
                            overdraft = budget.overdraft(), if had > 0 => Room::Overdraft(overdraft),
                        }
                    })
                });
                let room = waiting.await;
                self.waiting = None;
                room
            }
        };
        match room {
            Room::Overdraft(overdraft) => self.share.overdraft = overdraft,
            Room::Permit(more) => {
                self.permitted = bytes;
                match (&mut self.share.permit, more) {
                    (Some(had), Some(more)) => had.merge(more),
                    (none, more) => *none = more,
                }
            }
        }
    }

    fn cut(&mut self, length: usize) -> Option<Frame> {
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() && length > PIECE_BYTES_MIN {
            // Its memory is its own.
            self.buffer = BytesMut::new();
        }
        (self.permitted, self.before) = (0, length);
        Frame::of(frame, std::mem::take(&mut self.share))
    }
}

/// Up to where there is to be room for a frame of `whole` bytes of which some have arrived.
fn room(whole: usize, arrived: usize, before: usize) -> usize {
    whole.min(arrived + arrived.max(before).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX))
}

/// Reads frames as a connection does, and does nothing with them: for tests with bytes of all kinds, in pieces of all sizes. Those
/// that came whole, each from its API key on, and whether the connection ended after one.
pub async fn read_frames(io: impl AsyncRead + Unpin, frame_bytes_max: usize) -> (Vec<Bytes>, bool) {
    let mut reader = FrameReader::new(io, Budget::new(frame_bytes_max), frame_bytes_max, Box::new(|| {}));
    let mut frames = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(frame)) => {
                let mut whole = BytesMut::with_capacity(HEAD_BYTES + frame.rest.len());
                whole.put_i16(frame.api_key);
                whole.put_i16(frame.version);
                whole.put_i32(frame.correlation_id);
                whole.put_slice(&frame.rest);
                frames.push(whole.freeze());
            }
            Ok(None) => return (frames, true),
            Err(_) => return (frames, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    const BUDGET: usize = 1 << 20;

    fn reader(io: tokio::io::DuplexStream, budget: &Budget) -> FrameReader<tokio::io::DuplexStream> {
        FrameReader::new(io, budget.clone(), 16 << 20, Box::new(|| {}))
    }

    fn frame(length: usize) -> Vec<u8> {
        [&(length as u32).to_be_bytes()[..], &vec![1; length]].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_wait_for_each_others_room_come_through_one_by_one() {
        let budget = Budget::new(BUDGET);
        // Half of each has come before the rest of any.
        let whole = frame(BUDGET * 9 / 10);
        let (first, rest) = whole.split_at(whole.len() / 2);
        let mut readings = Vec::new();
        let mut writers = Vec::new();
        for _ in 0..4 {
            let (mut ours, theirs) = duplex(4 << 20);
            ours.write_all(first).await.unwrap();
            writers.push(ours);
            let mut reader = reader(theirs, &budget);
            readings.push(tokio::spawn(async move { reader.next().await.unwrap().unwrap().rest.len() }));
        }
        tokio::task::yield_now().await;
        for writer in &mut writers {
            writer.write_all(rest).await.unwrap();
        }
        for reading in readings {
            // Time passes only when nothing else can happen.
            let length =
                tokio::time::timeout(Duration::from_secs(1), reading).await.expect("none waits for ever").unwrap();
            assert_eq!(length, whole.len() - LENGTH_BYTES - HEAD_BYTES);
        }
        assert_eq!(budget.used(), 0, "all is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_larger_than_the_budget_comes_through_alone() {
        let budget = Budget::new(BUDGET);
        let (mut ours, theirs) = duplex(8 << 20);
        ours.write_all(&frame(3 * BUDGET)).await.unwrap();
        let mut reader = reader(theirs, &budget);
        let read = tokio::time::timeout(Duration::from_secs(1), reader.next()).await.expect("it does not wait");
        assert_eq!(read.unwrap().unwrap().rest.len(), 3 * BUDGET - HEAD_BYTES);
    }

    #[test]
    fn trap_47_room_is_made_for_no_more_than_has_come() {
        let stated = 100 << 20;
        assert_eq!(room(stated, 4, 0), 4 + PIECE_BYTES_MIN);
        assert_eq!(room(stated, 1 << 20, 0), 2 << 20);
        assert_eq!(room(stated, 4, 1 << 20), 4 + (1 << 20), "as much as the frame before had");
        assert_eq!(room(stated, 4, stated), 4 + PIECE_BYTES_MAX);
        assert_eq!(room(1_000, 4, stated), 1_000);
    }
}
