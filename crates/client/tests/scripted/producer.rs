//! What the producer promises, against brokers that go wrong as told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fake::{Fake, OnProduce, error, soon, until};
use futures::FutureExt as _;
use futures::future::join_all;
use highwater_client::{
    Acks, Compression, Delivery, ErrorCode, Offset, Outcome, Partitioning, Producer, ProducerConfig, ProducerRecord,
    TimestampMs,
};

pub fn quick() -> ProducerConfig {
    ProducerConfig {
        retry_backoff: Duration::from_millis(2),
        retry_backoff_max: Duration::from_millis(10),
        delivery_timeout: Duration::from_secs(15),
        ..Default::default()
    }
}

pub fn record(value: impl Into<String>) -> ProducerRecord {
    ProducerRecord::new("t").value(value.into())
}

pub async fn send_numbers(producer: &Producer, partition: u32, numbers: std::ops::Range<usize>) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    for number in numbers {
        deliveries.push(soon(producer.send(record(number.to_string()).partition(partition))).await.unwrap());
    }
    deliveries
}

pub fn numbers(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_says_where_the_record_is() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 2, 1]);
    let producer = fake.client().await.producer(quick()).unwrap();
    let mut seen: BTreeMap<u32, i64> = BTreeMap::new();
    let mut deliveries = Vec::new();
    for number in 0..3000i64 {
        let record = record(number.to_string()).key(format!("k{}", number % 50)).timestamp(TimestampMs::new(number));
        deliveries.push((number, producer.send(record).await.unwrap()));
    }
    for (number, delivery) in deliveries {
        let at = soon(delivery).await.unwrap();
        assert_eq!((at.topic.as_str(), at.timestamp), ("t", TimestampMs::new(number)));
        let next = seen.entry(at.partition.get()).or_default();
        assert_eq!(at.offset, Some(Offset::new(*next)));
        assert_eq!(fake.values("t", at.partition.get())[*next as usize], number.to_string());
        *next += 1;
    }
    assert_eq!(seen.values().sum::<i64>(), 3000);
    soon(producer.close()).await.unwrap();
}

#[tokio::test]
async fn not_leader_is_tried_again_where_the_hint_says() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    fake.lock().hint = true;
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    fake.lead_in_secret("t", 0, Some(2));
    let producer = client.producer(quick()).unwrap();
    let at = soon(producer.send(record("a")).await.unwrap()).await.unwrap();
    assert_eq!(at.offset, Some(Offset::ZERO));
    let brokers: Vec<_> = fake.lock().produced.iter().map(|(broker, _)| *broker).collect();
    assert_eq!(brokers, [1, 2]);
}

#[tokio::test]
async fn not_leader_without_a_hint_is_tried_again_until_metadata_moves_the_leader() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    fake.lead_in_secret("t", 0, Some(2));
    let producer = client.producer(quick()).unwrap();
    let delivery = producer.send(record("a")).await.unwrap();
    until("three attempts at the old leader", || fake.requests() >= 3).await;
    fake.publish();
    soon(delivery).await.unwrap();
    assert_eq!(fake.values("t", 0), ["a"]);
}

#[tokio::test]
async fn a_timeout_of_every_attempt_leaves_the_outcome_unknown() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce(vec![OnProduce::Refuse(error(ErrorCode::RequestTimedOut)); 1000]);
    let config = ProducerConfig { delivery_timeout: Duration::from_millis(300), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::RequestTimedOut, Outcome::Unknown));
    assert!(failed.attempts > 1, "{failed}");
    let flushed = producer.flush().await.unwrap_err();
    assert_eq!((flushed.failed, flushed.first), (1, failed));
    producer.flush().await.unwrap();
}

#[tokio::test]
async fn what_the_brokers_refuse_until_the_end_fails_with_their_reason() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce(vec![OnProduce::Refuse(error(ErrorCode::NotEnoughReplicas)); 1000]);
    // The third attempt would come too late: time runs out between two.
    let backoff = Duration::from_millis(150);
    let delivery_timeout = Duration::from_millis(300);
    let config =
        ProducerConfig { delivery_timeout, retry_backoff: backoff, retry_backoff_max: backoff * 10, ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::NotEnoughReplicas, Outcome::NotApplied), "{failed}");
    assert!(failed.to_string().contains("300ms") && failed.attempts > 1, "{failed}");
}

#[tokio::test]
async fn a_silent_broker_is_given_up_at_the_delivery_timeout_with_the_outcome_unknown() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::Ignore]);
    let config = ProducerConfig { delivery_timeout: Duration::from_millis(200), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::RequestTimedOut, Outcome::Unknown));
    // The partition works again once the request itself has timed out.
    until("the partition works again", || {
        let sent = producer.send(record("b")).now_or_never();
        sent.is_some() && fake.values("t", 0).last().is_some_and(|value| value == "b")
    })
    .await;
}

#[tokio::test]
async fn without_a_leader_nothing_is_sent_and_the_outcome_is_known() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.lead("t", 0, None);
    let config = ProducerConfig { delivery_timeout: Duration::from_millis(200), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome, failed.attempts), (ErrorCode::RequestTimedOut, Outcome::NotApplied, 0));
    // A leader that comes in time is used at once.
    let delivery = producer.send(record("b")).await.unwrap();
    fake.lead("t", 0, Some(1));
    soon(delivery).await.unwrap();
}

#[tokio::test]
async fn a_dead_leader_that_never_took_the_request_leaves_the_outcome_known() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some()).await;
    // A port that nobody listens at, in metadata that does not change.
    fake.lock().ports.insert(1, 1);
    fake.publish();
    let moved = |image: &highwater_client::ClusterMetadata| image.brokers().any(|broker| broker.address.port == 1);
    client.metadata_when(moved).await;
    let config = ProducerConfig { delivery_timeout: Duration::from_millis(300), ..quick() };
    let producer = client.producer(config).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::RequestTimedOut, Outcome::NotApplied), "{failed}");
    assert!(failed.attempts >= 1);
}

#[tokio::test]
async fn a_stream_dropped_in_the_middle_is_retried_at_least_once() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::AppendThenDrop, OnProduce::Drop]);
    let producer = fake.client().await.producer(quick().idempotence(false)).unwrap();
    let at = soon(producer.send(record("a")).await.unwrap()).await.unwrap();
    // The first attempt was written and its answer lost: a duplicate, as at-least-once allows.
    assert_eq!(at.offset, Some(Offset::new(1)));
    assert_eq!(fake.values("t", 0), ["a", "a"]);
}

#[tokio::test]
async fn t15_too_few_replicas_after_the_append_is_retried_and_may_duplicate() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::AppendThenFail(error(ErrorCode::NotEnoughReplicasAfterAppend))]);
    let producer = fake.client().await.producer(quick().idempotence(false)).unwrap();
    let at = soon(producer.send(record("a")).await.unwrap()).await.unwrap();
    assert_eq!(at.offset, Some(Offset::new(1)));
}

#[tokio::test]
async fn the_outcome_stays_unknown_when_a_later_attempt_is_refused_for_good() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::AppendThenDrop, OnProduce::Refuse(error(ErrorCode::BatchTooLarge))]);
    let producer = fake.client().await.producer(quick()).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome, failed.attempts), (ErrorCode::BatchTooLarge, Outcome::Unknown, 2));
}

#[tokio::test]
async fn what_can_not_help_is_not_tried_again() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::Refuse(error(ErrorCode::CorruptBatch))]);
    let producer = fake.client().await.producer(quick()).unwrap();
    let failed = soon(producer.send(record("a")).await.unwrap()).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome, failed.attempts), (ErrorCode::CorruptBatch, Outcome::NotApplied, 1));
    // The next record is not held up by it.
    soon(producer.send(record("b")).await.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_partition_keeps_its_order_over_retries_with_many_requests_in_flight() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 1, 2, 1]);
    let refuse = OnProduce::Refuse(error(ErrorCode::NotEnoughReplicas));
    let script = (0..200).map(|i| match i % 7 {
        1 | 2 => refuse.clone(),
        4 => OnProduce::Drop,
        _ => OnProduce::Accept,
    });
    fake.on_produce(script);
    let config = ProducerConfig { batch_bytes: 500, request_bytes_max: 1500, in_flight_max: 8, ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let sent = join_all((0..4).map(|partition| send_numbers(&producer, partition, 0..2000))).await;
    for delivery in sent.into_iter().flatten() {
        soon(delivery).await.unwrap();
    }
    for partition in 0..4 {
        assert_eq!(fake.values("t", partition), numbers(0..2000), "partition {partition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_the_leader_moves_back_and_forth() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    let producer = fake.client().await.producer(ProducerConfig { batch_bytes: 300, ..quick() }).unwrap();
    let moving = async {
        for turn in 0..20 {
            fake.lead("t", 0, Some(1 + (turn + 1) % 2));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let sending = async {
        let mut all = Vec::new();
        for start in (0..3000).step_by(100) {
            all.extend(send_numbers(&producer, 0, start..start + 100).await);
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        all
    };
    let (_, deliveries) = tokio::join!(moving, sending);
    for (expected, delivery) in deliveries.into_iter().enumerate() {
        assert_eq!(soon(delivery).await.unwrap().offset, Some(Offset::new(expected as i64)));
    }
    assert_eq!(fake.values("t", 0), numbers(0..3000));
}

#[tokio::test]
async fn a_deposed_leader_that_stays_silent_does_not_hold_its_partitions() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1, 1]);
    fake.on_produce([OnProduce::Ignore]);
    let producer = fake.client().await.producer(quick()).unwrap();
    let delivery = producer.send(record("a").partition(0)).await.unwrap();
    until("it is in flight", || fake.requests() == 1).await;
    fake.lead("t", 0, Some(2));
    let began = tokio::time::Instant::now();
    soon(delivery).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_killed_leader_is_left_as_soon_as_another_is_known() {
    let fake = Fake::start(2).await;
    fake.create_topic("t", &[1]);
    let producer = fake.client().await.producer(quick()).unwrap();
    soon(producer.send(record("a")).await.unwrap()).await.unwrap();
    fake.kill_broker(1);
    let delivery = producer.send(record("b")).await.unwrap();
    let began = tokio::time::Instant::now();
    fake.lead("t", 0, Some(2));
    soon(delivery).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(fake.values("t", 0), ["a", "b"]);
}

#[tokio::test]
async fn a_full_buffer_makes_send_wait_and_an_answer_lets_it_go_on() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::Hold]);
    let producer = fake.client().await.producer(ProducerConfig { buffer_bytes: 2000, ..quick() }).unwrap();
    let mut sent = Vec::new();
    let waiting = loop {
        let mut sending = Box::pin(producer.send(record("x".repeat(100))));
        match tokio::time::timeout(Duration::from_millis(200), &mut sending).await {
            Ok(delivery) => sent.push(delivery.unwrap()),
            Err(_) => break sending,
        }
        assert!(sent.len() < 20, "2000 bytes hold no 20 records of 100");
    };
    assert!(sent.len() >= 10);
    fake.release();
    sent.push(soon(waiting).await.unwrap());
    for delivery in sent {
        soon(delivery).await.unwrap();
    }
    // All of it is free again.
    for _ in 0..100 {
        let delivery = soon(producer.send(record("y".repeat(1500)))).await.unwrap();
        soon(delivery).await.unwrap();
    }
}

#[tokio::test]
async fn a_buffer_that_stays_full_is_an_error_and_a_given_up_send_takes_nothing() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::Ignore]);
    let config = ProducerConfig { buffer_bytes: 1000, delivery_timeout: Duration::from_millis(400), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let first = producer.send(record("x".repeat(800))).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(50), producer.send(record("y".repeat(800)))).await;
    assert!(given_up.is_err());
    let refused = soon(producer.send(record("z".repeat(800)))).await.unwrap_err();
    assert_eq!((refused.code, refused.outcome), (ErrorCode::RequestTimedOut, Outcome::NotApplied));
    assert!(soon(first).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_none_gets_no_answer_keeps_order_and_close_waits_until_all_is_read() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    let config = ProducerConfig { acks: Acks::None, batch_bytes: 1000, ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    for delivery in send_numbers(&producer, 0, 0..5000).await {
        assert_eq!(soon(delivery).await.unwrap().offset, None);
    }
    soon(producer.close()).await.unwrap();
    assert_eq!(fake.values("t", 0), numbers(0..5000));
}

#[tokio::test]
async fn acks_none_sends_nothing_twice() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::AppendThenDrop]);
    let producer = fake.client().await.producer(ProducerConfig { acks: Acks::None, ..quick() }).unwrap();
    soon(producer.send(record("a")).await.unwrap()).await.unwrap();
    until("the first one is there", || fake.values("t", 0) == ["a"]).await;
    // Until the broken stream is noticed, records may be lost: at most once.
    until("later ones arrive", || {
        let _ = producer.send(record("b")).now_or_never();
        fake.values("t", 0).len() > 1
    })
    .await;
    assert_eq!(fake.values("t", 0).iter().filter(|value| *value == "a").count(), 1);
}

#[tokio::test]
async fn batches_queue_while_one_is_in_flight_and_then_go_together() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce([OnProduce::Hold]);
    let config = ProducerConfig { batch_bytes: 1000, ..quick() }.idempotence(false);
    let producer = fake.client().await.producer(config).unwrap();
    let first = producer.send(record("first")).await.unwrap();
    until("it is in flight", || fake.requests() == 1).await;
    let rest = send_numbers(&producer, 0, 0..500).await;
    fake.release();
    soon(first).await.unwrap();
    for delivery in rest {
        soon(delivery).await.unwrap();
    }
    assert_eq!(fake.requests(), 2);
}

#[tokio::test]
async fn linger_gathers_records_and_flush_does_not_wait_for_it() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    let config = ProducerConfig { linger: Duration::from_millis(100), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    for delivery in send_numbers(&producer, 0, 0..10).await {
        soon(delivery).await.unwrap();
    }
    assert_eq!(fake.requests(), 1);
    let config = ProducerConfig { linger: Duration::from_secs(100), ..quick() };
    let slow = fake.client().await.producer(config).unwrap();
    let deliveries = send_numbers(&slow, 0, 0..10).await;
    soon(slow.flush()).await.unwrap();
    assert!(deliveries.into_iter().all(|delivery| delivery.now_or_never().is_some()));
}

#[tokio::test]
async fn bad_records_are_refused_by_name_and_write_nothing() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1, 1]);
    fake.set_config("t", "max.message.bytes", "2000");
    let client = fake.client().await;
    client.metadata_when(|image| image.topic("t").is_some_and(|topic| !topic.configs.is_empty())).await;
    let producer = client.producer(ProducerConfig { buffer_bytes: 1 << 20, ..quick() }).unwrap();
    let refused = [
        (ProducerRecord::new("nope").value("v"), ErrorCode::UnknownTopic),
        (ProducerRecord::new("no good").value("v"), ErrorCode::InvalidTopicName),
        (record("v").partition(2), ErrorCode::UnknownPartition),
        (record("v".repeat(2000)), ErrorCode::RecordTooLarge),
        (record("v".repeat(2 << 20)), ErrorCode::RecordTooLarge),
    ];
    for (record, code) in refused {
        let error = soon(producer.send(record)).await.unwrap_err();
        assert_eq!((error.code, error.outcome), (code, Outcome::NotApplied), "{error}");
    }
    assert_eq!(fake.requests(), 0);
    // Batches keep to the topic's bound by themselves.
    for delivery in send_numbers(&producer, 0, 0..1000).await {
        soon(delivery).await.unwrap();
    }
    let largest = fake.with_log("t", 0, |log| log.batches.iter().map(|batch| batch.bytes().len()).max());
    assert!(largest.unwrap() <= 2000);
}

#[tokio::test]
async fn a_topic_created_a_moment_later_is_found() {
    let fake = Fake::start(1).await;
    let producer = fake.client().await.producer(quick()).unwrap();
    let sending = producer.send(record("a"));
    let creating = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fake.create_topic("t", &[1]);
    };
    let (delivery, ()) = tokio::join!(sending, creating);
    soon(delivery.unwrap()).await.unwrap();
}

#[tokio::test]
async fn t21_records_for_a_deleted_topic_never_reach_its_namesake() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    fake.on_produce(vec![OnProduce::Refuse(error(ErrorCode::NotEnoughReplicas)); 5]);
    let config = ProducerConfig { retry_backoff: Duration::from_secs(1), ..quick() };
    let producer = fake.client().await.producer(config).unwrap();
    let lost = producer.send(record("old")).await.unwrap();
    until("one attempt", || fake.requests() == 1).await;
    fake.lock().on_produce.clear();
    fake.delete_topic("t");
    fake.create_topic("t", &[1]);
    let failed = soon(lost).await.unwrap_err();
    assert_eq!((failed.code, failed.outcome), (ErrorCode::UnknownTopic, Outcome::NotApplied));
    soon(producer.send(record("new")).await.unwrap()).await.unwrap();
    assert_eq!(fake.values("t", 0), ["new"]);
}

#[tokio::test]
async fn a_closed_producer_refuses_and_a_dropped_one_still_delivers() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    let client = fake.client().await;
    let producer = client.producer(ProducerConfig { linger: Duration::from_secs(60), ..quick() }).unwrap();
    let deliveries = send_numbers(&producer, 0, 0..10).await;
    soon(producer.close()).await.unwrap();
    assert!(deliveries.into_iter().all(|delivery| delivery.now_or_never().is_some_and(|result| result.is_ok())));
    let refused = producer.send(record("late")).await.unwrap_err();
    assert_eq!((refused.code, refused.outcome), (ErrorCode::InvalidRequest, Outcome::NotApplied));
    soon(producer.close()).await.unwrap();

    let dropped = client.producer(ProducerConfig { linger: Duration::from_secs(60), ..quick() }).unwrap();
    let delivery = dropped.send(record("kept")).await.unwrap();
    drop((dropped, client));
    soon(delivery).await.unwrap();
}

#[tokio::test]
async fn every_codec_arrives_whole_with_headers_and_nulls() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1]);
    let client = fake.client().await;
    for codec in Compression::ALL {
        let producer = client.producer(ProducerConfig { compression: codec, ..quick() }).unwrap();
        let headers = record("v".repeat(1000)).key("k").header("h", "1").header("h", "2").null_header("n");
        soon(producer.send(headers).await.unwrap()).await.unwrap();
        let batch = fake.with_log("t", 0, |log| log.batches.pop()).unwrap();
        assert_eq!(batch.header().attributes.compression(), codec);
        let found = batch.records(1 << 20).unwrap().next().unwrap().unwrap();
        assert_eq!(found.value.unwrap(), "v".repeat(1000));
        let headers: Vec<_> = found.headers.iter().map(|h| (h.name.clone(), h.value.clone())).collect();
        assert_eq!(headers, [("h".into(), Some("1".into())), ("h".into(), Some("2".into())), ("n".into(), None)]);
    }
}

#[tokio::test]
async fn round_robin_spreads_and_settings_that_can_not_be_are_refused() {
    let fake = Fake::start(1).await;
    fake.create_topic("t", &[1, 1, 1]);
    let client = fake.client().await;
    let producer = client.producer(ProducerConfig { partitioning: Partitioning::RoundRobin, ..quick() }).unwrap();
    for _ in 0..9 {
        soon(producer.send(record("v")).await.unwrap()).await.unwrap();
    }
    assert!((0..3).all(|partition| fake.values("t", partition).len() == 3));
    let error = client.producer(ProducerConfig { batch_bytes: 0, ..quick() }).err().unwrap();
    assert_eq!(error.setting, "batch_bytes");
}
