//! Lets go of old records, by the topics' retention.

use std::sync::Arc;
use std::time::Duration;

use super::{each_partition, every};
use crate::core::Core;

pub(super) async fn run(core: Arc<Core>) {
    let mut interval = every(Duration::from_millis(core.config.retention_interval_ms));
    loop {
        interval.tick().await;
        let now = core.clock.timestamp();
        each_partition(&core, |partition| partition.apply_retention(now)).await;
    }
}
