//! A network between the processes of a local cluster that can be broken: each node is reached through a proxy of its
//! own, which knows who is at the other end of a connection and carries its bytes as the [`Impairment`]s of the moment allow.
//!
//! What it can and can't do: a cut direction carries nothing, and tells nothing of the end of a connection either; the
//! sender's buffers fill up as they do when packets are lost, and the other direction soon stands still too, for
//! acknowledgements are lost with it. What was under way arrives late when the cut ends, as if
//! sent again, or the connection is reset, as if it had timed out. Connections to a cut-off or dead node are accepted
//! (by the proxy) before they hang or are reset, where a real network would not accept them. Packets are not reordered.

mod links;
mod origin;
mod pump;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

pub use links::{Effect, Host, Impairment, Side};
use links::{Quality, quality};
use origin::Origin;

use crate::local_cluster::NodeId;

/// Which process is which node. Those that are not in it are clients.
#[derive(Debug, Clone, Default)]
pub struct Processes(Arc<Mutex<BTreeMap<u32, NodeId>>>);

impl Processes {
    pub fn insert(&self, pid: u32, node: NodeId) {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pids.retain(|_, other| *other != node);
        pids.insert(pid, node);
    }

    fn all(&self) -> Vec<(u32, NodeId)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(pid, node)| (*pid, *node)).collect()
    }
}

/// Names an impairment while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImpairmentId(u64);

/// What becomes of connections that an impairment has held up, when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// They go on, and what was under way arrives.
    Deliver,
    /// They are reset.
    Reset,
}

/// The network, all proxies together. Clones are the same one.
#[derive(Clone)]
pub struct Network {
    impairments: Arc<watch::Sender<Vec<(ImpairmentId, Impairment)>>>,
    resets: broadcast::Sender<(Side, Side)>,
    processes: Processes,
    next: Arc<AtomicU64>,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("impairments", &*self.impairments.borrow()).finish_non_exhaustive()
    }
}

impl Network {
    pub fn new(processes: Processes) -> Self {
        let (resets, _) = broadcast::channel(64);
        Self { impairments: Arc::new(watch::channel(Vec::new()).0), resets, processes, next: Arc::default() }
    }

    /// Whether it can tell who connects; otherwise everybody is a client, and only what concerns all can be impaired.
    pub fn knows_origins() -> bool {
        origin::is_known_here()
    }

    /// From now on, and on top of what else there is.
    pub fn impair(&self, impairment: Impairment) -> ImpairmentId {
        let id = ImpairmentId(self.next.fetch_add(1, Ordering::Relaxed));
        self.impairments.send_modify(|all| all.push((id, impairment)));
        id
    }

    /// Ends an impairment.
    pub fn lift(&self, id: ImpairmentId, aftermath: Aftermath) {
        let lifted = self.impairments.borrow().iter().find(|(other, _)| *other == id).map(|(_, it)| it.clone());
        let Some(lifted) = lifted else { return };
        if aftermath == Aftermath::Reset {
            // Before anything of it can go on.
            self.reset(lifted.from, lifted.to);
        }
        self.impairments.send_modify(|all| all.retain(|(other, _)| *other != id));
    }

    /// Resets every connection between the two, whoever made it. New ones can be made at once.
    pub fn reset(&self, a: Side, b: Side) {
        // Nobody listening is no connection to reset.
        let _ = self.resets.send((a, b));
    }

    /// Carries connections that come in at `listener` to `port` of this machine, where `node` listens.
    pub(crate) fn serve(&self, node: NodeId, listener: TcpListener, port: u16) -> JoinHandle<()> {
        let network = self.clone();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((inbound, peer)) => {
                        let network = network.clone();
                        tokio::spawn(async move { network.carry(inbound, peer.port(), node, port).await });
                    }
                    // Out of file descriptors, or a connection that was gone before it was taken.
                    Err(error) => {
                        tracing::debug!(%node, %error, "a proxy took no connection");
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                }
            }
        })
    }

    async fn carry(&self, mut inbound: TcpStream, peer_port: u16, node: NodeId, port: u16) {
        // Subscribed before anything else: a reset that comes now is for this connection too.
        let mut resets = self.resets.subscribe();
        let Ok(own_port) = inbound.local_addr().map(|own| own.port()) else { return };
        let processes = self.processes.all();
        let looked_up = tokio::task::spawn_blocking(move || origin::of(peer_port, own_port, &processes)).await;
        let from = match looked_up {
            Ok(Origin::Node(node)) => Host::Node(node),
            Ok(Origin::Other) => Host::Clients,
            // Whose bytes pass nobody could say: whoever it was connects again.
            Ok(Origin::Gone) if Self::knows_origins() => return pump::reset(&inbound),
            Ok(Origin::Gone) | Err(_) => Host::Clients,
        };
        let (there, back) = (self.path(from, Host::Node(node)), self.path(Host::Node(node), from));
        let mut outbound = None;
        let carried = async {
            // A handshake needs both directions.
            there.open().await;
            back.open().await;
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
                Ok(connected) => {
                    // Small messages must not wait for others, as they don't at the nodes.
                    let _ = connected.set_nodelay(true).and(inbound.set_nodelay(true));
                    pump::both(&mut inbound, outbound.insert(connected), &there, &back).await;
                }
                Err(_) => {
                    back.open().await;
                    pump::reset(&inbound);
                }
            }
        };
        tokio::select! {
            biased;
            () = reset_of(&mut resets, from, Host::Node(node)) => {
                pump::reset(&inbound);
                outbound.iter().for_each(pump::reset);
            }
            () = carried => {}
        }
    }

    fn path(&self, from: Host, to: Host) -> Path {
        Path { from, to, impairments: self.impairments.subscribe() }
    }
}

/// Waits for a reset that concerns connections between `a` and `b`.
async fn reset_of(resets: &mut broadcast::Receiver<(Side, Side)>, a: Host, b: Host) {
    loop {
        match resets.recv().await {
            Ok((one, other)) if (one.has(a) && other.has(b)) || (one.has(b) && other.has(a)) => return,
            Ok(_) => {}
            // So many resets at once that some were missed: this may have been one of them.
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// One direction between two hosts.
pub(crate) struct Path {
    from: Host,
    to: Host,
    impairments: watch::Receiver<Vec<(ImpairmentId, Impairment)>>,
}

impl Path {
    pub(crate) fn quality(&self) -> Quality {
        quality(self.impairments.borrow().iter().map(|(_, impairment)| impairment), self.from, self.to)
    }

    /// Waits until bytes can pass.
    pub(crate) async fn open(&self) {
        let mut impairments = self.impairments.clone();
        let open = |all: &Vec<(ImpairmentId, Impairment)>| {
            !quality(all.iter().map(|(_, impairment)| impairment), self.from, self.to).is_cut
        };
        if impairments.wait_for(open).await.is_err() {
            // The network is gone, and all of its tasks with it.
            std::future::pending::<()>().await;
        }
    }
}

/// Listens at `port` of loopback, for a proxy.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
}

#[cfg(test)]
mod tests;
