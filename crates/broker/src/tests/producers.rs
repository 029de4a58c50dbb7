//! Idempotent producers at the leader: what they number is stored once, in its order, or refused without a trace.

use std::time::Duration;

use bytes::Bytes;
use highwater_protocol::v1::{self, Acks};
use highwater_record::{BatchBuilder, Compression};
use highwater_types::{BrokerId, ErrorCode, ProducerEpoch, ProducerId, Sequence, TimestampMs, TopicPartition};

use super::harness::*;

pub(super) fn numbered(producer: (i64, i16), sequence: i32, values: &[&str], in_transaction: bool) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, None);
    builder.set_producer(ProducerId::new(producer.0), ProducerEpoch::new(producer.1), Sequence::new(sequence));
    builder.set_transactional(in_transaction);
    for value in values {
        builder.append(TimestampMs::new(1_000), None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn idempotent(epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    numbered((7, epoch), sequence, values, false)
}

async fn stored_at(test: &TestBroker, tp: TopicPartition, batch: Bytes) -> i64 {
    let result = test.produce_to(tp, Acks::All, batch).await;
    assert_eq!(result.error, None);
    result.base_offset
}

async fn refused(test: &TestBroker, tp: TopicPartition, batch: Bytes) -> v1::Error {
    let end = test.log_end(tp);
    let error = test.produce_to(tp, Acks::All, batch).await.error.expect("a refusal");
    assert_eq!(test.log_end(tp), end, "nothing is written");
    assert!(!error.outcome_unknown);
    error
}

#[tokio::test]
async fn trap_29_a_batch_that_comes_again_is_answered_with_its_offset_and_stored_once() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    test.produce_to(tp, Acks::All, batch(&["plain"])).await;
    for (sequence, values) in [(0, ["a", "b"]), (2, ["c", "d"]), (4, ["e", "f"])] {
        assert_eq!(stored_at(&test, tp, idempotent(0, sequence, &values)).await, 1 + i64::from(sequence));
    }
    assert_eq!(stored_at(&test, tp, idempotent(0, 2, &["c", "d"])).await, 3);
    assert_eq!(stored_at(&test, tp, idempotent(0, 0, &["a", "b"])).await, 1);
    // One that was stored and one that is new, in one request.
    let both = [idempotent(0, 4, &["e", "f"]), idempotent(0, 6, &["g"])].concat();
    assert_eq!(stored_at(&test, tp, both.into()).await, 5);
    let read = test.read(tp, 0).await;
    let values: Vec<&str> = read.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["plain", "a", "b", "c", "d", "e", "f", "g"]);
}

#[tokio::test]
async fn trap_31_a_duplicate_of_what_is_not_committed_waits_as_the_original_does() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let (mut first, mut again) = (test.producer().await, test.producer().await);
    let once = || request(1, Acks::All, &[(tp, idempotent(0, 0, &["a"]))]);
    first.send(once()).await;
    eventually(|| test.log_end(tp) == 1).await;
    again.send(once()).await;
    again.no_answer().await;
    test.acknowledge(tp, 2, 1);
    for producer in [&mut first, &mut again] {
        let result = producer.answer().await.partitions.remove(0);
        assert_eq!((result.error, result.base_offset), (None, 0));
    }
    assert_eq!(test.log_end(tp), 1);
}

#[tokio::test]
async fn trap_31_a_gap_and_an_epoch_that_is_over_are_refused_and_nothing_is_written() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    stored_at(&test, tp, idempotent(0, 0, &["a"])).await;
    let gap = refused(&test, tp, idempotent(0, 2, &["c"])).await;
    assert_eq!(failed(&Some(gap)), ErrorCode::OutOfOrderSequence);
    let gap = [idempotent(0, 1, &["b"]), idempotent(0, 3, &["d"])].concat();
    assert_eq!(failed(&Some(refused(&test, tp, gap.into()).await)), ErrorCode::OutOfOrderSequence);
    assert_eq!(stored_at(&test, tp, idempotent(0, 1, &["b"])).await, 1);

    assert_eq!(stored_at(&test, tp, idempotent(1, 0, &["next"])).await, 2);
    let fenced = refused(&test, tp, idempotent(0, 2, &["late"])).await;
    assert_eq!(failed(&Some(fenced)), ErrorCode::InvalidProducerEpoch);
}

#[tokio::test]
async fn trap_29_what_was_stored_is_known_after_a_change_of_leaders_and_a_restart() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    for sequence in 0..2 {
        producer.send(request(1, Acks::All, &[(tp, idempotent(0, sequence, &["x"]))])).await;
        eventually(|| test.log_end(tp) == i64::from(sequence) + 1).await;
    }
    test.acknowledge(tp, 2, 2);
    for offset in 0..2 {
        assert_eq!(producer.answer().await.partitions[0].base_offset, offset);
    }
    for leader in [2, ME] {
        test.change(tp, |state| state.leader = Some(BrokerId::new(leader))).await;
    }
    for restarted in [false, true] {
        if restarted {
            let image = test.image.clone();
            test = TestBroker::start_with_image(test.kill().await, image, |_| {}).await;
        }
        let mut producer = test.producer().await;
        producer.send(request(1, Acks::All, &[(tp, idempotent(0, 0, &["x"]))])).await;
        test.acknowledge(tp, 2, 2);
        let result = producer.answer().await.partitions.remove(0);
        assert_eq!((result.error, result.base_offset), (None, 0), "restarted: {restarted}");
        assert_eq!(test.log_end(tp), 2);
        let gap = refused(&test, tp, idempotent(0, 3, &["x"])).await;
        assert_eq!(failed(&Some(gap)), ErrorCode::OutOfOrderSequence);
    }
}

#[tokio::test]
async fn trap_30_a_producer_is_forgotten_once_its_records_are_old_and_it_is_long_silent() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    let wall = |days: u32| TimestampMs::new((DAY * days).as_millis() as i64);
    // Its records were old when they came.
    stored_at(&test, tp, idempotent(0, 0, &["a"])).await;
    test.partition(tp).expire_producers(DAY, wall(100));
    assert_eq!(stored_at(&test, tp, idempotent(0, 0, &["a"])).await, 0);
    stored_at(&test, tp, idempotent(0, 1, &["b"])).await;
    test.partition(tp).expire_producers(DAY * 2, wall(101));
    assert_eq!(stored_at(&test, tp, idempotent(0, 1, &["b"])).await, 1);
    // Silent for long, with records that are young; then both.
    test.partition(tp).expire_producers(DAY * 9, wall(6));
    assert_eq!(stored_at(&test, tp, idempotent(0, 1, &["b"])).await, 1);
    for (elapsed, is_known) in [(10, true), (11, false)] {
        test.partition(tp).expire_producers(DAY * elapsed, wall(102));
        assert_eq!(test.partition(tp).producers().unwrap().len(), usize::from(is_known));
    }
    assert_eq!(stored_at(&test, tp, idempotent(0, 7, &["c"])).await, 2, "it may go on");
}
