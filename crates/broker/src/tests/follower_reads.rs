//! Consumers that read from followers (KIP-392).

use std::time::{Duration, Instant};

use highwater_protocol::v1;
use highwater_protocol::v1::data_client::DataClient;
use highwater_storage::sim::SimDisk;
use highwater_types::{BrokerId, ErrorCode, Offset, TopicPartition};
use tokio_stream::wrappers::ReceiverStream;

use super::coordinator::{find, init};
use super::harness::*;
use super::roles::{answer, replicated};
use super::transactions::{end, kept, put};
use super::whole::{Node, start_with};
use crate::BrokerConfig;
use crate::cluster::tests::fake::Fake;

const LONG: Duration = Duration::from_secs(60);

fn near(max_wait: Duration, tp: TopicPartition, offset: i64) -> v1::FetchRequest {
    v1::FetchRequest { rack: "b".into(), ..fetch_request(1, max_wait, &[(tp, offset)]) }
}

/// This broker follows 2, and has been sent `values` of which the first `committed` are.
async fn follower(values: &[&str], committed: i64) -> (TestBroker, TopicPartition) {
    let mut test = TestBroker::start().await;
    let tp = partition_of(test.topic(1, &[2, ME, 3], &[]).await, 0);
    follow(&test, tp, 0, values, committed);
    (test, tp)
}

/// The leader sends `values` from offset `base` on, and its high watermark.
fn follow(test: &TestBroker, tp: TopicPartition, base: i64, values: &[&str], committed: i64) {
    let batches = if values.is_empty() { Vec::new() } else { replicated(values, base, 0) };
    let response = answer(test, tp, |response| {
        let next = Offset::new(base + values.len() as i64);
        response.records = (!values.is_empty()).then_some((Offset::new(base), next));
        response.high_watermark = Offset::new(committed);
    });
    test.partition(tp).on_leader_response(&response, &batches).unwrap();
}

async fn one(test: &TestBroker, request: v1::FetchRequest) -> Option<v1::FetchPartitionResult> {
    let mut consumer = test.consumer().await;
    consumer.send(request).await;
    consumer.answer().await.partitions.pop()
}

#[tokio::test]
async fn t26_an_in_sync_follower_serves_what_it_knows_to_be_committed_to_those_who_ask_for_a_near_replica() {
    let (test, tp) = follower(&["a", "b"], 0).await;
    assert_eq!(one(&test, near(Duration::ZERO, tp, 0)).await, None, "nothing is known to be committed");
    follow(&test, tp, 2, &["c"], 2);
    let found = one(&test, near(Duration::ZERO, tp, 0)).await.unwrap();
    let values = records(&found, 0);
    assert_eq!(values, [(0, "a".to_owned()), (1, "b".to_owned())]);
    assert_eq!((found.high_watermark, found.last_stable_offset, found.leader_epoch), (2, 2, 0));
    // Who has not said where it is reads from leaders only.
    assert_eq!(failed(&test.fetch(tp, 0).await.partitions[0].error), ErrorCode::NotLeader);
}

#[tokio::test]
async fn t26_a_follower_outside_the_isr_serves_nothing() {
    let (mut test, tp) = follower(&["a"], 1).await;
    let mut consumer = test.consumer().await;
    consumer.send(near(LONG, tp, 1)).await;
    consumer.no_answer().await;
    test.change(tp, |state| state.isr = vec![broker(2), broker(3)]).await;
    let waited = consumer.answer().await.partitions.remove(0);
    let error = waited.error.clone().unwrap();
    assert_eq!((failed(&waited.error), error.leader.map(|hint| hint.node_id)), (ErrorCode::NotLeader, Some(2)));
    let now = one(&test, near(Duration::ZERO, tp, 0)).await.unwrap();
    assert_eq!(failed(&now.error), ErrorCode::NotLeader);
}

#[tokio::test]
async fn t25_a_read_that_waits_at_a_follower_ends_with_its_high_watermark_or_its_epoch() {
    let (mut test, tp) = follower(&["a"], 0).await;
    let mut consumer = test.consumer().await;
    consumer.send(near(LONG, tp, 0)).await;
    consumer.no_answer().await;
    follow(&test, tp, 1, &[], 1);
    assert_eq!(records(&consumer.answer().await.partitions[0], 0), [(0, "a".to_owned())]);
    let mut asked = near(LONG, tp, 1);
    asked.partitions[0].leader_epoch = 0;
    consumer.send(asked).await;
    consumer.no_answer().await;
    test.change(tp, |state| state.leader = Some(broker(3))).await;
    let answer = consumer.answer().await;
    assert_eq!(failed(&answer.partitions[0].error), ErrorCode::FencedLeaderEpoch);
}

#[tokio::test]
async fn t26_a_follower_tells_an_offset_that_is_yet_to_come_from_one_that_is_not_there() {
    let (test, tp) = follower(&["a", "b"], 1).await;
    // Here, and not known to be committed: waited for. Even by a reader whose epochs can't be compared yet.
    let mut asked = near(Duration::ZERO, tp, 2);
    asked.partitions[0].last_fetched_epoch = 7;
    assert_eq!(one(&test, asked).await, None);
    let beyond = one(&test, near(Duration::ZERO, tp, 5)).await.unwrap();
    assert_eq!(failed(&beyond.error), ErrorCode::OffsetOutOfRange);
    follow(&test, tp, 2, &[], 6);
    let beyond = one(&test, near(Duration::ZERO, tp, 5)).await.unwrap();
    assert_eq!(failed(&beyond.error), ErrorCode::OffsetNotAvailable);
    assert!(beyond.error.unwrap().retriable);
    let mut newer = near(Duration::ZERO, tp, 0);
    newer.partitions[0].leader_epoch = 3;
    assert_eq!(failed(&one(&test, newer).await.unwrap().error), ErrorCode::UnknownLeaderEpoch);
}

#[tokio::test]
async fn a_reader_whose_records_were_cut_is_told_by_a_follower_too() {
    let (test, tp) = follower(&["a", "b"], 2).await;
    let mut asked = near(Duration::ZERO, tp, 2);
    asked.partitions[0].last_fetched_epoch = 0;
    assert_eq!(one(&test, asked.clone()).await, None);
    asked.partitions[0].last_fetched_epoch = 4;
    let result = one(&test, asked).await.unwrap();
    assert_eq!(failed(&result.error), ErrorCode::LogTruncated);
}

/// Brokers 1, 2 and 3 in racks a, b and c; 1 leads.
async fn racks(fake: &Fake) -> (Vec<Node>, TopicPartition) {
    let mut nodes = Vec::new();
    for (id, rack) in [(1, "a"), (2, "b"), (3, "c")] {
        let rack = Some(rack.to_owned());
        let config = BrokerConfig { id: BrokerId::new(id), rack, ..BrokerConfig::default() };
        nodes.push(start_with(fake, config, SimDisk::new(id.into())).await);
    }
    let tp = fake.create_topic("t", &[1, 2, 3], &[("min.insync.replicas", "2")]);
    eventually(|| nodes[0].leads(tp)).await;
    (nodes, tp)
}

async fn ask(node: &Node, request: v1::FetchRequest) -> Option<v1::FetchPartitionResult> {
    let (requests, outbound) = tokio::sync::mpsc::channel(1);
    requests.send(request).await.unwrap();
    let mut answers = soon(DataClient::new(node.channel()).fetch(ReceiverStream::new(outbound))).await.unwrap();
    soon(answers.get_mut().message()).await.unwrap().unwrap().partitions.pop()
}

#[tokio::test]
async fn t26_the_leader_sends_a_reader_to_the_replica_of_its_rack_which_has_new_records_soon() {
    let fake = Fake::start(1).await;
    let (nodes, tp) = racks(&fake).await;
    assert_eq!(nodes[0].produce(tp, "first").await.error, None);
    let told = ask(&nodes[0], near(LONG, tp, 0)).await.unwrap();
    assert_eq!((told.preferred_replica, told.error, told.records.len()), (Some(2), None, 0));
    // The leader itself, on demand, for its own rack, and for one without a replica.
    let mut stays = near(LONG, tp, 0);
    stays.partitions[0].not_elsewhere = true;
    for request in [
        stays,
        v1::FetchRequest { rack: "a".into(), ..near(LONG, tp, 0) },
        v1::FetchRequest { rack: "nowhere".into(), ..near(LONG, tp, 0) },
        v1::FetchRequest { rack: String::new(), ..near(LONG, tp, 0) },
    ] {
        let found = ask(&nodes[0], request).await.unwrap();
        assert_eq!((found.preferred_replica, records(&found, 0).len()), (None, 1));
    }
    assert_eq!(records(&ask(&nodes[1], near(LONG, tp, 0)).await.unwrap(), 0), [(0, "first".to_owned())]);
    // T27: the follower hears of the high watermark although nothing else is written.
    let waiting = ask(&nodes[1], near(LONG, tp, 1));
    let begun = Instant::now();
    let (found, produced) = tokio::join!(waiting, nodes[0].produce(tp, "second"));
    assert_eq!(produced.error, None);
    assert_eq!(records(&found.unwrap(), 1), [(1, "second".to_owned())]);
    assert!(begun.elapsed() < LONG / 4, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn t32_committed_reads_at_a_follower_end_before_what_it_does_not_know_to_be_stable() {
    let fake = Fake::start(1).await;
    let (nodes, tp) = racks(&fake).await;
    find(&nodes[0], "x").await;
    let coordinator = &nodes[coordinator_of(&nodes, "x").await];
    let producer = init(coordinator, "x").await.unwrap();
    assert_eq!(put(&nodes[0], tp, "x", producer, 0, "aborted").await.error, None);
    assert_eq!(nodes[0].produce(tp, "plain").await.error, None);
    let committed = |offset, wait| {
        let isolation_level = v1::IsolationLevel::ReadCommitted.into();
        v1::FetchRequest { isolation_level, ..near(wait, tp, offset) }
    };
    // Nothing of an open transaction, nor what lies behind it, wherever the high watermark is.
    let known = || nodes[1].handle.partitions().find(tp).unwrap().positions().unwrap().1;
    eventually(|| known() == Offset::new(2)).await;
    assert_eq!(ask(&nodes[1], committed(0, Duration::ZERO)).await, None);
    end(coordinator, "x", producer, false).await.unwrap();
    let found = ask(&nodes[1], committed(0, LONG)).await.unwrap();
    assert_eq!(kept(&found), ["plain"]);
    assert_eq!((found.last_stable_offset, found.high_watermark), (3, 3));
}

/// Which of them coordinates the transactions of `id`.
async fn coordinator_of(nodes: &[Node], id: &str) -> usize {
    let found = find(&nodes[0], id).await;
    nodes.iter().position(|node| node.handle.partitions().me().get() == found.broker_id).unwrap()
}
