//! Keeps the accumulator in step with the cluster, fails what waits too long, and starts a sender for each leader.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::producer::shared::Shared;
use crate::producer::tasks::send::Sender;

/// Runs until the producer is closed and everything is settled.
pub(crate) async fn supervise(shared: Arc<Shared>) {
    let mut image = shared.client.watch_image();
    let mut done = shared.done.subscribe();
    let mut senders = JoinSet::new();
    loop {
        image.mark_unchanged();
        let now = Instant::now();
        let next = shared.refresh(now);
        start_senders(&shared, &mut senders);
        // Batches accepted from now on live for the delivery timeout at least.
        let wake_at = next.unwrap_or(now + shared.config.delivery_timeout);
        tokio::select! {
            biased;
            _ = done.wait_for(|done| *done) => break,
            _ = image.changed() => {}
            () = shared.attention.notified() => {}
            () = sleep_until(wake_at) => {}
        }
    }
    while senders.join_next().await.is_some() {}
    shared.ended.send_replace(true);
}

fn start_senders(shared: &Arc<Shared>, senders: &mut JoinSet<()>) {
    let mut accumulator = shared.lock();
    for (id, broker) in &mut accumulator.brokers {
        if !broker.sender_runs {
            broker.sender_runs = true;
            let sender = Sender::new(Arc::clone(shared), *id, Arc::clone(&broker.wake));
            senders.spawn(sender.run());
        } else {
            // The leader of something in flight may have moved.
            broker.wake.notify_one();
        }
    }
}
