//! Controllers die, are added and removed; the metadata stays.

use std::time::Duration;

use highwater_client::{ControllerId, NewTopic, NodeAddress};
use highwater_testkit::NodeId;
use highwater_testkit::oracle::Expectations;

use crate::common::{SOON, Scene, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_works_on_with_two_of_three_controllers_whichever_dies() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(200).await;
    for round in 0..3 {
        let active = scene.cluster.active_controller(None, SOON).await.unwrap_or_else(|error| panic!("{error}"));
        scene.kill(active);
        let next = scene.cluster.active_controller(Some(active), SOON).await.unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(next, active);
        // It decides: a topic, and a failover.
        let topic = NewTopic::new(format!("after-{round}"), 2, 3);
        scene.client.admin().create_topic(topic).await.unwrap_or_else(|error| panic!("{error}"));
        let dead = scene.leader(0);
        scene.kill(broker(dead));
        scene.acknowledged(200).await;
        scene.start(broker(dead));
        scene.start(active);
        scene.all_in_sync().await;
        scene.cluster.wait_ready(SOON).await.unwrap_or_else(|error| panic!("{error}"));
    }
    writers.stop().await;
    let topics = scene.client.admin().list_topics().await.expect("a list");
    let names: Vec<&str> = topics.iter().map(|it| it.name.as_str()).collect();
    for round in 0..3 {
        assert!(names.contains(&format!("after-{round}").as_str()), "{names:?}");
    }
    scene.check(&Expectations::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_is_added_and_a_founder_removed_while_records_are_written() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(100).await;
    let new = scene.cluster.start_new_controller().await.unwrap_or_else(|error| panic!("{error}"));
    scene.cluster.wait_ready(SOON).await.unwrap_or_else(|error| panic!("{error}"));
    let NodeId::Controller(id) = new else { panic!("{new} is no controller") };
    let port = scene.cluster.node(new).expect("it is there").port();
    let address = NodeAddress { host: "127.0.0.1".to_owned(), port };
    scene.client.admin().add_controller(id, address).await.unwrap_or_else(|error| panic!("{error}"));
    let voters = scene.voters().await;
    assert_eq!(voters, [1, 2, 3, 4].map(ControllerId::new));

    let removed = ControllerId::new(1);
    scene.client.admin().remove_controller(removed).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(scene.voters().await, [2, 3, 4].map(ControllerId::new));
    scene.kill(NodeId::Controller(removed));
    // Three are left, the new one among them; they can lose one.
    let active = scene.cluster.active_controller(Some(NodeId::Controller(removed)), SOON).await;
    let active = active.unwrap_or_else(|error| panic!("{error}"));
    scene.kill(active);
    let dead = scene.leader(0);
    scene.kill(broker(dead));
    scene.acknowledged(200).await;
    scene.start(broker(dead));
    scene.all_in_sync().await;
    writers.stop().await;
    scene.check(&Expectations::default()).await;
}

impl Scene {
    async fn voters(&self) -> Vec<ControllerId> {
        let cluster = tokio::time::timeout(Duration::from_secs(10), self.client.admin().describe_cluster()).await;
        let cluster = cluster.expect("an answer").unwrap_or_else(|error| panic!("{error}"));
        let mut voters: Vec<_> = cluster.controllers.iter().filter(|it| it.voter).map(|it| it.id).collect();
        voters.sort();
        voters
    }
}
