//! kill -9 in the middle of a load, of more than the cluster can lose; then everything comes back.

use std::time::Duration;

use highwater_testkit::history::Rules;

use crate::common::{Scene, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_all_brokers_in_the_middle_of_a_load_loses_nothing_acknowledged() {
    let mut scene = Scene::new().await;
    for round in 0..3 {
        let writers = scene.write_as(1 + 10 * round);
        scene.acknowledged(300).await;
        let brokers = scene.cluster.broker_ids();
        for dead in &brokers {
            scene.kill(broker(*dead));
        }
        for dead in brokers {
            scene.start(broker(dead));
        }
        scene.cluster.wait_ready(Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("{error}"));
        // The writers of before go on by themselves.
        scene.acknowledged(300).await;
        writers.stop().await;
        scene.all_in_sync().await;
    }
    scene.check(&Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_every_process_in_the_middle_of_a_load_loses_nothing_acknowledged() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(300).await;
    for node in scene.cluster.running() {
        scene.kill(node);
    }
    scene.cluster.start_all().expect("the binary starts");
    scene.cluster.wait_ready(Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("{error}"));
    scene.acknowledged(300).await;
    writers.stop().await;
    scene.all_in_sync().await;
    scene.check(&Rules::default()).await;
}
