//! Appends: what is acknowledged when, and what is refused without a trace.

use std::pin::pin;
use std::task::Poll;

use highwater_protocol::v1::{self, Acks};
use highwater_record::{BatchBuilder, Compression};
use highwater_types::{ErrorCode, TimestampMs};

use super::harness::*;

#[tokio::test]
async fn records_come_back_as_they_were_sent() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    for acks in [Acks::All, Acks::Leader, Acks::Unspecified] {
        let result = test.produce_to(tp, acks, batch(&["a", "b"])).await;
        assert_eq!(result.error, None);
        assert_eq!(result.leader_epoch, 0);
        assert_eq!(result.log_append_time_ms, -1);
    }
    let read = test.read(tp, 0).await;
    let values: Vec<&str> = read.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["a", "b", "a", "b", "a", "b"]);
    assert_eq!(read.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(test.read(tp, 3).await.len(), 3);
}

#[tokio::test]
async fn acks_all_waits_for_every_in_sync_replica() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2, 3], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(5, Acks::All, &[(tp, batch(&["a"]))])).await;
    eventually(|| test.log_end(tp) == 1).await;
    test.acknowledge(tp, 2, 1);
    producer.no_answer().await;
    assert_eq!(test.high_watermark(tp), 0);
    test.acknowledge(tp, 3, 1);
    let answer = producer.answer().await;
    assert_eq!((answer.request_id, answer.partitions[0].base_offset), (5, 0));
    assert_eq!(test.high_watermark(tp), 1);
}

#[tokio::test]
async fn acks_leader_waits_for_the_leaders_disk_only() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2, 3], &[]).await, 0);
    let syncs = test.disk.sync_count();
    assert_eq!(test.produce_to(tp, Acks::Leader, batch(&["a"])).await.error, None);
    assert!(test.disk.sync_count() > syncs);
    assert_eq!(test.high_watermark(tp), 0);
}

#[tokio::test]
async fn acks_none_is_not_answered_and_is_appended() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::None, &[(tp, batch(&["a"]))])).await;
    producer.send(request(2, Acks::All, &[(tp, batch(&["b"]))])).await;
    assert_eq!(producer.answer().await.request_id, 2);
    assert_eq!(test.read(tp, 0).await.len(), 2);
}

#[tokio::test]
async fn requests_of_one_stream_are_appended_in_their_order_and_answered_as_they_finish() {
    let mut test = TestBroker::start().await;
    let slow = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let fast = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(slow, batch(&["s"]))])).await;
    for id in 2..20 {
        producer.send(request(id, Acks::All, &[(fast, batch(&[&id.to_string()]))])).await;
    }
    for id in 2..20 {
        assert_eq!(producer.answer().await.request_id, id);
    }
    test.acknowledge(slow, 2, 1);
    assert_eq!(producer.answer().await.request_id, 1);
    let values: Vec<String> = test.read(fast, 0).await.into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, (2..20).map(|id| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_request_over_many_partitions_is_answered_once_when_the_last_is_done() {
    let mut test = TestBroker::start().await;
    let alone = test.topic(2, &[ME], &[]).await;
    let replicated = test.topic(1, &[ME, 2], &[]).await;
    let unknown = highwater_types::TopicId::from_u128(99);
    let partitions = [
        (partition_of(alone, 0), batch(&["a"])),
        (partition_of(replicated, 0), batch(&["b"])),
        (partition_of(unknown, 0), batch(&["c"])),
        (partition_of(alone, 1), batch(&["d"])),
    ];
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &partitions)).await;
    producer.no_answer().await;
    test.acknowledge(partition_of(replicated, 0), 2, 1);
    let answer = producer.answer().await;
    let codes: Vec<_> = answer.partitions.iter().map(|p| p.error.as_ref().map(highwater_protocol::code_of)).collect();
    assert_eq!(codes, [None, None, Some(ErrorCode::UnknownTopicId), None]);
    assert_eq!(answer.partitions[3].partition, 1);
}

#[tokio::test]
async fn t15_too_few_in_sync_replicas_refuse_acks_all_before_the_append_and_nothing_is_written() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2, 3], &[("min.insync.replicas", "2")]).await, 0);
    test.change(tp, |state| state.isr = vec![broker(ME)]).await;
    let result = test.produce_to(tp, Acks::All, batch(&["a"])).await;
    assert_eq!(failed(&result.error), ErrorCode::NotEnoughReplicas);
    let error = result.error.unwrap();
    assert!(error.retriable && !error.outcome_unknown, "{error:?}");
    assert_eq!(test.log_end(tp), 0);
    // Others don't ask for it.
    assert_eq!(test.produce_to(tp, Acks::Leader, batch(&["b"])).await.error, None);
}

#[tokio::test]
async fn t15_in_sync_replicas_lost_after_the_append_leave_the_outcome_unknown() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[("min.insync.replicas", "2")]).await, 0);
    let mut producer = test.producer().await;
    let mut asked = request(1, Acks::All, &[(tp, batch(&["a"]))]);
    asked.timeout_ms = 150;
    producer.send(asked).await;
    eventually(|| test.log_end(tp) == 1).await;
    test.change(tp, |state| (state.isr, state.elr) = (vec![broker(ME)], vec![broker(2)])).await;
    let answer = producer.answer().await;
    let error = answer.partitions[0].error.clone().unwrap();
    assert!(error.outcome_unknown, "{error:?}");
    // T14: nothing is committed on too few.
    assert_eq!(test.high_watermark(tp), 0);
}

#[tokio::test]
async fn a_timeout_says_that_the_outcome_is_unknown_and_the_records_may_still_commit() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    let mut asked = request(3, Acks::All, &[(tp, batch(&["a"]))]);
    asked.timeout_ms = 50;
    producer.send(asked).await;
    let answer = producer.answer().await;
    let error = answer.partitions[0].error.clone().unwrap();
    assert_eq!(failed(&answer.partitions[0].error), ErrorCode::RequestTimedOut);
    assert!(error.outcome_unknown && error.retriable);
    test.acknowledge(tp, 2, 1);
    assert_eq!(test.high_watermark(tp), 1);
    producer.no_answer().await;
}

#[tokio::test]
async fn what_is_refused_is_told_apart_and_leaves_no_trace() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(1, &[ME], &[("max.message.bytes", "2000")]).await;
    let elsewhere = test.topic(1, &[2, 3], &[]).await;
    let tp = partition_of(topic, 0);
    let good = batch(&["a"]);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let mut old_magic = good.to_vec();
    old_magic[16] = 1;
    let mut miscounted = good.to_vec();
    miscounted[57..61].copy_from_slice(&2_i32.to_be_bytes());
    let cut = good.slice(..good.len() - 1);
    let large = "x".repeat(3_000);
    let mut control = BatchBuilder::new(Compression::None, None);
    control.append(TimestampMs::new(i64::MAX), None, Some(b"v"), &[]).unwrap();
    let cases = [
        (partition_of(highwater_types::TopicId::from_u128(1), 0), good.clone(), ErrorCode::UnknownTopicId),
        (partition_of(topic, 1), good.clone(), ErrorCode::UnknownPartition),
        (partition_of(elsewhere, 0), good.clone(), ErrorCode::NotLeader),
        (tp, flipped.into(), ErrorCode::CorruptBatch),
        (tp, old_magic.into(), ErrorCode::CorruptBatch),
        (tp, miscounted.into(), ErrorCode::CorruptBatch),
        (tp, cut, ErrorCode::CorruptBatch),
        (tp, batch(&[&large]), ErrorCode::BatchTooLarge),
        (tp, bytes::Bytes::new(), ErrorCode::InvalidRequest),
        // The good batch before a bad one is not written either.
        (tp, [good.as_ref(), &batch(&[&large])].concat().into(), ErrorCode::BatchTooLarge),
    ];
    for (at, records, code) in cases {
        let result = test.produce_to(at, Acks::All, records).await;
        assert_eq!(failed(&result.error), code);
        let error = result.error.unwrap();
        assert!(!error.outcome_unknown, "{error:?}");
        assert!(error.message.len() > 20, "{error:?}");
    }
    assert_eq!(test.log_end(tp), 0);
}

#[tokio::test]
async fn a_compressed_record_larger_than_a_batch_may_be_is_refused() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[("max.message.bytes", "2000")]).await, 0);
    let mut builder = BatchBuilder::new(Compression::Zstd, None);
    builder.append(TimestampMs::new(1), None, Some(&[0; 10_000]), &[]).unwrap();
    let records = builder.build().unwrap();
    assert!(records.len() < 2_000);
    let result = test.produce_to(tp, Acks::All, records).await;
    assert_eq!(failed(&result.error), ErrorCode::RecordTooLarge);
}

/// What 8 MiB unpack to, in each of so many partitions.
async fn much_to_unpack(test: &mut TestBroker, partitions: u32) -> crate::produce::ProduceRequest {
    let topic = test.topic(partitions, &[ME], &[]).await;
    let mut builder = BatchBuilder::new(Compression::Zstd, None);
    for _ in 0..10 {
        builder.append(TimestampMs::new(1), None, Some(&[0; 800_000]), &[]).unwrap();
    }
    let records = builder.build().unwrap();
    let to = (0..partitions).map(|index| crate::produce::ProduceTo {
        partition: partition_of(topic, index),
        leader_epoch: highwater_types::LeaderEpoch::NONE,
        records: records.clone(),
        may_keep: false,
    });
    let (token, transaction, partitions) = (1, None, to.collect());
    crate::produce::ProduceRequest { token, acks: crate::produce::Acks::All, transaction, partitions }
}

#[tokio::test]
async fn t47_others_have_turns_while_much_is_unpacked_and_no_two_unpack_much_at_a_time() {
    let mut test = TestBroker::start().await;
    let (one, other) = (much_to_unpack(&mut test, 2).await, much_to_unpack(&mut test, 1).await);
    let tps: Vec<_> = one.partitions.iter().chain(&other.partitions).map(|to| to.partition).collect();
    let partitions = &test.core.partitions;
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let one = partitions.produce(one, 64 << 20, None, &answers);
    let other = partitions.produce(other, 64 << 20, None, &answers);
    let mut others = pin!(async { tokio::join!(one, other) });
    let (mut turns, mut done) = (0, Vec::new());
    while futures::poll!(others.as_mut()).is_pending() {
        turns += 1;
        for &tp in &tps {
            if test.log_end(tp) == 10 && !done.contains(&tp) {
                done.push(tp);
            }
        }
        assert!(turns < 100);
    }
    assert!(turns >= 16, "{turns} turns for 24 MiB");
    assert_eq!(done, [tps[0], tps[2]], "one after the other, in the order of asking, and {:?} last", tps[1]);
    for _ in 0..2 {
        assert!(answered.recv().await.unwrap().results.iter().all(|(_, result)| result.is_ok()));
    }
    assert!(tps.iter().all(|&tp| test.log_end(tp) == 10));
}

#[tokio::test]
async fn a_request_that_is_dropped_while_it_is_checked_keeps_nothing() {
    let mut test = TestBroker::start().await;
    let asked = much_to_unpack(&mut test, 1).await;
    let tp = asked.partitions[0].partition;
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    let bounds = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
    let permit = bounds.clone().try_acquire_owned().unwrap();
    {
        let mut produced = pin!(test.core.partitions.produce(asked, 64 << 20, Some(permit), &answers));
        assert!(matches!(futures::poll!(produced.as_mut()), Poll::Pending));
        assert_eq!(bounds.available_permits(), 0);
    }
    assert_eq!((bounds.available_permits(), test.log_end(tp)), (1, 0));
    assert!(answered.recv().await.unwrap().results[0].1.is_err(), "its outcome is unknown");
}

#[tokio::test]
async fn not_leader_names_the_leader_and_how_to_reach_it() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[2, ME], &[]).await, 0);
    let result = test.produce_to(tp, Acks::All, batch(&["a"])).await;
    let leader = result.error.unwrap().leader.unwrap();
    assert_eq!((leader.node_id, leader.host.as_str(), leader.port, leader.leader_epoch), (2, "host-2", 9002, 0));
}

#[tokio::test]
async fn leader_epochs_of_the_past_and_the_future_are_refused() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    for (epoch, code) in [(1, ErrorCode::FencedLeaderEpoch), (3, ErrorCode::UnknownLeaderEpoch)] {
        let mut asked = request(1, Acks::Leader, &[(tp, batch(&["a"]))]);
        asked.partitions[0].leader_epoch = epoch;
        assert_eq!(failed(&test.produce(asked).await.partitions[0].error), code);
    }
    let mut asked = request(1, Acks::Leader, &[(tp, batch(&["a"]))]);
    asked.partitions[0].leader_epoch = 2;
    assert_eq!(test.produce(asked).await.partitions[0].error, None);
}

#[tokio::test]
async fn a_malformed_request_is_refused_as_a_whole_and_the_stream_goes_on() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let mut producer = test.producer().await;
    let mut short_id = request(1, Acks::All, &[(tp, batch(&["a"])), (tp, batch(&["b"]))]);
    short_id.partitions[1].topic_id = bytes::Bytes::from_static(b"short");
    producer.send(short_id).await;
    let answer = producer.answer().await;
    assert_eq!((answer.request_id, failed(&answer.error)), (1, ErrorCode::InvalidRequest));
    let mut unknown_acks = request(2, Acks::All, &[(tp, batch(&["a"]))]);
    unknown_acks.acks = 77;
    producer.send(unknown_acks).await;
    assert_eq!(failed(&producer.answer().await.error), ErrorCode::InvalidRequest);
    producer.send(request(3, Acks::All, &[])).await;
    assert_eq!(producer.answer().await, v1::ProduceResponse { request_id: 3, ..Default::default() });
    producer.send(request(4, Acks::All, &[(tp, batch(&["c"]))])).await;
    assert_eq!(producer.answer().await.partitions[0].base_offset, 0, "nothing was written before");
}

#[tokio::test]
async fn append_time_is_the_leaders_where_the_topic_asks_for_it() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[("message.timestamp.type", "LogAppendTime")]).await, 0);
    let result = test.produce_to(tp, Acks::All, batch(&["a"])).await;
    assert!(result.log_append_time_ms > 1_000_000_000_000);
    let response = test.fetch(tp, 0).await;
    let batches = highwater_record::split(response.partitions[0].records.clone()).unwrap();
    assert_eq!(batches[0].header().max_timestamp.get(), result.log_append_time_ms);
}

/// Beyond the bound the stream is not read, and goes on when answers free it.
#[tokio::test]
async fn what_one_stream_may_have_unanswered_is_bounded() {
    let disk = highwater_storage::sim::SimDisk::new(1);
    let mut test = TestBroker::start_with(disk, |config| config.limits.produce_stream_bytes_max = 4_000).await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    let value = "x".repeat(1_000);
    for id in 0..8 {
        producer.send(request(id, Acks::All, &[(tp, batch(&[&value]))])).await;
    }
    eventually(|| test.log_end(tp) >= 3).await;
    for offset in 1..=8 {
        eventually(|| test.log_end(tp) >= offset).await;
        // So many are answered: three more fill the bound, now and whenever else it is looked at.
        let answered = offset - 1;
        assert!(test.log_end(tp) <= answered + 3, "{} stored and {answered} answered", test.log_end(tp));
        test.acknowledge(tp, 2, offset);
        assert_eq!(producer.answer().await.request_id, offset as u64 - 1);
    }
}

#[tokio::test]
async fn what_all_streams_may_have_unanswered_is_bounded_and_one_large_request_passes() {
    let disk = highwater_storage::sim::SimDisk::new(1);
    let mut test = TestBroker::start_with(disk, |config| config.limits.produce_bytes_max = 4 << 10).await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let (mut first, mut second) = (test.producer().await, test.producer().await);
    let large = "x".repeat(20_000);
    first.send(request(1, Acks::All, &[(tp, batch(&[&large]))])).await;
    eventually(|| test.log_end(tp) == 1).await;
    second.send(request(2, Acks::All, &[(tp, batch(&["b"]))])).await;
    second.no_answer().await;
    assert_eq!(test.log_end(tp), 1, "the second waits for its share");
    test.acknowledge(tp, 2, 1);
    assert_eq!(first.answer().await.request_id, 1);
    eventually(|| test.log_end(tp) == 2).await;
    test.acknowledge(tp, 2, 2);
    assert_eq!(second.answer().await.request_id, 2);
}

#[tokio::test]
async fn a_client_that_ends_its_requests_still_gets_its_answers() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, batch(&["a"]))])).await;
    producer.end_requests();
    eventually(|| test.log_end(tp) == 1).await;
    test.acknowledge(tp, 2, 1);
    assert_eq!(producer.answer().await.request_id, 1);
    assert!(producer.ended().await);
}
