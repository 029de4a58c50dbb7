//! Leaders die; nothing acknowledged does.

use std::time::{Duration, Instant};

use highwater_testkit::oracle::Expectations;

use crate::common::{Scene, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9_of_their_leader() {
    let mut scene = Scene::new().await;
    let (writers, tail) = (scene.write(), scene.tail());
    scene.acknowledged(300).await;
    let dead = scene.leader(0);
    scene.kill(broker(dead));
    let killed = Instant::now();
    let led = |it: &highwater_client::PartitionMetadata| it.leader.is_some_and(|leader| leader != dead);
    scene.partitions_when("new leaders", |partitions| partitions.iter().all(led)).await;
    scene.acknowledged(300).await;
    // The figure is the quick start's and the benchmarks' business; this bound is for a debug build on a busy machine.
    assert!(killed.elapsed() < Duration::from_secs(10), "writes went on only after {:?}", killed.elapsed());
    scene.start(broker(dead));
    scene.all_in_sync().await;
    scene.acknowledged(100).await;
    writers.stop().await;
    let tailed = tail.stop().await.expect("a consumer rides out a failover");
    assert!(tailed > 0);
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_every_broker_in_turn_loses_nothing() {
    let mut scene = Scene::new().await;
    let (writers, tail) = (scene.write(), scene.tail());
    for dead in scene.cluster.broker_ids() {
        scene.acknowledged(200).await;
        scene.kill(broker(dead));
        scene.acknowledged(200).await;
        scene.start(broker(dead));
        scene.all_in_sync().await;
    }
    writers.stop().await;
    tail.stop().await.expect("a consumer rides out failovers");
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_is_replaced_and_finds_its_place_when_it_goes_on() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(300).await;
    let paused = scene.leader(0);
    scene.history.fault(format!("pause of broker {paused}"));
    scene.cluster.pause(broker(paused)).expect("it runs");
    let led = |it: &highwater_client::PartitionMetadata| it.leader.is_some_and(|leader| leader != paused);
    scene.partitions_when("new leaders", |partitions| partitions.iter().all(led)).await;
    scene.acknowledged(300).await;
    scene.history.fault(format!("broker {paused} goes on"));
    scene.cluster.resume(broker(paused)).expect("it is there");
    scene.all_in_sync().await;
    scene.acknowledged(100).await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_durability_replicated_too_a_killed_leader_takes_nothing_along() {
    let mut scene = Scene::with(|config| config, |topic| topic.config("durability", "replicated")).await;
    let writers = scene.write();
    for _ in 0..2 {
        scene.acknowledged(300).await;
        let dead = scene.leader(1);
        scene.kill(broker(dead));
        scene.acknowledged(300).await;
        scene.start(broker(dead));
        scene.all_in_sync().await;
    }
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}
