//! Who is in sync, as followers fall behind and catch up.

use highwater_client::PartitionMetadata;
use highwater_testkit::oracle::Expectations;

use crate::common::{Scene, broker};

/// T22: it is the time behind that counts, while its session with the controller is alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t22_a_follower_that_stands_still_leaves_the_isr_and_joins_again_once_caught_up() {
    let slow = |config: highwater_testkit::LocalClusterConfig| {
        // So that it is the leaders who notice, and not the controller.
        config.setting("broker.replica_lag_time_max_ms", 1000).setting("controller.session_timeout_ms", 60_000)
    };
    let mut scene = Scene::with(slow, |topic| topic).await;
    let writers = scene.write();
    scene.acknowledged(200).await;
    // A broker that leads nothing would be best; of one that leads, its own partitions stand still meanwhile.
    let paused = scene.partition(0).replicas.into_iter().find(|id| *id != scene.leader(0)).expect("three replicas");
    scene.history.fault(format!("pause of broker {paused}"));
    scene.cluster.pause(broker(paused)).expect("it runs");
    let gone = |it: &PartitionMetadata| it.leader == Some(paused) || !it.isr.contains(&paused);
    scene.partitions_when("a smaller ISR", |partitions| partitions.iter().all(gone)).await;
    // Two of three are enough for min.insync.replicas.
    scene.acknowledged(200).await;
    scene.history.fault(format!("broker {paused} goes on"));
    scene.cluster.resume(broker(paused)).expect("it is there");
    scene.all_in_sync().await;
    scene.acknowledged(200).await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}
