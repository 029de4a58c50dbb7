//! The network, under tonic: what listens and what connects.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

/// A byte stream both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An [`Io`] of either kind of network.
pub struct BoxedIo {
    io: Box<dyn Io>,
    peer: Option<IpAddr>,
}

impl BoxedIo {
    pub fn new(io: impl Io) -> Self {
        Self { io: Box::new(io), peer: None }
    }

    /// From where it was accepted.
    #[must_use]
    pub fn from_peer(self, peer: IpAddr) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// Who is at the other end, of an accepted one in a real network.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

impl AsyncRead for BoxedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxedIo {
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

impl Connected for BoxedIo {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

/// A bound port.
#[async_trait]
pub trait Listener: Send + 'static {
    /// The port really bound, where 0 was asked for.
    fn port(&self) -> u16;
    async fn accept(&mut self) -> io::Result<BoxedIo>;
}

/// What binds and connects.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    async fn bind(&self, host: &str, port: u16) -> io::Result<Box<dyn Listener>>;
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedIo>;
}

/// Real TCP, without Nagle's delay (with it, small calls wait for delayed acknowledgements).
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNet;

struct TcpListener(tokio::net::TcpListener, u16);

#[async_trait]
impl Listener for TcpListener {
    fn port(&self) -> u16 {
        self.1
    }
    async fn accept(&mut self) -> io::Result<BoxedIo> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        Ok(BoxedIo::new(stream).from_peer(peer.ip()))
    }
}

#[async_trait]
impl Net for TcpNet {
    async fn bind(&self, host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        let listener = tokio::net::TcpListener::bind((host, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Box::new(TcpListener(listener, port)))
    }
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedIo> {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        Ok(BoxedIo::new(stream))
    }
}

/// The connections of `listener`, for tonic's `serve_with_incoming`. Errors of single connections (out of
/// descriptors, reset in the queue) do not end it.
pub fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<BoxedIo>> + Send {
    futures::stream::unfold(listener, |mut listener| async move {
        loop {
            match listener.accept().await {
                Ok(io) => return Some((Ok(io), listener)),
                // Out of descriptors: the pause keeps a full server from spinning.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

/// A gRPC channel to one node that connects when first used and again after a loss. Silent peers are noticed by
/// HTTP/2 keep-alive (3 s + 3 s).
pub fn channel(net: &Arc<dyn Net>, host: &str, port: u16) -> Channel {
    // The authority is only a label: the connector below goes to host and port.
    let endpoint = Endpoint::from_static("http://highwater")
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        // What the peer may send in one frame: large answers come in few pieces.
        .max_frame_size(1 << 20)
        .tcp_nodelay(true);
    let (net, host) = (Arc::clone(net), host.to_owned());
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (net, host) = (Arc::clone(&net), host.clone());
        async move { net.connect(&host, port).await.map(TokioIo::new) }
    }))
}
