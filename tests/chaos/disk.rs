//! A disk that is full (T46).

use highwater_client::{Client, NewTopic, ProducerConfig, ProducerRecord};
use highwater_testkit::NodeId;
use highwater_testkit::local_cluster::SmallDisk;
use highwater_testkit::oracle::Expectations;
use highwater_testkit::workloads::readers::read_whole;

use crate::common::{SOON, Scene, TOPIC, until};

const SMALL: NodeId = NodeId::broker(3);
const RESERVE: u64 = 4 << 20;

async fn scene() -> Option<Scene> {
    if !SmallDisk::is_possible() {
        println!("skipped: this process may not mount a file system");
        return None;
    }
    let config = |config: highwater_testkit::LocalClusterConfig| {
        let mut config = config.setting("broker.disk_reserve_bytes", RESERVE);
        config.small_disks.insert(SMALL, 64 << 20);
        config
    };
    Some(Scene::with(config, |topic| topic.config("segment.bytes", "1048576")).await)
}

fn disk(scene: &Scene) -> &SmallDisk {
    scene.cluster.disk(SMALL).expect("it has a small one")
}

/// The others go on without it, and it comes back by itself, whether it was told by what is left or by a write that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_a_full_disk_of_one_broker_stops_nobody_for_good_and_heals_by_itself() {
    let Some(mut scene) = scene().await else { return };
    let (writers, tail) = (scene.write(), scene.tail());
    for left in [RESERVE / 2, 0] {
        scene.acknowledged(300).await;
        scene.all_in_sync().await;
        scene.history.fault(format!("the disk of {SMALL} is full: {left} bytes left"));
        disk(&scene).fill(left).expect("root may");
        // Each partition, those that it leads among them.
        for _ in 0..3 {
            scene.acknowledged(300).await;
        }
        // Reads go on, of what it leads too.
        scene.readers += 1;
        let read = read_whole(&scene.client, &scene.history, scene.readers, TOPIC, SOON).await;
        assert!(read.unwrap_or_else(|error| panic!("{error}")) > 0);
        scene.history.fault("space is back");
        disk(&scene).free().expect("root may");
        scene.all_in_sync().await;
        scene.cluster.check_alive().unwrap_or_else(|error| panic!("{error}"));
    }
    writers.stop().await;
    tail.stop().await.expect("a consumer does not mind");
    scene.check(&Expectations::default()).await;
}

/// Where nobody else can take over, the writer is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t46_a_write_that_has_no_space_is_refused_with_a_clear_error_and_works_once_there_is() {
    let Some(scene) = scene().await else { return };
    let alone = "alone";
    // Of a topic with one replica, on whichever broker: as many partitions as make sure that ours has some.
    scene.client.admin().create_topic(NewTopic::new(alone, 3, 1)).await.expect("a new topic");
    let metadata = scene.client.metadata_when(|all| all.topic(alone).is_some()).await;
    let partitions = &metadata.topic(alone).expect("it was there").partitions;
    let own =
        partitions.iter().find(|it| it.leader.map(NodeId::Broker) == Some(SMALL)).expect("each broker has one").id;
    let write = async |patience| {
        let client: &Client = &scene.client;
        let config = ProducerConfig { delivery_timeout: patience, ..ProducerConfig::default() };
        let producer = client.producer(config).expect("allowed");
        let record = ProducerRecord::new(alone).partition(own.get()).value("v");
        producer.send(record).await.expect("room in the buffer").await
    };
    write(SOON).await.expect("space");
    disk(&scene).fill(RESERVE / 2).expect("root may");
    let full = async || write(std::time::Duration::from_secs(1)).await.err().map(|error| error.to_string());
    let deadline = tokio::time::Instant::now() + SOON;
    let text = loop {
        // The broker looks at its disk now and then.
        if let Some(text) = full().await {
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "it takes writes on a full disk");
    };
    assert!(text.contains("space") || text.contains("full"), "{text:?} does not say why");
    disk(&scene).free().expect("root may");
    write(SOON).await.expect("space again");
    until("the topic is whole", || scene.client.metadata().topic(alone).is_some()).await;
}
