//! Reads: what is seen when, and how long polls end.

use std::time::{Duration, Instant};

use highwater_protocol::v1::Acks;
use highwater_types::{ErrorCode, LeaderEpoch};

use super::harness::*;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn t26_consumers_never_see_what_is_not_committed() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    for value in ["a", "b", "c"] {
        test.produce_to(tp, Acks::Leader, batch(&[value])).await;
    }
    assert!(test.fetch(tp, 0).await.partitions.is_empty());
    test.acknowledge(tp, 2, 2);
    assert_eq!(test.read(tp, 0).await, [(0, "a".to_owned()), (1, "b".to_owned())]);
    let response = test.fetch(tp, 0).await;
    assert_eq!((response.partitions[0].high_watermark, response.partitions[0].last_stable_offset), (2, 2));
    // What is there and not committed is waited for; what is not there at all is out of range.
    assert!(test.fetch(tp, 3).await.partitions.is_empty());
}

#[tokio::test]
async fn an_offset_out_of_range_is_told_with_the_valid_range() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["a", "b", "c"])).await;
    test.partition(tp).delete_records(Some(highwater_types::Offset::new(1))).await.unwrap();
    for offset in [0, 4, 1_000_000, -1, i64::MIN] {
        let response = test.fetch(tp, offset).await;
        assert_eq!(failed(&response.partitions[0].error), ErrorCode::OffsetOutOfRange, "{offset}");
        let range = response.partitions[0].error.clone().unwrap().valid_offsets.unwrap();
        assert_eq!((range.start, range.end), (1, 3));
    }
    assert_eq!(test.read(tp, 1).await.len(), 2);
}

#[tokio::test]
async fn a_long_poll_ends_when_records_are_committed() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut consumer = test.consumer().await;
    consumer.send(fetch_request(9, LONG, &[(tp, 0)])).await;
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    consumer.no_answer().await;
    test.acknowledge(tp, 2, 1);
    let answer = consumer.answer().await;
    assert_eq!(answer.request_id, 9);
    assert_eq!(records(&answer.partitions[0], 0), [(0, "a".to_owned())]);
}

#[tokio::test]
async fn a_long_poll_ends_empty_after_its_time() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut consumer = test.consumer().await;
    let start = Instant::now();
    consumer.send(fetch_request(1, Duration::from_millis(80), &[(tp, 0)])).await;
    let answer = consumer.answer().await;
    assert!(answer.partitions.is_empty() && answer.error.is_none());
    assert!(start.elapsed() >= Duration::from_millis(80));
}

/// What is there by then is sent even if it is less than was asked for.
#[tokio::test]
async fn a_long_poll_waits_for_min_bytes_but_not_for_ever() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(2, &[ME], &[]).await;
    let (a, b) = (partition_of(topic, 0), partition_of(topic, 1));
    let size = batch(&["a"]).len() as u32;
    let mut consumer = test.consumer().await;
    let mut asked = fetch_request(1, LONG, &[(a, 0), (b, 0)]);
    asked.min_bytes = 2 * size;
    consumer.send(asked.clone()).await;
    test.produce_to(a, Acks::All, batch(&["a"])).await;
    consumer.no_answer().await;
    test.produce_to(b, Acks::All, batch(&["b"])).await;
    assert_eq!(consumer.answer().await.partitions.len(), 2);
    asked.min_bytes = 100 * size;
    asked.max_wait_ms = 50;
    consumer.send(asked).await;
    assert_eq!(consumer.answer().await.partitions.len(), 2);
}

#[tokio::test]
async fn t25_a_long_poll_that_outlives_the_leadership_is_told_who_leads() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut consumer = test.consumer().await;
    consumer.send(fetch_request(1, LONG, &[(tp, 0)])).await;
    consumer.no_answer().await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    let answer = consumer.answer().await;
    assert_eq!(failed(&answer.partitions[0].error), ErrorCode::NotLeader);
    assert_eq!(answer.partitions[0].error.clone().unwrap().leader.unwrap().node_id, 2);
}

#[tokio::test]
async fn t25_a_long_poll_of_an_older_epoch_is_fenced_when_this_broker_leads_anew() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut consumer = test.consumer().await;
    let mut asked = fetch_request(1, LONG, &[(tp, 0)]);
    asked.partitions[0].leader_epoch = 0;
    consumer.send(asked).await;
    consumer.no_answer().await;
    let mut state = test.image.partition(tp).unwrap().clone();
    state.leader_epoch = LeaderEpoch::new(2);
    state.partition_epoch = state.partition_epoch.next();
    test.replay(highwater_metadata::Record::PartitionChanged { partition: tp, state });
    test.apply().await;
    assert_eq!(failed(&consumer.answer().await.partitions[0].error), ErrorCode::FencedLeaderEpoch);
}

#[tokio::test]
async fn a_long_poll_ends_when_its_topic_is_deleted() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(1, &[ME], &[]).await;
    let mut consumer = test.consumer().await;
    consumer.send(fetch_request(1, LONG, &[(partition_of(topic, 0), 0)])).await;
    consumer.no_answer().await;
    test.replay(highwater_metadata::Record::TopicDeleted { topic });
    test.apply().await;
    assert_eq!(failed(&consumer.answer().await.partitions[0].error), ErrorCode::UnknownTopicId);
}

#[tokio::test]
async fn several_requests_of_one_stream_are_open_at_a_time() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(2, &[ME], &[]).await;
    let (a, b) = (partition_of(topic, 0), partition_of(topic, 1));
    let mut consumer = test.consumer().await;
    consumer.send(fetch_request(1, LONG, &[(a, 0)])).await;
    consumer.send(fetch_request(2, LONG, &[(b, 0)])).await;
    consumer.no_answer().await;
    test.produce_to(b, Acks::All, batch(&["b"])).await;
    assert_eq!(consumer.answer().await.request_id, 2);
    test.produce_to(a, Acks::All, batch(&["a"])).await;
    assert_eq!(consumer.answer().await.request_id, 1);
}

#[tokio::test]
async fn answers_keep_to_max_bytes_but_for_the_first_batch() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(3, &[ME], &[]).await;
    let value = "x".repeat(1_000);
    let size = batch(&[&value]).len();
    for partition in 0..3 {
        for _ in 0..4 {
            test.produce_to(partition_of(topic, partition), Acks::All, batch(&[&value])).await;
        }
    }
    let mut consumer = test.consumer().await;
    let all: Vec<_> = (0..3).map(|partition| (partition_of(topic, partition), 0)).collect();
    for (max_bytes, batches) in [(1, 1), (size, 1), (2 * size, 2), (6 * size + 5, 6), (100 * size, 12)] {
        let mut asked = fetch_request(1, LONG, &all);
        asked.max_bytes = max_bytes as u32;
        consumer.send(asked).await;
        let answer = consumer.answer().await;
        let bytes: usize = answer.partitions.iter().map(|result| result.records.len()).sum();
        assert_eq!(bytes, batches * size, "max_bytes {max_bytes}");
    }
    // One partition does not starve the others for ever.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut asked = fetch_request(1, LONG, &all);
        asked.max_bytes = 1;
        consumer.send(asked).await;
        seen.insert(consumer.answer().await.partitions[0].partition);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn records_in_files_are_read_as_those_in_memory_are() {
    let disk = highwater_storage::sim::SimDisk::new(1);
    let mut test = TestBroker::start_with(disk, |config| config.cache_bytes = 0).await;
    let tp = partition_of(test.topic(1, &[ME], &[("segment.bytes", "4096")]).await, 0);
    let value = "x".repeat(300);
    for _ in 0..100 {
        assert_eq!(test.produce_to(tp, Acks::All, batch(&[&value])).await.error, None);
    }
    let (mut next, mut answers) = (0, 0);
    while next < 100 {
        let read = test.read(tp, next).await;
        assert_eq!(read[0].0, next);
        next = read.last().unwrap().0 + 1;
        answers += 1;
    }
    assert!(answers > 1, "each answer ends with a segment");
}

#[tokio::test]
async fn a_reader_whose_records_are_not_in_this_log_is_told_where_the_logs_part() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a", "b"])).await;
    // Epoch 1 was led elsewhere and left nothing here; 2 begins at offset 2.
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    test.produce_to(tp, Acks::Leader, batch(&["c"])).await;
    test.acknowledge(tp, 2, 3);
    let mut consumer = test.consumer().await;
    let mut asked = fetch_request(1, LONG, &[(tp, 3)]);
    asked.partitions[0].last_fetched_epoch = 1;
    consumer.send(asked.clone()).await;
    let result = consumer.answer().await.partitions.remove(0);
    assert_eq!(failed(&result.error), ErrorCode::LogTruncated);
    let diverging = result.diverging.unwrap();
    assert_eq!((diverging.leader_epoch, diverging.end_offset), (0, 2));
    asked.partitions[0].last_fetched_epoch = 0;
    asked.partitions[0].fetch_offset = 2;
    consumer.send(asked).await;
    assert_eq!(consumer.answer().await.partitions[0].error, None);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_stream_goes_on() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut consumer = test.consumer().await;
    let mut asked = fetch_request(4, LONG, &[(tp, 0)]);
    asked.partitions[0].topic_id = bytes::Bytes::from_static(b"?");
    consumer.send(asked).await;
    let answer = consumer.answer().await;
    assert_eq!((answer.request_id, failed(&answer.error)), (4, ErrorCode::InvalidRequest));
    consumer.send(fetch_request(5, LONG, &[])).await;
    assert_eq!(consumer.answer().await.request_id, 5);
}

#[tokio::test]
async fn a_stopping_broker_ends_the_stream_and_says_why() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut consumer = test.consumer().await;
    consumer.send(fetch_request(1, LONG, &[(tp, 0)])).await;
    consumer.no_answer().await;
    test.core.stopping.cancel();
    let status = soon(consumer.answers.message()).await.unwrap_err();
    let error = highwater_protocol::error_from_status(&status);
    assert_eq!(highwater_protocol::code_of(&error), ErrorCode::BrokerShuttingDown);
}
