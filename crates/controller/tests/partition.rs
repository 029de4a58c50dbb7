//! Controllers that are cut off from each other (TRAPS T20).

#![allow(clippy::unwrap_used)]

mod common;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use common::{DEADLINE, Quorum, eventually};
use highwater_protocol::v1;
use highwater_seams::{BoxedIo, Listener, Net, Seams, TcpNet};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A node's network, which can be cut: whatever it has open breaks at the next use, and nothing new comes about.
#[derive(Clone, Default)]
struct Cuttable(Arc<AtomicBool>);

impl Cuttable {
    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

struct CuttableIo(BoxedIo, Cuttable);

impl AsyncRead for CuttableIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.1.check()?;
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for CuttableIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.check()?;
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.check()?;
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct CuttableListener(Box<dyn Listener>, Cuttable);

#[async_trait]
impl Listener for CuttableListener {
    fn port(&self) -> u16 {
        self.0.port()
    }
    async fn accept(&mut self) -> io::Result<BoxedIo> {
        let io = self.0.accept().await?;
        self.1.check()?;
        Ok(BoxedIo::new(CuttableIo(io, self.1.clone())))
    }
}

#[async_trait]
impl Net for Cuttable {
    async fn bind(&self, host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(CuttableListener(TcpNet.bind(host, port).await?, self.clone())))
    }
    async fn connect(&self, host: &str, port: u16) -> io::Result<BoxedIo> {
        self.check()?;
        Ok(BoxedIo::new(CuttableIo(TcpNet.connect(host, port).await?, self.clone())))
    }
}

async fn start() -> (Quorum, Vec<Cuttable>) {
    let nets: Vec<Cuttable> = (0..3).map(|_| Cuttable::default()).collect();
    let seams = |id: u64| Seams { net: Arc::new(nets[id as usize - 1].clone()), ..Seams::real() };
    let quorum = Quorum::start_with(3, |_| {}, seams).await;
    quorum.settled().await;
    (quorum, nets)
}

/// Waits until the quorum's terms stand still for longer than any election timeout.
async fn quiet_term(quorum: &Quorum) -> u64 {
    let active = quorum.active().await;
    quorum.running[&active].raft_position().term
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_an_active_controller_that_is_cut_off_steps_aside_and_its_successor_stays() {
    let (quorum, nets) = start().await;
    let old = quorum.active().await;
    nets[old as usize - 1].0.store(true, Ordering::SeqCst);
    let aside = quorum.running[&old].wait_active(false);
    assert!(tokio::time::timeout(DEADLINE, aside).await.expect("steps aside"));
    let new = eventually("another active controller", || async {
        quorum.running.iter().find(|(id, handle)| **id != old && handle.is_active()).map(|(id, _)| *id)
    })
    .await;
    let term = quorum.running[&new].raft_position().term;
    nets[old as usize - 1].0.store(false, Ordering::SeqCst);
    quorum.settled().await;
    assert_eq!(quiet_term(&quorum).await, term, "the one that came back deposed nobody");
    assert!(quorum.running[&new].is_active());
    let error = quorum.execute(old, &common::create_topic("t", 1)).await.unwrap_err();
    assert_eq!(error.code(), v1::ErrorCode::NotController, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t20_a_standby_that_was_cut_off_disturbs_nobody_when_it_returns() {
    let (quorum, nets) = start().await;
    let active = quorum.active().await;
    let cut = (1..=3).find(|id| *id != active).unwrap();
    let term = quiet_term(&quorum).await;
    nets[cut as usize - 1].0.store(true, Ordering::SeqCst);
    // Long enough for several election timeouts: without pre-vote it would be terms ahead by now.
    let deposed = tokio::time::timeout(Duration::from_secs(2), quorum.running[&active].wait_active(false)).await;
    assert!(deposed.is_err(), "two of three go on");
    assert_eq!(quorum.running[&cut].raft_position().term, term, "nobody begins a term alone");
    nets[cut as usize - 1].0.store(false, Ordering::SeqCst);
    let deposed = tokio::time::timeout(Duration::from_secs(1), quorum.running[&active].wait_active(false)).await;
    assert!(deposed.is_err(), "the active controller stays");
    assert_eq!(quiet_term(&quorum).await, term);
}
