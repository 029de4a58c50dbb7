//! What a broker does without being asked. Each task ends when the broker stops.

mod carry_proposals;
mod checkpoint;
mod compact;
mod follow_metadata;
mod retain;
mod tick;
mod watch_storage;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

use crate::cluster::ClusterLink;
use crate::core::Core;
use crate::partition::{IsrProposal, Partition};

/// Partitions that are looked after in one go; then others get their turn on the thread.
const PARTITIONS_PER_TURN: usize = 32;

/// Starts them all.
pub(crate) fn start(
    tracker: &TaskTracker,
    core: &Arc<Core>,
    link: &ClusterLink,
    proposals: mpsc::UnboundedReceiver<IsrProposal>,
) {
    let stop = || core.stopping.clone().cancelled_owned();
    tracker.spawn(until(stop(), follow_metadata::run(Arc::clone(core), link.clone())));
    tracker.spawn(until(stop(), carry_proposals::run(Arc::clone(core), link.clone(), proposals)));
    start_without_cluster(tracker, core);
}

/// Those that need no controller.
pub(crate) fn start_without_cluster(tracker: &TaskTracker, core: &Arc<Core>) {
    let stop = || core.stopping.clone().cancelled_owned();
    tracker.spawn(until(stop(), checkpoint::run(Arc::clone(core))));
    tracker.spawn(until(stop(), retain::run(Arc::clone(core))));
    tracker.spawn(until(stop(), compact::run(Arc::clone(core))));
    tracker.spawn(until(stop(), tick::run(Arc::clone(core))));
    tracker.spawn(until(stop(), watch_storage::run(Arc::clone(core))));
}

async fn until(stop: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = stop => {}
        () = work => {}
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let period = period.max(Duration::from_millis(1));
    // Not at once: the start has other things to do.
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn each_partition(core: &Core, work: impl Fn(&Partition)) {
    let partitions = core.partitions.all();
    for (count, partition) in partitions.values().enumerate() {
        if count % PARTITIONS_PER_TURN == PARTITIONS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
        work(partition);
    }
}
