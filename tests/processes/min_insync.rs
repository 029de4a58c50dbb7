//! Too few in-sync replicas: writes are refused, reads go on, and nothing refused is stored.

use std::time::Duration;

use highwater_client::{ErrorCode, Outcome, PartitionMetadata, ProducerConfig, ProducerRecord};
use highwater_testkit::oracle::Expectations;

use crate::common::{SOON, Scene, TOPIC, broker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t15_with_too_few_in_sync_replicas_writes_are_refused_and_reads_go_on() {
    let mut scene = Scene::new().await;
    let writers = scene.write();
    scene.acknowledged(300).await;
    writers.stop().await;
    let survivor = scene.leader(0);
    let dead: Vec<_> = scene.cluster.broker_ids().into_iter().filter(|id| *id != survivor).collect();
    for id in &dead {
        scene.kill(broker(*id));
    }
    let alone = |it: &PartitionMetadata| it.isr == [survivor] || it.leader.is_none();
    scene.partitions_when("an ISR of one", |partitions| alone(&partitions[0])).await;

    let config = ProducerConfig { delivery_timeout: Duration::from_secs(2), ..ProducerConfig::default() };
    let producer = scene.client.producer(config).expect("the settings are allowed");
    let refused = producer.send(ProducerRecord::new(TOPIC).partition(0).value("refused")).await.expect("accepted");
    let error = tokio::time::timeout(SOON, refused).await.expect("an answer").expect_err("too few are in sync");
    // The producer has tried until its time was up, and says what it was told each time.
    assert_eq!((error.code, error.outcome), (ErrorCode::NotEnoughReplicas, Outcome::NotApplied), "{error}");
    assert!(error.message.contains("min.insync.replicas"), "{error}");

    let mut consumer = scene.client.consumer(highwater_client::ConsumerConfig::default());
    let partition = scene.partition(0).id;
    consumer.assign([(TOPIC, partition, highwater_client::StartAt::Beginning)]).await.expect("the leader is there");
    let read = consumer.poll(SOON).await.expect("reads go on");
    assert!(!read.is_empty(), "what was committed can be read");

    for id in dead {
        scene.start(broker(id));
    }
    scene.all_in_sync().await;
    let writers = scene.write_as(11);
    scene.acknowledged(200).await;
    writers.stop().await;
    // The refused record carries no id: if it were stored, the check would find a record that nobody sent.
    scene.check(&Expectations::default()).await;
}
