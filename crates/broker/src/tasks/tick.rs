//! Lets leaders see that time passes: who lags leaves the ISR (T22), and proposals without an answer are made again.

use std::sync::Arc;
use std::time::Duration;

use super::{each_partition, every};
use crate::core::Core;

/// Looks per `replica_lag_time_max`.
const LOOKS: u32 = 8;
const PERIOD_MIN: Duration = Duration::from_millis(20);
const PERIOD_MAX: Duration = Duration::from_millis(500);

pub(super) async fn run(core: Arc<Core>) {
    let period = (core.config.replica_lag_time_max() / LOOKS).clamp(PERIOD_MIN, PERIOD_MAX);
    let mut interval = every(period);
    loop {
        interval.tick().await;
        each_partition(&core, |partition| partition.tick()).await;
    }
}
