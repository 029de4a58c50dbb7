//! Watches the data dirs: free space (T46), and whether an I/O error took one offline (T44).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use highwater_storage::{DataDir, run_on};

use super::every;
use crate::core::Core;
use crate::error::Fatal;

const SPACE_PERIOD: Duration = Duration::from_secs(1);

pub(super) async fn run(core: Arc<Core>) {
    let mut interval = every(SPACE_PERIOD);
    let mut offline: FuturesUnordered<_> =
        core.partitions.data_dirs().map(|dir| goes_offline(Arc::clone(dir))).collect();
    loop {
        tokio::select! {
            biased;
            Some(dir) = offline.next(), if !offline.is_empty() => {
                tracing::error!(path = %dir.path().display(), "its partitions can't be served here any more");
                core.partitions.unusable_changed().notify_one();
                let reason = dir.status().offline_reason().unwrap_or_default();
                if offline.is_empty() {
                    core.end_with(Fatal::Storage(format!("{}: {reason}", dir.path().display())));
                }
            }
            _ = interval.tick() => {
                for dir in core.partitions.data_dirs() {
                    refresh_space(dir).await;
                }
                if core.partitions.may_reopen() {
                    core.partitions.unusable_changed().notify_one();
                }
            }
        }
    }
}

async fn goes_offline(dir: Arc<DataDir>) -> Arc<DataDir> {
    let mut status = dir.status().watch_offline();
    // The sender lives in the data dir's own status.
    let _ = status.wait_for(Option::is_some).await;
    drop(status);
    dir
}

async fn refresh_space(dir: &Arc<DataDir>) {
    let was_full = dir.status().is_full();
    let target = Arc::clone(dir);
    let refreshed = run_on(&**dir.disk(), move || target.refresh_space()).await;
    if let Err(error) = refreshed.and_then(|refreshed| refreshed) {
        tracing::warn!(path = %dir.path().display(), %error, "can't tell how much space is free");
    }
    match (was_full, dir.status().is_full()) {
        (false, true) => {
            tracing::error!(path = %dir.path().display(), "no space left: writes are refused, reads go on")
        }
        (true, false) => tracing::info!(path = %dir.path().display(), "there is space again: writes are taken"),
        _ => {}
    }
}
