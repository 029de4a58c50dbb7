//! The network of a simulated cluster: turmoil's, behind the same seam as the real one. Beyond what turmoil does to messages,
//! connections can be broken here, as a router or a peer's kernel does it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use highwater_seams::{BoxedIo, Listener, Net};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

/// All connections of one simulation. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    /// By the order in which they were made.
    ends: BTreeMap<u64, End>,
    made: u64,
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    /// The host it is on, and the other one.
    hosts: (String, String),
    is_reset: bool,
    /// Who waits to read and to write.
    waiting: [Option<Waker>; 2],
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        // A poisoned list of connections is still one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as `host` sees it.
    pub fn of(&self, host: &str) -> SimNet {
        SimNet { host: host.to_owned(), connections: self.clone() }
    }

    /// Breaks every connection for whose two hosts `is_hit` says so: both its ends fail from now on, and what was under way on it
    /// is lost. Returns how many connections' ends that were. The hosts are named in both orders.
    pub fn reset(&self, is_hit: impl Fn(&str, &str) -> bool) -> usize {
        let mut woken = Vec::new();
        let mut hit = 0;
        for end in self.open().ends.values_mut() {
            let (a, b) = &end.hosts;
            if !end.is_reset && (is_hit(a, b) || is_hit(b, a)) {
                end.is_reset = true;
                hit += 1;
                woken.extend(end.waiting.iter_mut().filter_map(Option::take));
            }
        }
        // Not under the lock: a waker may drop what it wakes.
        woken.into_iter().for_each(Waker::wake);
        hit
    }

    fn add(&self, stream: TcpStream, hosts: (String, String)) -> BoxedIo {
        let mut open = self.open();
        open.made += 1;
        let number = open.made;
        open.ends.insert(number, End { hosts, is_reset: false, waiting: [None, None] });
        BoxedIo::new(Connection { stream, number, connections: self.clone() })
    }
}

/// Connects simulated hosts by their names; usable inside of a turmoil simulation only.
#[derive(Debug, Clone)]
pub struct SimNet {
    host: String,
    connections: Connections,
}

struct SimListener {
    listener: turmoil::net::TcpListener,
    port: u16,
    net: SimNet,
}

#[async_trait]
impl Listener for SimListener {
    fn port(&self) -> u16 {
        self.port
    }
    async fn accept(&mut self) -> io::Result<BoxedIo> {
        let (stream, peer) = self.listener.accept().await?;
        let peer = name(peer);
        Ok(self.net.connections.add(stream, (self.net.host.clone(), peer)))
    }
}

fn name(address: SocketAddr) -> String {
    turmoil::reverse_lookup(address.ip()).unwrap_or_else(|| address.ip().to_string())
}

#[async_trait]
impl Net for SimNet {
    /// Binds every address of the simulated host, whatever `host` says: a host has one, and it is given at run time.
    async fn bind(&self, _host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        let listener = turmoil::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Box::new(SimListener { listener, port, net: self.clone() }))
    }
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedIo> {
        let stream = TcpStream::connect((host, port)).await?;
        Ok(self.connections.add(stream, (self.host.clone(), host.to_owned())))
    }
}

/// One end of a connection, as its host holds it.
struct Connection {
    stream: TcpStream,
    number: u64,
    connections: Connections,
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl Connection {
    /// Fails if it is broken; else `cx` is woken when it breaks.
    fn check(&self, direction: Direction, cx: &Context<'_>) -> io::Result<()> {
        match self.connections.open().ends.get_mut(&self.number) {
            Some(end) if !end.is_reset => {
                end.waiting[direction as usize] = Some(cx.waker().clone());
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::ConnectionReset, "simulated: the connection was reset")),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _gone = self.connections.open().ends.remove(&self.number);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(Direction::Read, cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(Direction::Write, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A server that answers each byte by the next one, and a client that asks and then waits until the connection ends.
    fn simulate(at_once: impl FnOnce(&Connections)) {
        let connections = Connections::default();
        let mut sim = turmoil::Builder::new().build();
        let (server, client) = (connections.of("server"), connections.of("client"));
        sim.host("server", move || {
            let server = server.clone();
            async move {
                let mut listener = server.bind("server", 9092).await?;
                let mut io = listener.accept().await?;
                let mut byte = [0; 1];
                while io.read(&mut byte).await? > 0 {
                    io.write_all(&[byte[0] + 1]).await?;
                }
                Ok(())
            }
        });
        let (asked, was_asked) = tokio::sync::watch::channel(false);
        sim.client("client", async move {
            let mut io = client.connect("server", 9092).await?;
            io.write_all(&[41]).await?;
            let mut byte = [0; 1];
            io.read_exact(&mut byte).await?;
            assert_eq!(byte, [42]);
            asked.send_replace(true);
            let error = io.read_exact(&mut byte).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            let error = io.write_all(&[1]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            Ok(())
        });
        while !*was_asked.borrow() {
            sim.step().unwrap();
        }
        at_once(&connections);
        // The server's host ends by the same error.
        let ended =
            (0..1000).find_map(|_| sim.step().map(|done| done.then_some(Ok(()))).unwrap_or_else(|e| Some(Err(e))));
        let error = ended.expect("it ends").unwrap_err();
        assert!(error.to_string().contains("reset"), "{error}");
    }

    #[test]
    fn simulated_hosts_talk_through_the_seam_and_a_reset_fails_both_ends() {
        simulate(|connections| {
            assert_eq!(connections.reset(|a, b| a == "server" && b == "other"), 0);
            assert_eq!(connections.reset(|a, b| a == "server" && b == "client"), 2);
        });
    }

    #[test]
    fn a_connection_that_ended_is_forgotten() {
        let connections = Connections::default();
        let mut sim = turmoil::Builder::new().build();
        let (server, client) = (connections.of("server"), connections.of("client"));
        sim.host("server", move || {
            let server = server.clone();
            async move {
                let mut listener = server.bind("server", 9092).await?;
                drop(listener.accept().await?);
                std::future::pending().await
            }
        });
        sim.client("client", async move {
            let mut io = client.connect("server", 9092).await?;
            assert_eq!(io.read(&mut [0]).await?, 0);
            Ok(())
        });
        sim.run().unwrap();
        assert_eq!(connections.reset(|_, _| true), 0);
    }
}
