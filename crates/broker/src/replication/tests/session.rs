//! What a follower's stream gets, message by message.

use std::time::Duration;

use highwater_protocol::internal::replication_client::ReplicationClient;
use highwater_protocol::internal::{
    ReplicaFetchPartition, ReplicaFetchPartitionResult, ReplicaFetchRequest, ReplicaFetchResponse,
};
use highwater_protocol::{MESSAGE_SIZE_MAX, code_of, topic_id_bytes};
use highwater_seams::Seams;
use highwater_types::{BrokerId, ErrorCode, TopicPartition};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::cluster::*;
use crate::produce::Acks;

/// A follower played by the test: broker 2.
struct Follower {
    requests: mpsc::Sender<ReplicaFetchRequest>,
    answers: Streaming<ReplicaFetchResponse>,
    is_first: bool,
}

impl Follower {
    async fn connect(cluster: &Cluster) -> Self {
        let channel = highwater_seams::channel(&Seams::real().net, "127.0.0.1", cluster.nodes[&1].port);
        let (requests, outbound) = mpsc::channel(8);
        let mut client = ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_MAX);
        let answers = soon(client.replicate(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        Self { requests, answers, is_first: true }
    }

    async fn send(&mut self, max_bytes: u32, partitions: Vec<ReplicaFetchPartition>) {
        let mut request = ReplicaFetchRequest { max_bytes, partitions, ..Default::default() };
        if std::mem::take(&mut self.is_first) {
            (request.broker_id, request.broker_epoch) = (2, epoch_of(2).get());
        }
        soon(self.requests.send(request)).await.unwrap();
    }

    async fn results(&mut self) -> Vec<ReplicaFetchPartitionResult> {
        let response = soon(self.answers.message()).await.unwrap().expect("an answer");
        assert_eq!(response.error, None);
        response.partitions
    }

    async fn result(&mut self) -> ReplicaFetchPartitionResult {
        let [result] = <[_; 1]>::try_from(self.results().await).unwrap();
        result
    }

    /// The next one that answers a fetch; news of positions may come before it.
    async fn answer(&mut self) -> ReplicaFetchPartitionResult {
        loop {
            let found = self.results().await.into_iter().find(|result| result.answers_fetch);
            if let Some(result) = found {
                return result;
            }
        }
    }

    /// No fetch is answered for a while; news of positions may come.
    async fn silent(&mut self) {
        let answer = tokio::time::timeout(Duration::from_millis(120), self.answer()).await;
        assert!(answer.is_err(), "{answer:?}");
    }
}

/// Broker 1 leads, in leader epoch 0; broker 2 is the test.
async fn leader(partitions: u32, configs: &[(&str, &str)]) -> (Cluster, Vec<TopicPartition>) {
    let mut cluster = Cluster::start(1).await;
    let topic = cluster.topic(partitions, &[1, 2], configs).await;
    (cluster, (0..partitions).map(|p| tp(topic, p)).collect())
}

fn entry(tp: TopicPartition, end: i64, durable: i64, want_records: bool) -> ReplicaFetchPartition {
    ReplicaFetchPartition {
        disk_full: false,
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: 0,
        fetch_offset: end,
        durable_offset: durable,
        last_fetched_epoch: if end > 0 { 0 } else { -1 },
        log_start_offset: 0,
        want_records,
    }
}

fn end_of(result: &ReplicaFetchPartitionResult) -> i64 {
    let batches = highwater_record::split(result.records.clone()).unwrap();
    batches.last().unwrap().header().next_offset().get()
}

#[tokio::test]
async fn an_open_fetch_is_answered_once_when_records_come() {
    let (cluster, tps) = leader(1, &[]).await;
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    follower.silent().await;
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["a"]));
    let result = follower.answer().await;
    assert_eq!((end_of(&result), result.fetch_offset, result.leader_epoch), (1, 0, 0));
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["b"]));
    follower.silent().await;
    follower.send(0, vec![entry(tps[0], 1, 0, true)]).await;
    assert_eq!(end_of(&follower.answer().await), 2);
}

#[tokio::test]
async fn t7_an_entry_that_wants_no_records_acknowledges_and_gets_none() {
    let (cluster, tps) = leader(1, &[]).await;
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    let mut committed = cluster.append(1, tps[0], Acks::All, batch(&["a"]));
    assert_eq!(end_of(&follower.answer().await), 1);
    follower.send(0, vec![entry(tps[0], 1, 0, true)]).await;
    let early = tokio::time::timeout(Duration::from_millis(50), committed.recv()).await;
    assert!(early.is_err(), "it is in the follower's page cache only");
    follower.send(0, vec![entry(tps[0], 1, 1, false)]).await;
    assert!(soon(committed.recv()).await.unwrap().results[0].1.is_ok());
    // T27: the open fetch stays open; only the high watermark is told.
    loop {
        let news = follower.result().await;
        assert_eq!((news.answers_fetch, news.records.len()), (false, 0));
        if news.high_watermark == 1 {
            break;
        }
    }
    follower.silent().await;
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["b"]));
    assert_eq!(end_of(&follower.answer().await), 2);
}

#[tokio::test]
async fn one_answer_carries_several_partitions_and_no_more_than_was_asked_for() {
    let (cluster, tps) = leader(6, &[("durability", "replicated")]).await;
    for tp in &tps {
        for n in 0..4 {
            let _ = cluster.append(1, *tp, Acks::None, large(n, 100 << 10));
        }
    }
    let mut follower = Follower::connect(&cluster).await;
    follower.send(1 << 20, tps.iter().map(|tp| entry(*tp, 0, 0, true)).collect()).await;
    let (mut answers, mut seen) = (0, 0);
    while seen < 6 {
        let results = follower.results().await;
        let answered: Vec<_> = results.iter().filter(|result| result.answers_fetch).collect();
        let bytes: usize = answered.iter().map(|result| result.records.len()).sum();
        assert!(bytes <= 1 << 20, "{bytes}");
        assert!(answered.iter().all(|result| !result.records.is_empty()));
        seen += answered.len();
        answers += 1;
    }
    assert!((2..=4).contains(&answers), "{answers}");
}

#[tokio::test]
async fn t1_a_divergence_is_answered_in_place_of_records() {
    let (cluster, tps) = leader(1, &[("durability", "replicated")]).await;
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["a", "b", "c"]));
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, vec![entry(tps[0], 9, 9, true)]).await;
    let result = follower.answer().await;
    let diverging = result.diverging.unwrap();
    assert_eq!((diverging.leader_epoch, diverging.end_offset, result.fetch_offset), (0, 3, 9));
    assert!(result.records.is_empty());
    // Nothing of it was acknowledged, and nothing is told of the high watermark before the logs match.
    assert_eq!(cluster.high_watermark(1, tps[0]), 0);
    follower.silent().await;
}

#[tokio::test]
async fn t25_an_open_fetch_hears_that_the_leader_s_epoch_is_over() {
    let (cluster, tps) = leader(2, &[]).await;
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, tps.iter().map(|tp| entry(*tp, 0, 0, true)).collect()).await;
    follower.silent().await;
    cluster.change(tps[0], |state| state.leader = Some(BrokerId::new(2))).await;
    let result = follower.answer().await;
    assert_eq!(code_of(result.error.as_ref().unwrap()), ErrorCode::NotLeader);
    assert_eq!(result.partition, 0);
    cluster.change(tps[1], |state| state.leader_epoch = state.leader_epoch.next()).await;
    let result = follower.answer().await;
    assert_eq!(code_of(result.error.as_ref().unwrap()), ErrorCode::FencedLeaderEpoch);
    // T7: an entry in an old epoch is refused, too.
    follower.send(0, vec![entry(tps[1], 0, 0, true)]).await;
    let result = follower.answer().await;
    assert_eq!(code_of(result.error.as_ref().unwrap()), ErrorCode::FencedLeaderEpoch);
}

#[tokio::test]
async fn errors_are_per_partition_and_say_what_to_do() {
    let (cluster, tps) = leader(2, &[]).await;
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["a"]));
    let unknown = TopicPartition { topic: highwater_types::TopicId::from_u128(99), ..tps[0] };
    let mut newer = entry(tps[1], 0, 0, true);
    newer.leader_epoch = 7;
    let mut nonsense = entry(tps[1], -5, 0, true);
    nonsense.partition = 77;
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, vec![entry(unknown, 0, 0, true), newer, nonsense, entry(tps[0], 0, 0, true)]).await;
    let mut results = Vec::new();
    while results.len() < 4 {
        results.extend(follower.results().await);
    }
    let codes: Vec<_> = results.iter().map(|result| result.error.as_ref().map(code_of)).collect();
    let expected =
        [Some(ErrorCode::UnknownTopicId), Some(ErrorCode::UnknownLeaderEpoch), Some(ErrorCode::InvalidRequest), None];
    assert_eq!(codes, expected);
    assert_eq!(end_of(&results[3]), 1);
}

#[tokio::test]
async fn t8_an_older_incarnation_is_refused() {
    let (cluster, tps) = leader(1, &[]).await;
    let epoch = epoch_of(2).next();
    let broker = highwater_metadata::BrokerState {
        id: BrokerId::new(2),
        broker_epoch: epoch,
        ..cluster.image.lock().unwrap().broker(BrokerId::new(1)).unwrap().clone()
    };
    cluster.decide(highwater_metadata::Record::BrokerRegistered { broker }).await;
    let mut follower = Follower::connect(&cluster).await;
    follower.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    let result = follower.answer().await;
    assert_eq!(code_of(result.error.as_ref().unwrap()), ErrorCode::StaleBrokerEpoch);
}

#[tokio::test]
async fn t27_a_newer_stream_of_a_follower_ends_the_older() {
    let (cluster, tps) = leader(1, &[]).await;
    let mut first = Follower::connect(&cluster).await;
    first.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    first.silent().await;
    let mut second = Follower::connect(&cluster).await;
    second.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    assert!(soon(first.answers.message()).await.is_err());
    let _ = cluster.append(1, tps[0], Acks::None, batch(&["a"]));
    assert_eq!(end_of(&second.answer().await), 1);
}

#[tokio::test]
async fn a_stream_that_does_not_say_whose_it_is_is_refused() {
    let (cluster, tps) = leader(1, &[]).await;
    let mut follower = Follower::connect(&cluster).await;
    follower.is_first = false;
    follower.send(0, vec![entry(tps[0], 0, 0, true)]).await;
    let status = soon(follower.answers.message()).await.unwrap_err();
    assert_eq!(code_of(&highwater_protocol::error_from_status(&status)), ErrorCode::InvalidRequest);
}
