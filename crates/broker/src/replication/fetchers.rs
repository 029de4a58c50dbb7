//! One fetcher for each leader broker, told which partitions to fetch from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_types::{BrokerId, TopicPartition};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::Outside;
use super::fetcher::{self, Change};
use crate::core::Core;
use crate::partition::FollowChange;

/// Until the broker stops.
pub(super) async fn run(
    core: Arc<Core>,
    outside: Arc<Outside>,
    mut following: mpsc::UnboundedReceiver<FollowChange>,
    tasks: TaskTracker,
) {
    let mut leaders: BTreeMap<TopicPartition, BrokerId> = BTreeMap::new();
    let mut fetchers: BTreeMap<BrokerId, mpsc::UnboundedSender<Change>> = BTreeMap::new();
    while let Some(FollowChange { partition, leader }) = following.recv().await {
        let tp = partition.tp();
        let before = match leader {
            Some(leader) => leaders.insert(tp, leader),
            None => leaders.remove(&tp),
        };
        if let Some(before) = before.filter(|before| Some(*before) != leader)
            && let Some(fetcher) = fetchers.get(&before)
        {
            // A fetcher ends only with the broker.
            let _ = fetcher.send(Change::Leave(tp));
        }
        let Some(leader) = leader else { continue };
        let fetcher = fetchers.entry(leader).or_insert_with(|| {
            let (changes, to_take) = mpsc::unbounded_channel();
            let stop = core.stopping.clone().cancelled_owned();
            let work = fetcher::run(Arc::clone(&core), Arc::clone(&outside), leader, to_take);
            tasks.spawn(async move {
                tokio::select! {
                    biased;
                    () = stop => {}
                    () = work => {}
                }
            });
            changes
        });
        let _ = fetcher.send(Change::Follow(partition));
    }
}
