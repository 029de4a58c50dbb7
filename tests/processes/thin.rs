//! Thin clients, through whichever broker, while others die.

use highwater_client::{BrokerId, ErrorCode};
use highwater_protocol::{code_of, error_from_status, v1};
use tokio::time::timeout;
use tonic::transport::Channel;
use v1::records_client::RecordsClient;

use crate::common::{SOON, Scene, TOPIC, broker};

async fn connect(scene: &Scene, id: BrokerId) -> RecordsClient<Channel> {
    let port = scene.cluster.node(broker(id)).expect("it is one of the nodes").port();
    RecordsClient::connect(format!("http://127.0.0.1:{port}")).await.expect("it listens")
}

fn request(values: std::ops::Range<u32>) -> v1::PublishRequest {
    let record = |value: u32| v1::PublishRecord {
        value: Some(value.to_string().into()),
        partition: Some(0),
        ..Default::default()
    };
    v1::PublishRequest { topic: TOPIC.to_owned(), records: values.map(record).collect(), ..Default::default() }
}

async fn publish(through: &mut RecordsClient<Channel>, values: std::ops::Range<u32>) {
    let answer = timeout(SOON, through.publish(request(values.clone()))).await.expect("an answer").expect("stored");
    assert_eq!(answer.into_inner().results.len(), values.len());
}

async fn read(through: &mut RecordsClient<Channel>) -> Vec<u32> {
    let request = v1::ReadRequest { topic: TOPIC.to_owned(), ..Default::default() };
    let mut answers = through.read(request).await.expect("the topic is there").into_inner();
    let mut values = Vec::new();
    while let Some(answer) = timeout(SOON, answers.message()).await.expect("an answer").expect("it can be read") {
        let value = |record: v1::ReadRecord| String::from_utf8(record.value.expect("a value").to_vec());
        values.extend(answer.records.into_iter().map(|it| value(it).expect("text").parse::<u32>().expect("a number")));
    }
    values
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thin_client_of_another_broker_does_not_notice_that_the_leader_dies() {
    let mut scene = Scene::new().await;
    scene.all_in_sync().await;
    let leader = scene.leader(0);
    let others: Vec<_> = scene.cluster.broker_ids().into_iter().filter(|id| *id != leader).collect();
    let mut one = connect(&scene, others[0]).await;
    let mut other = connect(&scene, others[1]).await;
    publish(&mut one, 0..50).await;

    let follow = v1::ReadRequest { topic: TOPIC.to_owned(), follow: true, ..Default::default() };
    let mut following = other.read(follow).await.expect("the topic is there").into_inner();
    scene.kill(broker(leader));
    publish(&mut one, 50..100).await;
    assert_eq!(read(&mut other).await, (0..100).collect::<Vec<_>>());
    let mut followed = 0;
    while followed < 100 {
        let answer = timeout(SOON, following.message()).await.expect("an answer").expect("it goes on");
        followed += answer.expect("it has no end").records.len();
    }

    // A broker that ends in good order says so, and the other one goes on.
    scene.start(broker(leader));
    scene.all_in_sync().await;
    scene.cluster.stop(broker(others[1]), SOON).await.expect("it ends");
    let ended = loop {
        match timeout(SOON, following.message()).await.expect("an end") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end that says nothing"),
            Err(status) => break error_from_status(&status),
        }
    };
    assert_eq!(code_of(&ended), ErrorCode::BrokerShuttingDown, "{ended:?}");
    assert!(ended.retriable && !ended.outcome_unknown);
    publish(&mut one, 100..110).await;
    assert_eq!(read(&mut one).await.len(), 110);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_stored_only_as_a_whole_or_the_thin_client_is_told() {
    let scene = Scene::with(|config| config, |topic| topic.config("max.message.bytes", "2000")).await;
    let mut client = connect(&scene, scene.leader(0)).await;
    let mut mixed = request(0..3);
    mixed.records[1].value = Some(vec![0; 5000].into());
    let status = timeout(SOON, client.publish(mixed)).await.expect("an answer").expect_err("one is too large");
    let error = error_from_status(&status);
    assert_eq!(code_of(&error), ErrorCode::RecordTooLarge, "{error:?}");
    assert!(error.outcome_unknown && error.message.contains("1 of 3"), "{error:?}");
    assert_eq!(read(&mut client).await, [0, 2]);
}
