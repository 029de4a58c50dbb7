//! Lets go of old records, by the topics' retention, and of what is known of producers that have gone.

use std::sync::Arc;
use std::time::Duration;

use super::{each_partition, every};
use crate::core::Core;

const PRODUCERS_INTERVAL: Duration = Duration::from_secs(3600);

pub(super) async fn run(core: Arc<Core>) {
    let mut interval = every(Duration::from_millis(core.config.retention_interval_ms));
    let mut producers = every(PRODUCERS_INTERVAL);
    loop {
        tokio::select! {
            biased;
            _ = producers.tick() => {
                let (now, wall) = (core.clock.now(), core.clock.timestamp());
                each_partition(&core, |partition| partition.expire_producers(now, wall)).await;
            }
            _ = interval.tick() => {
                let now = core.clock.timestamp();
                each_partition(&core, |partition| partition.apply_retention(now)).await;
            }
        }
    }
}
