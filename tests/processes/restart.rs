//! Brokers are restarted in good order.

use std::time::Duration;

use highwater_testkit::oracle::Expectations;

use crate::common::{Scene, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_every_broker_in_turn_loses_nothing_and_each_exits_with_0() {
    let mut scene = Scene::new().await;
    let (writers, tail) = (scene.write(), scene.tail());
    for stopped in scene.cluster.broker_ids() {
        scene.acknowledged(200).await;
        scene.history.fault(format!("SIGTERM to broker {stopped}"));
        let status = scene.cluster.stop(broker(stopped), Duration::from_secs(20)).await.expect("it ends in good order");
        assert_eq!(
            status.code(),
            Some(0),
            "broker {stopped}: {}",
            scene.cluster.node(broker(stopped)).unwrap().log_tail(20)
        );
        scene.acknowledged(200).await;
        scene.start(broker(stopped));
        scene.all_in_sync().await;
    }
    writers.stop().await;
    tail.stop().await.expect("a consumer rides out restarts");
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_shut_down_whole_comes_back_with_everything() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(500).await;
    writers.stop().await;
    let nodes: Vec<_> = scene.cluster.running().into_iter().rev().collect();
    // Brokers come last in the order of nodes, so they are stopped first here.
    for node in &nodes {
        scene.history.fault(format!("SIGTERM to {node}"));
        let status = scene.cluster.stop(*node, Duration::from_secs(30)).await.expect("it ends in good order");
        assert_eq!(status.code(), Some(0), "{node}: {}", scene.cluster.node(*node).unwrap().log_tail(20));
    }
    scene.cluster.start_all().expect("the binary starts");
    scene.cluster.wait_ready(Duration::from_secs(30)).await.unwrap_or_else(|error| panic!("{error}"));
    scene.all_in_sync().await;
    let writers = scene.write_as(11);
    scene.acknowledged(200).await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}
