//! Thin clients, through whichever broker, while others die.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use highwater_client::{BrokerId, ErrorCode};
use highwater_protocol::{code_of, error_from_status, v1};
use tokio::time::timeout;
use tonic::transport::Channel;
use v1::records_client::RecordsClient;

use crate::common::{SOON, Scene, TOPIC, broker, until};

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
    let isolation_level = v1::IsolationLevel::ReadCommitted.into();
    let request = v1::ReadRequest { topic: TOPIC.to_owned(), isolation_level, ..Default::default() };
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

/// Reads until there are so many: what is committed is seen once the markers are there, a moment after the answer.
async fn read_committed(through: &mut RecordsClient<Channel>, records: usize) -> Vec<u32> {
    let all = async {
        loop {
            let found = read(through).await;
            if found.len() >= records {
                return found;
            }
        }
    };
    timeout(SOON, all).await.expect("all is seen soon")
}

/// As a request of publisher "shop" with this number.
fn numbered(sequence: u64, values: std::ops::Range<u32>) -> v1::PublishRequest {
    v1::PublishRequest { publisher_id: "shop".to_owned(), sequence, ..request(values) }
}

async fn publish_numbered(
    through: &mut RecordsClient<Channel>,
    sequence: u64,
    values: std::ops::Range<u32>,
) -> Result<Vec<v1::PublishResult>, v1::Error> {
    let answer = timeout(SOON, through.publish(numbered(sequence, values))).await.expect("an answer");
    answer.map(|answer| answer.into_inner().results).map_err(|status| error_from_status(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_numbered_request_that_comes_again_through_another_broker_is_stored_once() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let brokers = scene.cluster.broker_ids();
    let (mut one, mut other) = (connect(&scene, brokers[0]).await, connect(&scene, brokers[1]).await);
    let first = publish_numbered(&mut one, 1, 0..5).await.expect("stored");
    assert_eq!(publish_numbered(&mut one, 1, 0..5).await.expect("known"), first);
    assert_eq!(publish_numbered(&mut other, 1, 0..5).await.expect("known there too"), first);
    let gap = publish_numbered(&mut other, 3, 10..15).await.expect_err("2 is missing");
    assert_eq!(code_of(&gap), ErrorCode::OutOfOrderSequence);
    assert!(gap.message.contains("the next one is 2") && !gap.outcome_unknown, "{}", gap.message);
    publish_numbered(&mut other, 2, 5..10).await.expect("stored");
    // The first broker does not know that another one has gone on for this publisher, until it finds out.
    publish_numbered(&mut one, 3, 10..15).await.expect("stored");
    assert!(publish_numbered(&mut other, 2, 5..10).await.expect("known").iter().all(|place| place.error.is_none()));
    let unknown = publish_numbered(&mut one, 1, 0..5).await.expect("long known");
    assert!(unknown.iter().all(|place| place.offset.is_none() && place.error.is_none()));
    assert_eq!(read_committed(&mut other, 15).await, (0..15).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_numbered_requests_are_stored_once_and_in_order_though_brokers_die() {
    const REQUESTS: u64 = 60;
    const RECORDS: u32 = 3;
    let mut scene = Scene::new().await;
    scene.all_in_sync().await;
    let brokers = scene.cluster.broker_ids();
    let mut turn = 0;
    for sequence in 1..=REQUESTS {
        if sequence % 20 == 10 {
            let victim = brokers[(sequence / 20) as usize % brokers.len()];
            scene.kill(broker(victim));
        }
        if sequence % 20 == 0 {
            let victim = brokers[(sequence / 20 - 1) as usize % brokers.len()];
            scene.start(broker(victim));
            scene.all_in_sync().await;
        }
        let start = (sequence as u32 - 1) * RECORDS;
        // As a client does: the same again at the next broker, until one says that it is stored.
        let stored = async {
            loop {
                turn += 1;
                let id = brokers[turn % brokers.len()];
                let port = scene.cluster.node(broker(id)).expect("it is one of the nodes").port();
                let Ok(mut through) = RecordsClient::connect(format!("http://127.0.0.1:{port}")).await else {
                    continue;
                };
                match through.publish(numbered(sequence, start..start + RECORDS)).await {
                    Ok(_) => return,
                    Err(status) => {
                        let error = error_from_status(&status);
                        assert!(error.retriable || error.outcome_unknown, "{error:?}");
                    }
                }
            }
        };
        timeout(SOON * 3, stored).await.expect("some broker stores it");
    }
    let mut reader = connect(&scene, brokers[0]).await;
    let all = REQUESTS as u32 * RECORDS;
    assert_eq!(read_committed(&mut reader, all as usize).await, (0..all).collect::<Vec<_>>());
}

/// Publishes numbered requests one after the other, each at the same broker until that one fails it, then at the next.
/// Every third one is first given up in the middle, at a moment that differs: as a lost answer is.
async fn publish_all(ports: Vec<u16>, asked: Arc<AtomicUsize>, stored: Arc<AtomicU64>, requests: u64, records: u32) {
    for sequence in 1..=requests {
        let start = (sequence as u32 - 1) * records;
        let mut give_up = sequence % 3 == 0;
        let one = async {
            loop {
                let turn = asked.load(Ordering::Relaxed);
                let port = ports[turn % ports.len()];
                if let Ok(mut through) = RecordsClient::connect(format!("http://127.0.0.1:{port}")).await {
                    let answer = through.publish(numbered(sequence, start..start + records));
                    if std::mem::take(&mut give_up) {
                        let _ = timeout(Duration::from_millis(sequence % 40), answer).await;
                    } else {
                        match answer.await {
                            Ok(_) => return,
                            Err(status) => {
                                let error = error_from_status(&status);
                                assert!(error.retriable || error.outcome_unknown, "{sequence}: {error:?}");
                            }
                        }
                    }
                }
                asked.store(turn + 1, Ordering::Relaxed);
            }
        };
        timeout(SOON * 3, one).await.expect("some broker stores it");
        stored.store(sequence, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_the_broker_asked_dies_under_a_request_and_answers_are_lost_and_each_is_stored_once() {
    const REQUESTS: u64 = 240;
    const RECORDS: u32 = 3;
    let mut scene = Scene::new().await;
    scene.all_in_sync().await;
    let brokers = scene.cluster.broker_ids();
    let port = |id: &BrokerId| scene.cluster.node(broker(*id)).expect("it is one of the nodes").port();
    let ports: Vec<u16> = brokers.iter().map(port).collect();
    let (asked, stored) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let publishing = tokio::spawn(publish_all(ports, Arc::clone(&asked), Arc::clone(&stored), REQUESTS, RECORDS));
    let so_far = || stored.load(Ordering::Relaxed);
    for round in 0..4 {
        until("requests are stored", || so_far() >= 20 + round * 50).await;
        let victim = if round == 3 { scene.leader(0) } else { brokers[asked.load(Ordering::Relaxed) % brokers.len()] };
        let before = so_far();
        scene.kill(broker(victim));
        until("others go on", || so_far() >= before + 10).await;
        scene.start(broker(victim));
        scene.all_in_sync().await;
        assert!(so_far() < REQUESTS, "the publisher was still at work");
    }
    publishing.await.expect("all are stored");
    let mut reader = connect(&scene, brokers[0]).await;
    let all = REQUESTS as u32 * RECORDS;
    assert_eq!(read_committed(&mut reader, all as usize).await, (0..all).collect::<Vec<_>>());
}
