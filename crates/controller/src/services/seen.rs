//! Which metadata each broker has taken over, for those who wait until all have.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_metadata::ClusterImage;
use highwater_types::{BrokerEpoch, BrokerId, MetadataVersion};
use tokio::sync::watch;

use crate::raft::Applied;

/// The newest version that each broker has said its partitions have taken. What an earlier incarnation said does not count for a
/// later one; within one it only grows, whichever stream it came by.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    brokers: Arc<watch::Sender<BTreeMap<BrokerId, (BrokerEpoch, MetadataVersion)>>>,
}

impl Seen {
    pub(super) fn note(&self, broker: BrokerId, broker_epoch: BrokerEpoch, version: MetadataVersion) {
        self.brokers.send_if_modified(|brokers| {
            let newest = brokers.entry(broker).or_insert((BrokerEpoch::NONE, MetadataVersion::ZERO));
            let is_newer = (broker_epoch, version) > *newest;
            *newest = (*newest).max((broker_epoch, version));
            is_newer
        });
    }

    /// Resolves once every broker in service has `version`. One that is taken out of service is not waited for any more.
    pub(super) async fn by_all(&self, version: MetadataVersion, applied: &Applied) {
        let (mut images, mut brokers) = (applied.watch(), self.brokers.subscribe());
        loop {
            let behind = behind(&images.borrow_and_update(), &brokers.borrow_and_update(), version);
            if behind.is_empty() {
                return;
            }
            tracing::trace!(%version, ?behind, "waiting for brokers to take over metadata");
            let changed = tokio::select! {
                changed = images.changed() => changed,
                changed = brokers.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// The brokers in service that have not said that they have `version`.
fn behind(
    image: &ClusterImage,
    brokers: &BTreeMap<BrokerId, (BrokerEpoch, MetadataVersion)>,
    version: MetadataVersion,
) -> Vec<BrokerId> {
    let has = |id, epoch| brokers.get(id).is_some_and(|(of, seen)| *of == epoch && *seen >= version);
    let in_service = image.brokers.values().filter(|broker| !broker.fenced);
    in_service.filter(|broker| !has(&broker.id, broker.broker_epoch)).map(|broker| broker.id).collect()
}
