//! Pull replication between brokers: one stream per (follower, leader) pair carries all partitions between the two.
//!
//! [`session`] is the leader's end: it takes a follower's entries as acknowledgements, answers those that ask for records, and
//! tells of high watermarks. [`fetcher`] is the follower's: it asks, appends, and acknowledges what its disk has. [`heal`] gets
//! back from leaders what a disk has damaged. What is decided is decided by `highwater-replication`, under each partition's
//! lock; here records and positions are carried, in batches, over many partitions at once.
//!
//! **Invariants**
//! - At most one fetch of a partition is open in a session: an entry that asks for records replaces the one before.
//! - A broken stream ends the session on both sides; nothing of it is believed in the next one (T27).
//! - Nothing waits while a partition's lock is held, and no answer that waits to be sent keeps acknowledgements from being taken.

mod cold_reads;
mod fetcher;
mod fetchers;
mod following;
mod heal;
mod open_fetches;
mod service;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use highwater_seams::Entropy;
use highwater_types::BrokerEpoch;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

pub(crate) use service::ReplicationService;

use crate::cluster::Peers;
use crate::core::Core;
use crate::partition::FollowChange;

/// What the follower's side needs beside the partitions.
pub(crate) struct Outside {
    pub peers: Peers,
    pub entropy: Arc<dyn Entropy>,
    /// Of this incarnation; `NONE` while it is not registered.
    pub broker_epoch: Box<dyn Fn() -> BrokerEpoch + Send + Sync>,
}

/// Fetches what this broker follows, and heals what is damaged, until the broker stops.
pub(crate) fn start(
    tasks: &TaskTracker,
    core: &Arc<Core>,
    outside: Arc<Outside>,
    following: mpsc::UnboundedReceiver<FollowChange>,
) {
    let until_stop = |work| {
        let stop = core.stopping.clone().cancelled_owned();
        async move {
            tokio::select! {
                biased;
                () = stop => {}
                () = work => {}
            }
        }
    };
    let fetch: futures::future::BoxFuture<'static, ()> =
        Box::pin(fetchers::run(Arc::clone(core), Arc::clone(&outside), following, tasks.clone()));
    tasks.spawn(until_stop(fetch));
    tasks.spawn(until_stop(Box::pin(heal::run(Arc::clone(core), outside))));
}
