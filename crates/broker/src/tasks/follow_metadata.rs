//! Brings the partitions to each image of the cluster, and tells the controllers what they have to know of them.
//!
//! **Invariants**: nothing is done by an image from before this incarnation's registration: it is history, in which an earlier
//! one of this broker may lead. A version is claimed only once all partitions have taken it and what can't be served in it has been said, for
//! then the controller may let this broker lead.

use std::sync::Arc;

use highwater_storage::run_on;

use crate::cluster::ClusterLink;
use crate::core::Core;
use crate::error::Fatal;

pub(super) async fn run(core: Arc<Core>, link: ClusterLink) {
    let Some((broker_epoch, cluster_id)) = link.registered().await else { return };
    if !bind(&core, cluster_id).await {
        return;
    }
    let mut images = link.watch();
    let mut has_begun = false;
    loop {
        tokio::select! {
            biased;
            step = images.next() => {
                let Some(step) = step else { return };
                let me = step.image.broker(link.broker());
                if !has_begun && me.is_none_or(|me| me.broker_epoch != broker_epoch) {
                    continue;
                }
                has_begun = true;
                core.partitions.apply(&step.image).await;
                report(&core, &link);
                link.report_log_ends(core.partitions.awaited_log_ends());
                link.set_applied(step.image.version);
            }
            () = core.partitions.unusable_changed().notified() => {
                core.partitions.reopen().await;
                report(&core, &link);
            }
        }
    }
}

fn report(core: &Core, link: &ClusterLink) {
    link.set_unusable(core.partitions.unusable());
    link.set_lost(core.partitions.lost());
    link.set_doubtful(core.partitions.doubtful());
}

/// Before anything is stored for it, the data dirs are this cluster's.
async fn bind(core: &Arc<Core>, cluster_id: String) -> bool {
    let Some(disk) = core.partitions.data_dirs().next().map(|dir| Arc::clone(dir.disk())) else { return false };
    let partitions = Arc::clone(&core.partitions);
    let bound = run_on(&*disk, move || partitions.bind_cluster(&cluster_id)).await;
    let why = match bound {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    core.end_with(Fatal::ForeignCluster(why));
    false
}
