//! Look-ups by position and time, and delete-records.

use highwater_protocol::topic_id_bytes;
use highwater_protocol::v1::list_offsets_partition::At;
use highwater_protocol::v1::{self, Acks};
use highwater_types::{ErrorCode, Offset, TopicPartition};

use super::harness::*;

async fn list(test: &TestBroker, tp: TopicPartition, at: At) -> v1::ListOffsetsPartitionResult {
    let asked = v1::ListOffsetsPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: -1,
        at: Some(at),
    };
    let request = v1::ListOffsetsRequest { isolation_level: 0, partitions: vec![asked] };
    soon(test.client().list_offsets(request)).await.unwrap().into_inner().partitions.remove(0)
}

#[tokio::test]
async fn offsets_are_found_by_position_and_by_time() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME], &[]).await, 0);
    for timestamp in [1_000, 2_000, 3_000] {
        test.produce_to(tp, Acks::All, batch_at(&["a", "b"], timestamp)).await;
    }
    assert_eq!(list(&test, tp, At::Earliest(true)).await.offset, 0);
    assert_eq!(list(&test, tp, At::Latest(true)).await.offset, 6);
    let found = list(&test, tp, At::TimestampMs(1_500)).await;
    assert_eq!((found.offset, found.timestamp_ms, found.leader_epoch), (2, 2_000, 0));
    assert_eq!(list(&test, tp, At::TimestampMs(0)).await.offset, 0);
    let newest = list(&test, tp, At::MaxTimestamp(true)).await;
    assert_eq!((newest.offset, newest.timestamp_ms, newest.leader_epoch), (4, 3_000, 0));
    let none = list(&test, tp, At::TimestampMs(9_000)).await;
    assert_eq!((none.error, none.offset), (None, -1));
}

#[tokio::test]
async fn t6_a_new_leader_does_not_give_an_older_end_than_one_already_shown() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a", "b"])).await;
    // Another leads and comes to an end of 2; this broker, leading again, still knows of 0.
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    assert_eq!(failed(&list(&test, tp, At::Latest(true)).await.error), ErrorCode::OffsetNotAvailable);
    assert_eq!(failed(&list(&test, tp, At::TimestampMs(500)).await.error), ErrorCode::OffsetNotAvailable);
    assert_eq!(failed(&list(&test, tp, At::MaxTimestamp(true)).await.error), ErrorCode::OffsetNotAvailable);
    assert_eq!(list(&test, tp, At::Earliest(true)).await.offset, 0);
    // A reader that is at that end is not told that it is out of range.
    assert!(test.fetch(tp, 2).await.partitions.is_empty());
    assert_eq!(failed(&test.fetch(tp, 3).await.partitions[0].error), ErrorCode::OffsetNotAvailable);
    test.acknowledge(tp, 2, 2);
    assert_eq!(list(&test, tp, At::Latest(true)).await.offset, 2);
    assert_eq!(failed(&test.fetch(tp, 3).await.partitions[0].error), ErrorCode::OffsetOutOfRange);
}

#[tokio::test]
async fn the_end_of_a_leader_epoch_is_told() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a", "b"])).await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    test.produce_to(tp, Acks::Leader, batch(&["c"])).await;
    let asked = |leader_epoch| v1::EpochOfPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: 0,
        current_leader_epoch: 2,
        leader_epoch,
    };
    let request = v1::OffsetsForLeaderEpochRequest { partitions: vec![asked(0), asked(1), asked(2)] };
    let answer = soon(test.client().offsets_for_leader_epoch(request)).await.unwrap().into_inner();
    let ends: Vec<_> = answer.partitions.iter().map(|p| p.end.unwrap()).collect();
    assert_eq!(ends.iter().map(|end| (end.leader_epoch, end.end_offset)).collect::<Vec<_>>(), [(0, 2), (0, 2), (2, 3)]);
}

#[tokio::test]
async fn deleted_records_are_gone_for_readers_at_once_and_answered_when_no_replica_has_them() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    test.produce_to(tp, Acks::Leader, batch(&["b"])).await;
    test.acknowledge(tp, 2, 1);
    let partition = test.partition(tp);
    let error = partition.delete_records(Some(Offset::new(2))).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::OffsetOutOfRange);
    assert_eq!(error.valid_offsets(), Some((Offset::ZERO, Offset::new(1))));

    let deleted = tokio::spawn(async move { partition.delete_records(None).await.unwrap() });
    eventually(|| test.partition(tp).describe().unwrap().log_start == Offset::new(1)).await;
    assert_eq!(list(&test, tp, At::Earliest(true)).await.offset, 1);
    assert_eq!(failed(&test.fetch(tp, 0).await.partitions[0].error), ErrorCode::OffsetOutOfRange);
    assert!(!deleted.is_finished(), "the follower still has it");
    test.acknowledge(tp, 2, 2);
    assert_eq!(soon(deleted).await.unwrap(), Offset::new(1));
    let again = test.partition(tp).delete_records(Some(Offset::ZERO)).await;
    assert_eq!(again.unwrap(), Offset::new(1), "never back");
}

#[tokio::test]
async fn a_look_up_without_a_position_is_malformed() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(1, &[ME], &[]).await;
    let asked = v1::ListOffsetsPartition { topic_id: topic_id_bytes(topic), ..Default::default() };
    let request = v1::ListOffsetsRequest { isolation_level: 0, partitions: vec![asked] };
    let status = soon(test.client().list_offsets(request)).await.unwrap_err();
    let error = highwater_protocol::error_from_status(&status);
    assert_eq!(highwater_protocol::code_of(&error), ErrorCode::InvalidRequest);
}
