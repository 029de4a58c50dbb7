//! What a controller measures: all of it looked up when asked.

use highwater_metadata::ClusterImage;
use highwater_metrics::{Page, families as f};
use tokio::sync::watch;

use crate::active::Role;
use crate::raft::{Applied, Metrics};

/// Does not keep the controller running.
#[derive(Clone)]
pub struct ControllerScrape {
    pub(crate) raft: watch::Receiver<Metrics>,
    pub(crate) role: watch::Receiver<Role>,
    pub(crate) applied: Applied,
}

impl ControllerScrape {
    /// Puts everything on `page`.
    pub fn write(&self, page: &mut Page) {
        let is_active = matches!(*self.role.borrow(), Role::Active { .. });
        page.add(&f::CONTROLLER_ACTIVE, &[], u8::from(is_active));
        let raft = self.raft.borrow().clone();
        page.add(&f::RAFT_TERM, &[], raft.current_term);
        page.add(&f::RAFT_LOG_INDEX, &[], raft.last_log_index.unwrap_or(0));
        page.add(&f::RAFT_APPLIED_INDEX, &[], raft.last_applied.map_or(0, |id| id.index));
        cluster(&self.applied.image(), page);
    }
}

fn cluster(image: &ClusterImage, page: &mut Page) {
    page.add(&f::CONTROLLER_METADATA_VERSION, &[], image.version.get());
    let fenced = image.brokers.values().filter(|broker| broker.fenced).count();
    let shutting_down = image.brokers.values().filter(|broker| !broker.fenced && broker.shutting_down).count();
    page.add(&f::CLUSTER_BROKERS, &["active"], image.brokers.len() - fenced - shutting_down);
    page.add(&f::CLUSTER_BROKERS, &["fenced"], fenced);
    page.add(&f::CLUSTER_BROKERS, &["shutting_down"], shutting_down);
    let (mut partitions, mut offline, mut under_replicated) = (0, 0, 0);
    for (_, state) in image.partitions() {
        partitions += 1;
        offline += u32::from(state.is_offline());
        under_replicated += u32::from(state.is_under_replicated());
    }
    page.add(&f::CLUSTER_TOPICS, &[], image.topics.len());
    page.add(&f::CLUSTER_PARTITIONS, &[], partitions);
    page.add(&f::CLUSTER_OFFLINE, &[], offline);
    page.add(&f::CLUSTER_UNDER_REPLICATED, &[], under_replicated);
}
