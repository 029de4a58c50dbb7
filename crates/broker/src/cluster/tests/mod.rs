pub(crate) mod fake;
mod link;
mod services;

use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Endpoint};
use highwater_seams::Seams;
use highwater_types::{BrokerId, MetadataVersion};

use super::{ClusterLink, LinkConfig};
use fake::Fake;

const DEADLINE: Duration = Duration::from_secs(10);

/// Awaits a condition; a test that waits in vain ends.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}

fn config(controllers: &[Endpoint], broker: u32) -> LinkConfig {
    LinkConfig {
        broker: BrokerId::new(broker),
        controllers: controllers.to_vec(),
        client_endpoint: Endpoint::new("127.0.0.1", 9),
        internal_endpoint: Endpoint::new("127.0.0.1", 9),
        listeners: Vec::new(),
        rack: None,
        cluster_id: None,
        clean_shutdown: None,
    }
}

/// A link that applies what it sees at once, as a broker without partitions would.
fn start(config: LinkConfig) -> ClusterLink {
    let link = ClusterLink::start(config, Seams::real());
    let (mut watch, applying) = (link.watch(), link.clone());
    tokio::spawn(async move {
        while let Some(step) = watch.next().await {
            applying.set_applied(step.image.version);
        }
    });
    link
}

/// One link of broker 1 to `controllers` controllers, unfenced.
async fn unfenced(controllers: usize) -> (Fake, ClusterLink) {
    let fake = Fake::start(controllers).await;
    let link = start(config(&fake.endpoints, 1));
    assert!(within(link.unfenced()).await);
    (fake, link)
}

/// Until the link's image satisfies `holds`.
async fn image_where(link: &ClusterLink, holds: impl Fn(&ClusterImage) -> bool) -> Arc<ClusterImage> {
    within(link.subscribe().wait_for(|image| holds(image))).await.expect("the link lives").clone()
}

/// Until the link has all that the controllers have.
async fn caught_up(fake: &Fake, link: &ClusterLink) -> Arc<ClusterImage> {
    let version: MetadataVersion = fake.image().version;
    image_where(link, |image| image.version >= version).await
}
