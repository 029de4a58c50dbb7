//! Requests out of the bytes of a connection.
//!
//! **Invariant**: what is held of a frame is bounded by what has come of it, whatever length it states (T47): room is made
//! and taken from the broker's budget piece by piece, each no larger than what came before.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use highwater_broker::Core;
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
    pub permit: Option<OwnedSemaphorePermit>,
}

/// What a header has besides.
pub(crate) struct Header {
    pub client_id: Option<StrBytes>,
    pub body: Bytes,
}

impl Frame {
    /// Out of a frame without its length. `None`: it is too short.
    pub(crate) fn of(mut frame: Bytes, permit: Option<OwnedSemaphorePermit>) -> Option<Self> {
        let api_key = frame.try_get_i16().ok()?;
        let version = frame.try_get_i16().ok()?;
        let correlation_id = frame.try_get_i32().ok()?;
        Some(Self { api_key, version, correlation_id, rest: frame, permit })
    }

    /// The rest of the header, and what follows it.
    pub(crate) fn header(&self, is_flexible: bool) -> Result<Header, LayoutError> {
        let mut rest = self.rest.clone();
        let stated = rest.try_get_i16().map_err(|_| LayoutError::Cut)?;
        let client_id = match stated {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| LayoutError::Length(length.into()))?;
                if length > rest.len() {
                    return Err(LayoutError::Cut);
                }
                StrBytes::from_utf8(rest.split_to(length)).ok()
            }
        };
        if is_flexible {
            // There are none that we know.
            rest.advance(tagged_fields_len(&rest)?);
        }
        Ok(Header { client_id, body: rest })
    }
}

/// Reads frames. Dropping a call of [`next`](Self::next) loses nothing.
pub(crate) struct FrameReader<R> {
    io: R,
    core: Arc<Core>,
    frame_bytes_max: usize,
    buffer: BytesMut,
    /// For bytes of the frame that is being read.
    permit: Option<OwnedSemaphorePermit>,
    permitted: usize,
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    /// When the last bytes came.
    progress: Instant,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, core: Arc<Core>, frame_bytes_max: usize) -> Self {
        Self {
            io,
            core,
            frame_bytes_max,
            buffer: BytesMut::new(),
            permit: None,
            permitted: 0,
            waiting: None,
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
                    let piece = arrived.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
                    if whole > PIECE_BYTES_MIN {
                        self.permit(whole.min(arrived + piece)).await;
                    }
                    whole.min(arrived + piece)
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
        if bytes <= self.permitted {
            return;
        }
        let more = bytes - self.permitted;
        let at_once = if self.waiting.is_none() { self.core.produce_budget.try_acquire(more) } else { None };
        let permit = match at_once {
            Some(permit) => Some(permit),
            None => {
                let core = Arc::clone(&self.core);
                let waiting = self.waiting.get_or_insert_with(|| {
                    core.partitions.metrics().produce_throttled.inc();
                    Box::pin(async move { core.produce_budget.acquire(more).await })
                });
                let permit = waiting.await;
                self.waiting = None;
                permit
            }
        };
        self.permitted = bytes;
        match (&mut self.permit, permit) {
            (Some(had), Some(more)) => had.merge(more),
            (none, more) => *none = more,
        }
    }

    fn cut(&mut self, length: usize) -> Option<Frame> {
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(length).freeze();
        self.permitted = 0;
        Frame::of(frame, self.permit.take())
    }
}
