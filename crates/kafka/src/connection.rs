//! One connection: requests in the order in which they come, answers in the same order.
//!
//! A request begins when the one before it has been answered, as clients of the protocol rely on; only produce requests
//! begin while others of their kind wait to be acknowledged. While one is worked on, the next is read and no more, so that a
//! client that is gone is noticed, and one that sends without end is not read. A large answer is written before
//! the next request begins: a client that does not read its answers holds one.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use highwater_broker::GuardedIo;
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, Sleep};

use crate::apis::produce::Pipeline;
use crate::apis::{self, Api, Broken, Call, Client, Pieces, Run};
use crate::door::Door;
use crate::frame::{Frame, FrameError, FrameReader, Header};
use crate::metrics::Closed;

/// Pieces written at a time.
const SLICES_MAX: usize = 64;
/// Answers that wait to be written while the next request begins: small ones, and few.
const WAITING_MAX: usize = 8;
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Why a connection ends before its client ends it.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("writing an answer: {0}")]
    Write(io::Error),
    #[error("nothing came or went for {0:?}")]
    Silent(Duration),
}

impl End {
    /// `None`: the client is gone.
    fn closed(&self) -> Option<Closed> {
        Some(match self {
            Self::Frame(FrameError::Io(_)) | Self::Write(_) => return None,
            Self::Frame(FrameError::Length { .. } | FrameError::Cut) => Closed::Malformed,
            Self::Broken(Broken::Layout { .. } | Broken::Decode { .. } | Broken::Header(_)) => Closed::Malformed,
            Self::Broken(Broken::UnknownApi { .. } | Broken::UnknownVersion { .. }) => Closed::Unknown,
            Self::Broken(Broken::Refused(_)) => Closed::Refused,
            Self::Broken(Broken::Encode(_) | Broken::NotReady) => Closed::NotAnswered,
            Self::Silent(_) => Closed::Silent,
        })
    }

    /// Whether who runs the client has to be told: it sees a connection that ends, and no reason.
    fn is_puzzling(&self) -> bool {
        match self {
            Self::Frame(FrameError::Length { .. }) => true,
            Self::Frame(_) | Self::Write(_) | Self::Silent(_) | Self::Broken(Broken::NotReady) => false,
            Self::Broken(_) => true,
        }
    }
}

struct Connection {
    door: Arc<Door>,
    client: Arc<Client>,
    reader: FrameReader<ReadHalf<GuardedIo>>,
    writer: Writer<WriteHalf<GuardedIo>>,
    produced: Pipeline,
    /// Read, and not begun.
    next: Option<Frame>,
    /// What is worked on.
    call: Option<BoxFuture<'static, Result<Pieces, Broken>>>,
    timer: Pin<Box<Sleep>>,
    is_stopping: bool,
}

enum Event {
    Written(io::Result<()>),
    Answer(Result<Pieces, Broken>),
    Produced,
    Stopping,
    Read(Result<Option<Frame>, FrameError>),
    Timer,
}

/// Until either side ends it.
pub(crate) async fn serve(io: GuardedIo, door: Arc<Door>) {
    let peer = io.peer();
    let (reader, writer) = tokio::io::split(io);
    let core = Arc::clone(&door.api.core);
    let budget = core.produce_budget.clone();
    let on_wait = Box::new(move || core.partitions.metrics().produce_throttled.inc());
    let reader = FrameReader::new(reader, budget, door.config.request_bytes_max, on_wait);
    let idle = door.config.idle;
    let number = door.api.core.fetch_streams.fetch_add(1, Ordering::Relaxed);
    let mut connection = Connection {
        door,
        client: Arc::new(Client { number, peer, ..Client::default() }),
        reader,
        writer: Writer::new(writer),
        produced: Pipeline::new(),
        next: None,
        call: None,
        timer: Box::pin(tokio::time::sleep(idle)),
        is_stopping: false,
    };
    if let Err(end) = connection.run().await {
        if let Some(why) = end.closed() {
            connection.door.metrics.closed(why);
        }
        let listener = &connection.door.listener;
        let software = connection.client.software.get().map(|(name, _)| &**name);
        match end.is_puzzling().then(|| connection.door.complaints.may_say()).flatten() {
            Some(held_back) => {
                tracing::warn!(%end, listener, ?peer, software, held_back, "closed the connection of a Kafka client");
            }
            None => tracing::debug!(%end, listener, ?peer, software, "a Kafka client's connection is closed"),
        }
    }
}

impl Connection {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            while let Some(answer) = self.produced.answered()? {
                self.writer.push(answer.unwrap_or_default());
            }
            if self.may_begin()
                && let Some(frame) = self.next.take()
            {
                self.begin(frame).await?;
                continue;
            }
            if self.is_stopping && self.call.is_none() && self.produced.is_empty() && self.writer.is_empty() {
                return Ok(());
            }
            self.set_timer();
            match self.event().await {
                Event::Written(written) => written.map_err(End::Write)?,
                Event::Answer(answer) => {
                    self.call = None;
                    self.writer.push(answer?);
                }
                Event::Produced => {}
                Event::Read(read) => match read? {
                    Some(frame) => self.next = Some(frame),
                    None => return Ok(()),
                },
                Event::Stopping => {
                    self.is_stopping = true;
                    self.next = None;
                }
                Event::Timer => self.check_silence()?,
            }
        }
    }

    async fn event(&mut self) -> Event {
        let may_read = self.next.is_none() && !self.is_stopping;
        let has_answers = !self.writer.is_empty();
        let call = self.call.as_mut();
        let stopping = &self.door.api.core.stopping;
        tokio::select! {
            biased;
            written = self.writer.write(), if has_answers => Event::Written(written),
            answer = async { match call {
                Some(call) => call.await,
                None => std::future::pending().await,
            } } => Event::Answer(answer),
            () = self.produced.wait(), if !self.produced.is_empty() => Event::Produced,
            () = stopping.cancelled(), if !self.is_stopping => Event::Stopping,
            read = self.reader.next(), if may_read => Event::Read(read),
            () = &mut self.timer => Event::Timer,
        }
    }

    /// Whether the request that was read may begin now.
    fn may_begin(&self) -> bool {
        if self.call.is_some() || self.writer.has_many() {
            return false;
        }
        let is_produce = self.next.as_ref().is_some_and(|frame| frame.api_key == ApiKey::Produce as i16);
        let bytes_max = self.door.api.core.config.limits.produce_stream_bytes_max;
        self.produced.is_empty() || (is_produce && self.produced.bytes() < bytes_max)
    }

    async fn begin(&mut self, frame: Frame) -> Result<(), Broken> {
        let api = match Api::find(frame.api_key, frame.version) {
            Ok(api) => api,
            Err(Broken::UnknownVersion { api: ApiKey::ApiVersions, .. }) => {
                self.writer.push(vec![apis::unsupported(frame.correlation_id)?]);
                return Ok(());
            }
            Err(broken) => return Err(broken),
        };
        self.door.metrics.request(api.key);
        let Frame { version, correlation_id, rest, share, .. } = frame;
        let is_flexible = api.layout.is_flexible(version);
        let Header { client_id, body } = Header::of(rest, is_flexible).map_err(Broken::Header)?;
        let (door, client) = (Arc::clone(&self.door), Arc::clone(&self.client));
        let call = Call { door, client, client_id, version, correlation_id, is_flexible, share };
        match api.run {
            Run::Call(run) => self.call = Some(run(call, body)),
            Run::Produce => self.produced.take(call, body).await?,
        }
        Ok(())
    }

    /// When silence has lasted too long.
    fn silence_ends(&self) -> (Instant, Duration) {
        let idle = self.door.config.idle;
        let stall_max = Duration::from_millis(self.door.api.core.config.limits.keepalive_ms);
        let (read, has_begun) = self.reader.silent_since();
        let far = |since: Instant, max: Duration| (since + max, max);
        let mut first = far(read.max(self.writer.progress), idle);
        if !self.writer.is_empty() {
            first = first.min(far(self.writer.progress, stall_max));
        }
        // What waits behind a request that is worked on is not late.
        if has_begun && self.next.is_none() {
            first = first.min(far(read, stall_max));
        }
        let is_at_work = self.call.is_some() || !self.produced.is_empty();
        if is_at_work && self.writer.is_empty() && !has_begun {
            // It is this broker's turn.
            first = far(Instant::now(), idle);
        }
        first
    }

    /// The timer is set anew only for an earlier time than it is set for.
    fn set_timer(&mut self) {
        let (ends, _) = self.silence_ends();
        if ends < self.timer.deadline() {
            self.timer.as_mut().reset(ends);
        }
    }

    fn check_silence(&mut self) -> Result<(), End> {
        let (ends, max) = self.silence_ends();
        if ends <= Instant::now() {
            return Err(End::Silent(max));
        }
        self.timer.as_mut().reset(ends);
        Ok(())
    }
}

/// Answers on their way out.
struct Writer<W> {
    io: W,
    pieces: VecDeque<Bytes>,
    /// When bytes were last taken, or there was nothing to take.
    progress: Instant,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    fn new(io: W) -> Self {
        Self { io, pieces: VecDeque::new(), progress: Instant::now() }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether so much waits that nothing should be added.
    fn has_many(&self) -> bool {
        self.pieces.len() > WAITING_MAX || self.pieces.iter().map(Bytes::len).sum::<usize>() > WAITING_BYTES_MAX
    }

    fn push(&mut self, pieces: Pieces) {
        if self.pieces.is_empty() {
            self.progress = Instant::now();
        }
        self.pieces.extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
    }

    /// Writes some. Dropping the call loses nothing.
    async fn write(&mut self) -> io::Result<()> {
        let slices: Vec<_> = self.pieces.iter().take(SLICES_MAX).map(|piece| IoSlice::new(piece)).collect();
        let mut written = self.io.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.progress = Instant::now();
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
        Ok(())
    }
}
