//! What the metadata makes of partitions.

use std::sync::Arc;

use highwater_metadata::Record;
use highwater_protocol::v1::Acks;
use highwater_record::split;
use highwater_replication::{Asked, EpochEnd, LeaderResponse};
use highwater_types::{BrokerEpoch, ErrorCode, LeaderEpoch, Offset, TopicPartition};

use super::harness::*;
use crate::partition::{DirtySet, News};

#[tokio::test]
async fn t25_after_the_leadership_is_gone_writes_are_refused_and_those_that_wait_end_unknown() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, batch(&["a"]))])).await;
    eventually(|| test.log_end(tp) == 1).await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    producer.send(request(2, Acks::All, &[(tp, batch(&["b"]))])).await;
    let answer = producer.answer().await;
    assert_eq!((answer.request_id, failed(&answer.partitions[0].error)), (2, ErrorCode::NotLeader));
    let answer = producer.answer().await;
    let error = answer.partitions[0].error.clone().unwrap();
    assert!(answer.request_id == 1 && error.outcome_unknown && error.retriable, "{error:?}");
}

/// Nobody has to write twice because leadership moved.
#[tokio::test]
async fn records_that_the_next_leader_commits_are_acknowledged_all_the_same() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, batch(&["a"]))])).await;
    producer.send(request(2, Acks::All, &[(tp, batch(&["b"]))])).await;
    eventually(|| test.log_end(tp) == 2).await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    let response = answer(&test, tp, |response| response.high_watermark = Offset::new(1));
    test.partition(tp).on_leader_response(&response, &[]).unwrap();
    let acknowledged = producer.answer().await;
    assert_eq!((acknowledged.request_id, acknowledged.partitions[0].error.clone()), (1, None));
    // Leading again, it finds out about the rest by itself.
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    test.acknowledge(tp, 2, 2);
    let acknowledged = producer.answer().await;
    assert_eq!((acknowledged.request_id, acknowledged.partitions[0].error.clone()), (2, None));
}

#[tokio::test]
async fn records_that_are_cut_from_the_log_are_never_acknowledged() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let mut producer = test.producer().await;
    producer.send(request(1, Acks::All, &[(tp, batch(&["a"]))])).await;
    eventually(|| test.log_end(tp) == 1).await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    let response = answer(&test, tp, |response| {
        response.diverging = Some(EpochEnd { epoch: LeaderEpoch::new(0), end: Offset::ZERO });
    });
    assert!(test.partition(tp).on_leader_response(&response, &[]).unwrap().truncated);
    assert!(producer.answer().await.partitions[0].error.clone().unwrap().outcome_unknown);
    // Others are at that offset now.
    let response = answer(&test, tp, |response| {
        response.records = Some((Offset::ZERO, Offset::new(1)));
        response.high_watermark = Offset::new(1);
    });
    test.partition(tp).on_leader_response(&response, &replicated(&["x"], 0, 1)).unwrap();
    producer.no_answer().await;
}

#[tokio::test]
async fn a_partition_without_a_leader_says_so() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.change(tp, |state| state.leader = None).await;
    let result = test.produce_to(tp, Acks::All, batch(&["a"])).await;
    assert_eq!(failed(&result.error), ErrorCode::LeaderNotAvailable);
    assert!(result.error.unwrap().retriable);
}

#[tokio::test]
async fn t21_a_topic_made_again_under_its_name_shares_nothing_with_the_old_one() {
    let mut test = TestBroker::start().await;
    let old = test.topic(1, &[ME], &[]).await;
    test.produce_to(partition_of(old, 0), Acks::All, batch(&["old"])).await;
    test.replay(Record::TopicDeleted { topic: old });
    let name = "again";
    let new = test.topic(1, &[ME], &[]).await;
    assert_ne!(old, new, "{name}");
    let result = test.produce_to(partition_of(old, 0), Acks::All, batch(&["late"])).await;
    assert_eq!(failed(&result.error), ErrorCode::UnknownTopicId);
    assert_eq!(test.produce_to(partition_of(new, 0), Acks::All, batch(&["new"])).await.base_offset, 0);
    assert_eq!(test.read(partition_of(new, 0), 0).await, [(0, "new".to_owned())]);
    let folder = format!("/data/{}", partition_of(old, 0));
    eventually(|| !test.disk.files().iter().any(|path| path.starts_with(&folder))).await;
}

#[tokio::test]
async fn t8_isr_proposals_name_the_incarnation_that_fetched() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2, 3], &[]).await, 0);
    test.change(tp, |state| state.isr = vec![broker(ME), broker(2)]).await;
    test.acknowledge(tp, 3, 0);
    let proposal = soon(test.proposals.recv()).await.unwrap();
    assert_eq!(proposal.partition, tp);
    let member = proposal.proposal.new_isr.iter().find(|member| member.broker == broker(3)).unwrap();
    assert_eq!(member.broker_epoch, BrokerEpoch::new(13));
    assert_eq!(proposal.proposal.partition_epoch, test.image.partition(tp).unwrap().partition_epoch);
}

/// Kept on the test's clock: the tick looks several times per `replica_lag_time_max`.
#[tokio::test]
async fn t22_a_follower_that_is_silent_for_too_long_is_proposed_to_leave() {
    let disk = highwater_storage::sim::SimDisk::new(1);
    let mut test = TestBroker::start_with(disk, |config| config.replica_lag_time_max_ms = 200).await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    let proposal = soon(test.proposals.recv()).await.unwrap();
    let members: Vec<_> = proposal.proposal.new_isr.iter().map(|member| member.broker).collect();
    assert_eq!(members, [broker(ME)]);
}

#[tokio::test]
async fn following_is_announced_and_ended() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[2, ME], &[]).await, 0);
    let change = soon(test.following.recv()).await.unwrap();
    assert_eq!((change.partition.tp(), change.leader), (tp, Some(broker(2))));
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    assert_eq!(soon(test.following.recv()).await.unwrap().leader, None);
    assert!(test.partition(tp).is_leader());
}

pub(super) fn answer(
    test: &TestBroker,
    tp: TopicPartition,
    change: impl FnOnce(&mut LeaderResponse),
) -> LeaderResponse {
    let (_, fetch) = test.partition(tp).follower_fetch(BrokerEpoch::new(11)).unwrap();
    let mut response = LeaderResponse {
        asked: Asked::from(&fetch),
        high_watermark: Offset::ZERO,
        log_start_offset: Offset::ZERO,
        diverging: None,
        records: None,
    };
    change(&mut response);
    response
}

/// `values` as a leader of `epoch` has them at `base`.
pub(super) fn replicated(values: &[&str], base: i64, epoch: i32) -> Vec<highwater_record::Batch> {
    let mut bytes = batch(values).to_vec();
    highwater_record::stamp(&mut bytes, Offset::new(base), LeaderEpoch::new(epoch));
    split(bytes.into()).unwrap()
}

#[tokio::test]
async fn a_follower_appends_acknowledges_what_is_on_disk_and_leads_with_it() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[2, ME], &[("min.insync.replicas", "1")]).await, 0);
    let partition = test.partition(tp);
    let news = DirtySet::new();
    partition.subscribe(news.subscription(tp, &[News::DURABLE, News::LOG_END]));
    let batches = replicated(&["a", "b"], 0, 0);
    let response = answer(&test, tp, |response| {
        response.records = Some((Offset::ZERO, Offset::new(2)));
        response.high_watermark = Offset::new(1);
    });
    let followed = partition.on_leader_response(&response, &batches).unwrap();
    assert!(followed.appended && !followed.truncated);
    assert_eq!(test.high_watermark(tp), 1);
    soon(async {
        loop {
            news.changed().await;
            if news.take().iter().any(|(_, news)| news.has(News::DURABLE)) {
                break;
            }
        }
    })
    .await;
    let (leader, fetch) = partition.follower_fetch(BrokerEpoch::new(11)).unwrap();
    assert_eq!((leader, fetch.fetch_offset, fetch.durable_offset), (broker(2), Offset::new(2), Offset::new(2)));
    test.change(tp, |state| (state.leader, state.isr) = (Some(broker(ME)), vec![broker(ME)])).await;
    eventually(|| test.high_watermark(tp) == 2).await;
    assert_eq!(test.read(tp, 0).await.len(), 2);
}

#[tokio::test]
async fn t1_t4_a_follower_truncates_where_the_logs_part_before_it_takes_the_high_watermark() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[("min.insync.replicas", "1")]).await, 0);
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    test.produce_to(tp, Acks::Leader, batch(&["only here"])).await;
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    let partition = test.partition(tp);
    let response = answer(&test, tp, |response| {
        response.diverging = Some(EpochEnd { epoch: LeaderEpoch::new(0), end: Offset::new(1) });
        response.high_watermark = Offset::new(2);
    });
    let followed = partition.on_leader_response(&response, &[]).unwrap();
    assert!(followed.truncated);
    assert_eq!(
        (test.log_end(tp), test.high_watermark(tp)),
        (1, 0),
        "the answer that cuts says nothing of what is left"
    );
}

#[tokio::test]
async fn acks_of_followers_advance_the_high_watermark_and_news_reach_their_sessions() {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[ME, 2], &[]).await, 0);
    let session = DirtySet::new();
    let subscription = session.subscription(tp, &[News::LOG_END, News::POSITIONS, News::ROLE]);
    let partition = test.partition(tp);
    partition.subscribe(Arc::clone(&subscription));
    test.produce_to(tp, Acks::Leader, batch(&["a"])).await;
    assert_eq!(session.take(), [(tp, News::LOG_END)]);
    test.acknowledge(tp, 2, 1);
    assert_eq!(session.take(), [(tp, News::POSITIONS)]);
    assert_eq!(partition.replica_positions(LeaderEpoch::FIRST), Some((Offset::new(1), Offset::ZERO)));
    test.change(tp, |state| state.leader = Some(broker(2))).await;
    assert!(session.take().iter().any(|(_, news)| news.has(News::ROLE)));
    partition.unsubscribe(&subscription);
    test.change(tp, |state| state.leader = Some(broker(ME))).await;
    assert!(session.take().is_empty());
}

#[tokio::test]
async fn a_changed_configuration_holds_from_the_next_append_on() {
    let mut test = TestBroker::start().await;
    let topic = test.topic(1, &[ME], &[]).await;
    let tp = partition_of(topic, 0);
    let large = "x".repeat(5_000);
    assert_eq!(test.produce_to(tp, Acks::All, batch(&[&large])).await.error, None);
    let configs = [("max.message.bytes".to_owned(), "2000".to_owned())].into();
    test.replay(Record::TopicConfigured { topic, configs });
    test.apply().await;
    assert_eq!(failed(&test.produce_to(tp, Acks::All, batch(&[&large])).await.error), ErrorCode::BatchTooLarge);
}
