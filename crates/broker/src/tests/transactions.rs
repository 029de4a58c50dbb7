//! Transactions of whole brokers, from the first record to the marker.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_protocol::internal::transaction_markers_client::TransactionMarkersClient;
use highwater_protocol::internal::{TransactionMarker, WriteMarkersRequest};
use highwater_protocol::v1::data_client::DataClient;
use highwater_protocol::v1::{self, Acks};
use highwater_protocol::{code_of, error_from_status, topic_id_bytes};
use highwater_storage::sim::SimDisk;
use highwater_types::{ErrorCode, TopicPartition};
use tokio_stream::wrappers::ReceiverStream;

use super::coordinator::{asked, coordinator, find, init, restart};
use super::harness::{eventually, failed, fetch_request, request, soon};
use super::producers::numbered;
use super::whole::{Node, start, start_alone};
use crate::cluster::tests::fake::Fake;

pub(super) type Producer = v1::InitProducerIdResponse;

/// One broker, a topic, and the producer of `ids`, in that order.
async fn world<const N: usize>(ids: [&str; N]) -> (Fake, Node, TopicPartition, [Producer; N]) {
    let fake = Fake::start(1).await;
    let node = start_alone(&fake, SimDisk::new(1)).await;
    let tp = fake.create_topic("data", &[1], &[]);
    eventually(|| node.leads(tp)).await;
    let mut producers = [Producer::default(); N];
    for (id, producer) in ids.iter().zip(&mut producers) {
        find(&node, id).await;
        *producer = init(&node, id).await.unwrap();
    }
    (fake, node, tp, producers)
}

/// One batch of a transaction. The answer comes once it is committed, as a record.
pub(super) async fn put(
    node: &Node,
    tp: TopicPartition,
    id: &str,
    of: Producer,
    sequence: i32,
    value: &str,
) -> v1::ProducePartitionResult {
    put_with(Acks::All, node, tp, id, of, (sequence, value)).await
}

async fn put_with(
    acks: Acks,
    node: &Node,
    tp: TopicPartition,
    id: &str,
    of: Producer,
    (sequence, value): (i32, &str),
) -> v1::ProducePartitionResult {
    let (requests, outbound) = tokio::sync::mpsc::channel(1);
    let batch = numbered((of.producer_id, of.producer_epoch as i16), sequence, &[value], true);
    let request = v1::ProduceRequest { transactional_id: id.into(), ..request(1, acks, &[(tp, batch)]) };
    requests.send(request).await.unwrap();
    let mut client = DataClient::new(node.channel());
    let mut answers = soon(client.produce(ReceiverStream::new(outbound))).await.unwrap().into_inner();
    soon(answers.message()).await.unwrap().unwrap().partitions.remove(0)
}

pub(super) async fn end(node: &Node, id: &str, of: Producer, commit: bool) -> Result<Producer, v1::Error> {
    let request = v1::EndTransactionRequest {
        transactional_id: id.into(),
        producer_id: of.producer_id,
        producer_epoch: of.producer_epoch,
        commit,
        ..Default::default()
    };
    let next = asked(|| async { coordinator(node).end_transaction(request.clone()).await }).await?;
    Ok(Producer { producer_id: next.producer_id, producer_epoch: next.producer_epoch })
}

/// `None`: there is nothing to be read.
async fn fetch(node: &Node, tp: TopicPartition, from: i64) -> Option<v1::FetchPartitionResult> {
    let (requests, outbound) = tokio::sync::mpsc::channel(1);
    let mut request = fetch_request(1, Duration::ZERO, &[(tp, from)]);
    request.isolation_level = v1::IsolationLevel::ReadCommitted.into();
    requests.send(request).await.unwrap();
    let mut client = DataClient::new(node.channel());
    let mut answers = soon(client.fetch(ReceiverStream::new(outbound))).await.unwrap().into_inner();
    let result = soon(answers.message()).await.unwrap().unwrap().partitions.pop()?;
    assert_eq!(result.error, None);
    Some(result)
}

/// What a reader of committed transactions keeps, by the rules of the protocol.
pub(super) fn kept(result: &v1::FetchPartitionResult) -> Vec<String> {
    let mut dropping = BTreeSet::new();
    let mut kept = Vec::new();
    for batch in highwater_record::split(result.records.clone()).unwrap() {
        let (header, id) = (*batch.header(), batch.header().producer_id.get());
        if header.attributes.is_control() {
            dropping.remove(&id);
            continue;
        }
        let begins =
            |one: &v1::AbortedTransaction| one.producer_id == id && one.first_offset == header.base_offset.get();
        if result.aborted.iter().any(begins) {
            dropping.insert(id);
        }
        if !dropping.contains(&id) {
            let records = batch.records(1 << 20).unwrap().map(Result::unwrap);
            kept.extend(records.map(|record| String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    kept
}

/// Reads from the start until the last stable offset is `stable`.
async fn read_until(node: &Node, tp: TopicPartition, stable: i64) -> v1::FetchPartitionResult {
    soon(async {
        loop {
            if let Some(result) = fetch(node, tp, 0).await
                && result.last_stable_offset >= stable
            {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

fn log_end(node: &Node, tp: TopicPartition) -> i64 {
    node.handle.partitions().find(tp).unwrap().positions().unwrap().0.end.get()
}

async fn latest_stable(node: &Node, tp: TopicPartition) -> i64 {
    let partition = v1::ListOffsetsPartition {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        leader_epoch: -1,
        at: Some(v1::list_offsets_partition::At::Latest(true)),
    };
    let isolation_level = v1::IsolationLevel::ReadCommitted.into();
    let request = v1::ListOffsetsRequest { partitions: vec![partition], isolation_level };
    let found = soon(DataClient::new(node.channel()).list_offsets(request)).await.unwrap().into_inner();
    found.partitions[0].offset
}

async fn producers(node: &Node, tp: TopicPartition) -> Vec<v1::ProducerInfo> {
    let request = v1::DescribeProducersRequest { topic_id: topic_id_bytes(tp.topic), partition: tp.partition.get() };
    soon(coordinator(node).describe_producers(request)).await.unwrap().into_inner().producers
}

/// As a coordinator of the epoch.
async fn mark(node: &Node, tp: TopicPartition, of: Producer, coordinator_epoch: i32) -> Option<v1::Error> {
    let topic = v1::TopicPartitions { topic_id: topic_id_bytes(tp.topic), partitions: vec![tp.partition.get()] };
    let marker = TransactionMarker {
        producer_id: of.producer_id,
        producer_epoch: of.producer_epoch,
        commit: true,
        coordinator_epoch,
        partitions: vec![topic],
        keeps_epoch: false,
    };
    let request = WriteMarkersRequest { markers: vec![marker] };
    let written = soon(TransactionMarkersClient::new(node.channel()).write_markers(request)).await.unwrap();
    written.into_inner().markers.remove(0).error
}

#[tokio::test]
async fn trap_32_what_a_transaction_writes_is_seen_once_it_is_committed_and_nothing_behind_it_before() {
    let (_fake, node, tp, [open, other]) = world(["open", "other"]).await;
    assert_eq!(put(&node, tp, "open", open, 0, "a").await.error, None);
    assert_eq!(node.produce(tp, "plain").await.error, None);
    assert_eq!(put(&node, tp, "other", other, 0, "b").await.error, None);
    end(&node, "other", other, true).await.unwrap();
    eventually(|| log_end(&node, tp) == 4).await;

    assert_eq!(fetch(&node, tp, 0).await, None);
    assert_eq!(latest_stable(&node, tp).await, 0);

    let next = end(&node, "open", open, true).await.unwrap();
    assert_eq!((next.producer_id, next.producer_epoch), (open.producer_id, open.producer_epoch + 1));
    let after = read_until(&node, tp, 5).await;
    assert_eq!(kept(&after), ["a", "plain", "b"]);
    assert_eq!((after.high_watermark, after.aborted.len()), (5, 0));
    assert_eq!(latest_stable(&node, tp).await, 5);
    node.stop().await;
}

#[tokio::test]
async fn trap_32_what_was_aborted_is_named_and_a_restart_changes_nothing() {
    let (fake, node, tp, [first]) = world(["t"]).await;
    assert_eq!(put(&node, tp, "t", first, 0, "wrong").await.error, None);
    assert_eq!(put(&node, tp, "t", first, 1, "wrong too").await.error, None);
    assert_eq!(node.produce(tp, "plain").await.error, None);
    let second = end(&node, "t", first, false).await.unwrap();
    // Also while the markers of the one before are on their way: then it waits.
    assert_eq!(put(&node, tp, "t", second, 0, "right").await.error, None);
    let third = end(&node, "t", second, true).await.unwrap();
    let read = read_until(&node, tp, 6).await;
    assert_eq!(kept(&read), ["plain", "right"]);
    let aborted = v1::AbortedTransaction { producer_id: first.producer_id, first_offset: 0 };
    assert_eq!(read.aborted, [aborted]);
    assert_eq!(fetch(&node, tp, 5).await.unwrap().aborted, [], "it ended before");

    let node = restart(&fake, node).await;
    eventually(|| node.leads(tp)).await;
    assert_eq!(kept(&read_until(&node, tp, 6).await), ["plain", "right"]);
    assert_eq!(put(&node, tp, "t", third, 0, "more").await.error, None);
    end(&node, "t", third, true).await.unwrap();
    assert_eq!(kept(&read_until(&node, tp, 8).await), ["plain", "right", "more"]);
    node.stop().await;
}

#[tokio::test]
async fn trap_33_a_zombie_writes_nothing_neither_after_its_transaction_nor_after_it_was_replaced() {
    let (_fake, node, tp, [old]) = world(["t"]).await;
    assert_eq!(put(&node, tp, "t", old, 0, "a").await.error, None);
    let next = end(&node, "t", old, true).await.unwrap();
    read_until(&node, tp, 2).await;
    assert_eq!(failed(&put(&node, tp, "t", old, 1, "late").await.error), ErrorCode::InvalidProducerEpoch);
    assert_eq!(put(&node, tp, "t", next, 0, "left open").await.error, None);

    // Another one takes the transactional id: what was left open is aborted.
    let new = init(&node, "t").await.unwrap();
    assert!(new.producer_epoch > next.producer_epoch);
    let read = read_until(&node, tp, 4).await;
    assert_eq!(kept(&read), ["a"]);
    for sequence in [0, 1] {
        let result = put(&node, tp, "t", next, sequence, "zombie").await;
        assert_eq!(failed(&result.error), ErrorCode::InvalidProducerEpoch, "{sequence}");
    }
    assert_eq!(log_end(&node, tp), 4);
    assert_eq!(put(&node, tp, "t", new, 0, "b").await.error, None);
    end(&node, "t", new, true).await.unwrap();
    assert_eq!(kept(&read_until(&node, tp, 6).await), ["a", "b"]);
    node.stop().await;
}

#[tokio::test]
async fn trap_34_a_marker_that_comes_again_ends_no_newer_transaction_and_an_old_coordinator_s_is_refused() {
    let (_fake, node, tp, [first]) = world(["t"]).await;
    assert_eq!(put(&node, tp, "t", first, 0, "a").await.error, None);
    let second = end(&node, "t", first, true).await.unwrap();
    read_until(&node, tp, 2).await;
    assert_eq!(mark(&node, tp, second, 100).await, None, "it is there");
    assert_eq!(log_end(&node, tp), 2);
    assert_eq!(put(&node, tp, "t", second, 0, "b").await.error, None);
    for again in [first, second] {
        assert_eq!(mark(&node, tp, again, 100).await, None);
    }
    assert_eq!(log_end(&node, tp), 3);
    assert_eq!(fetch(&node, tp, 0).await.unwrap().last_stable_offset, 2, "still open");
    let third = Producer { producer_epoch: second.producer_epoch + 1, ..second };
    assert_eq!(failed(&mark(&node, tp, third, -1).await), ErrorCode::TransactionCoordinatorFenced);
    assert_eq!(log_end(&node, tp), 3);
    end(&node, "t", second, true).await.unwrap();
    assert_eq!(kept(&read_until(&node, tp, 4).await), ["a", "b"]);
    node.stop().await;
}

#[tokio::test]
async fn a_hanging_transaction_is_found_and_ended_without_its_coordinator() {
    let (_fake, node, tp, [of]) = world(["t"]).await;
    assert_eq!(put(&node, tp, "t", of, 0, "a").await.error, None);
    let [found] = <[_; 1]>::try_from(producers(&node, tp).await).unwrap();
    assert_eq!((found.producer_id, found.producer_epoch), (of.producer_id, of.producer_epoch));
    assert_eq!((found.last_sequence, found.transaction_start_offset, found.coordinator_epoch), (0, 0, -1));
    let abort = |producer_epoch| v1::AbortHangingTransactionRequest {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        producer_id: of.producer_id,
        producer_epoch,
        coordinator_epoch: i32::MAX,
    };
    let refused = soon(coordinator(&node).abort_hanging_transaction(abort(of.producer_epoch + 1))).await.unwrap_err();
    assert_eq!(code_of(&error_from_status(&refused)), ErrorCode::InvalidTransactionState);
    soon(coordinator(&node).abort_hanging_transaction(abort(of.producer_epoch))).await.unwrap();
    let read = read_until(&node, tp, 2).await;
    assert!(kept(&read).is_empty());
    assert_eq!(producers(&node, tp).await[0].transaction_start_offset, -1);
    let refused = soon(coordinator(&node).abort_hanging_transaction(abort(of.producer_epoch))).await.unwrap_err();
    assert_eq!(code_of(&error_from_status(&refused)), ErrorCode::InvalidTransactionState);

    // Its coordinator is not hindered.
    let next = end(&node, "t", of, false).await.unwrap();
    assert_eq!(put(&node, tp, "t", next, 0, "b").await.error, None);
    end(&node, "t", next, true).await.unwrap();
    assert_eq!(kept(&read_until(&node, tp, 5).await), ["b"]);
    node.stop().await;
}

#[tokio::test]
async fn a_transaction_over_brokers_ends_on_all_of_them_also_when_its_coordinator_leaves() {
    let fake = Fake::start(1).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(&fake, id, SimDisk::new(id.into())).await);
    }
    let of = find(&nodes[0], "t").await.broker_id as usize - 1;
    let producer = init(&nodes[of], "t").await.unwrap();
    let coordinates = nodes.remove(of);
    let tps: Vec<_> = nodes
        .iter()
        .map(|node| {
            let id = node.handle.partitions().me().get();
            (id, fake.create_topic(&format!("data-{id}"), &[id], &[]))
        })
        .collect();
    for (node, (_, tp)) in nodes.iter().zip(&tps) {
        eventually(|| node.leads(*tp)).await;
        assert_eq!(put(node, *tp, "t", producer, 0, "a").await.error, None);
    }
    end(&coordinates, "t", producer, true).await.unwrap();
    // Its successor goes on with what is left, if anything.
    coordinates.stop().await;
    for (node, (_, tp)) in nodes.iter().zip(&tps) {
        assert_eq!(kept(&read_until(node, *tp, 2).await), ["a"]);
        assert_eq!(log_end(node, *tp), 2);
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn p4_transactional_records_need_acks_all() {
    let (_fake, node, tp, [producer]) = world(["a"]).await;
    let refused = put_with(Acks::Leader, &node, tp, "a", producer, (0, "x")).await;
    assert_eq!(failed(&refused.error), ErrorCode::InvalidRecord);
    assert_eq!(put(&node, tp, "a", producer, 0, "x").await.base_offset, 0, "nothing was written");
}

#[tokio::test]
async fn a_producer_that_can_not_be_told_of_another_epoch_goes_on_in_the_one_it_has() {
    let (_fake, node, tp, [producer]) = world(["old"]).await;
    let end = async |commit| {
        let request = v1::EndTransactionRequest {
            transactional_id: "old".into(),
            producer_id: producer.producer_id,
            producer_epoch: producer.producer_epoch,
            commit,
            keeps_epoch: true,
        };
        let next = asked(|| async { coordinator(&node).end_transaction(request.clone()).await }).await.unwrap();
        assert_eq!((next.producer_id, next.producer_epoch), (producer.producer_id, producer.producer_epoch));
    };
    for (sequence, value, commit) in [(0, "one", true), (1, "two", false), (2, "three", true)] {
        let put = put(&node, tp, "old", producer, sequence, value).await;
        // Each of those before has its marker.
        assert_eq!((put.error, put.base_offset), (None, i64::from(2 * sequence)));
        end(commit).await;
        read_until(&node, tp, i64::from(2 * sequence) + 2).await;
    }
    let result = read_until(&node, tp, 6).await;
    assert_eq!(kept(&result), ["one", "three"]);
}
