//! Keeps the assignment in step with the cluster, and starts a fetcher for each leader.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::consumer::shared::Shared;
use crate::consumer::tasks::fetch::Fetcher;

/// Runs until the consumer is gone; its fetchers go with it.
pub(crate) async fn supervise(shared: Arc<Shared>) {
    let mut image = shared.client.watch_image();
    let mut done = shared.done.subscribe();
    let mut fetchers = JoinSet::new();
    loop {
        image.mark_unchanged();
        let now = shared.client.image();
        {
            let mut assignment = shared.lock();
            assignment.refresh(&now);
            for (id, broker) in &mut assignment.brokers {
                if !broker.fetcher_runs {
                    broker.fetcher_runs = true;
                    fetchers.spawn(Fetcher::new(Arc::clone(&shared), *id, Arc::clone(&broker.wake)).run());
                }
            }
        }
        // An error may have been found.
        shared.arrived.notify_one();
        tokio::select! {
            biased;
            _ = done.wait_for(|done| *done) => return,
            _ = image.changed() => {}
            () = shared.attention.notified() => {}
        }
    }
}
