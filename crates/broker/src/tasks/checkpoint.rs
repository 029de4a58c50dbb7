//! Writes down, now and then, how far each log is committed and on disk: recovery starts there.

use std::sync::Arc;
use std::time::Duration;

use super::{each_partition, every};
use crate::core::Core;

pub(super) async fn run(core: Arc<Core>) {
    let mut interval = every(Duration::from_millis(core.config.checkpoint_interval_ms));
    loop {
        interval.tick().await;
        each_partition(&core, |partition| partition.checkpoint()).await;
    }
}
