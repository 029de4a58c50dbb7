//! What a connection may cost before it has shown that it speaks the door's protocol, and how many there may be.
//!
//! **Invariant**: a peer that opens a connection and says nothing, or not enough, holds a descriptor for a bounded time. After
//! that the protocol's own means (as HTTP/2 keep-alive) notice silence.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use highwater_seams::{BoxedIo, Listener, incoming};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use crate::metrics::BrokerMetrics;

/// The client's part of the HTTP/2 handshake: the preface and the head of its settings.
pub(crate) const HTTP2_HANDSHAKE_BYTES: usize = 24 + 9;

/// The connections of `listener` as far as there is room; those beyond are closed at once. Each has to say the first
/// `handshake_bytes` within `handshake`.
pub(crate) fn guarded(
    listener: Box<dyn Listener>,
    room: Arc<Semaphore>,
    handshake: Duration,
    handshake_bytes: usize,
    metrics: Arc<BrokerMetrics>,
) -> impl Stream<Item = io::Result<GuardedIo>> + Send {
    incoming(listener).filter_map(move |accepted| {
        let guarded = match accepted {
            Err(error) => Some(Err(error)),
            Ok(io) => match Arc::clone(&room).try_acquire_owned() {
                Ok(permit) => Some(Ok(GuardedIo::new(io, (handshake, handshake_bytes), permit, Arc::clone(&metrics)))),
                Err(_) => {
                    metrics.connections_refused.inc();
                    tracing::warn!("a connection is closed: there are too many");
                    None
                }
            },
        };
        std::future::ready(guarded)
    })
}

/// A connection that must begin to speak in time.
pub struct GuardedIo {
    io: BoxedIo,
    /// Until enough has been read.
    handshake: Option<(Pin<Box<Sleep>>, usize)>,
    _room: OwnedSemaphorePermit,
    metrics: Arc<BrokerMetrics>,
}

impl Drop for GuardedIo {
    fn drop(&mut self) {
        self.metrics.connections_closed.inc();
    }
}

impl GuardedIo {
    fn new(
        io: BoxedIo,
        (time, bytes): (Duration, usize),
        room: OwnedSemaphorePermit,
        metrics: Arc<BrokerMetrics>,
    ) -> Self {
        metrics.connections_accepted.inc();
        let timer = Box::pin(tokio::time::sleep(time));
        Self { io, handshake: Some((timer, bytes)), _room: room, metrics }
    }

    /// Who is at the other end, if the network tells.
    pub fn peer(&self) -> Option<IpAddr> {
        self.io.peer()
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if let Some((timer, missing)) = &mut self.handshake {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.handshake = None;
            } else if read.is_pending() && timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Connected for GuardedIo {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
