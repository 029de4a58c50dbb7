//! Transactions and groups that both doors have part in.

use std::collections::BTreeSet;

use bytes::Bytes;
use highwater_client::{BrokerId, ProducerRecord, TransactionalConfig};
use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_client::CoordinatorClient;
use highwater_record::split;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::common::{SOON, Scene, TOPIC, broker};
use crate::kafka::{Kafka, fetch, name, values_of};

/// What a Kafka client makes of a partition that it reads with isolation `read_committed`: the values up to the last stable offset,
/// and whether that is the end.
pub(crate) async fn read_committed(kafka: &mut Kafka) -> (Vec<u32>, bool) {
    let (mut values, mut next) = (Vec::new(), 0);
    loop {
        let answer = kafka.call(12, &fetch(12, uuid::Uuid::nil(), next, 0).with_isolation_level(1)).await;
        let partition = &answer.responses[0].partitions[0];
        assert_eq!(partition.error_code, 0);
        // Of each producer, where its aborted transactions begin. A marker ends one.
        let mut begins: Vec<_> = partition.aborted_transactions.iter().flatten().collect();
        begins.sort_by_key(|it| it.first_offset);
        let mut aborted = BTreeSet::new();
        for batch in split(partition.records.clone().unwrap_or_default()).expect("whole batches") {
            let header = batch.header();
            let of = header.producer_id.get();
            begins.retain(|it| {
                let has_begun = it.first_offset <= header.last_offset().get();
                if has_begun {
                    aborted.insert(it.producer_id.0);
                }
                !has_begun
            });
            match header.attributes.is_control() {
                true => _ = aborted.remove(&of),
                false if aborted.contains(&of) => {}
                false => values.extend(values_of(batch.bytes())),
            }
            next = header.next_offset().get();
        }
        if next >= partition.last_stable_offset {
            return (values, next == partition.high_watermark);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_clients_read_native_transactions_once_they_are_committed_and_nothing_of_others() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let mut producer = scene.client.transactional_producer(TransactionalConfig::new("native")).await.expect("a name");
    for (values, commits) in [(0..5, false), (5..10, true), (10..12, false), (12..15, true)] {
        let transaction = producer.begin().await.expect("the one before is ended");
        for value in values {
            let record = ProducerRecord::new(TOPIC).partition(0).value(value.to_string());
            transaction.send(record).await.expect("room").await.expect("stored");
        }
        let ended = if commits { transaction.commit().await } else { transaction.abort().await };
        ended.expect("an end");
    }
    let open = producer.begin().await.expect("the one before is ended");
    open.send(ProducerRecord::new(TOPIC).partition(0).value("15")).await.expect("room").await.expect("stored");
    let mut kafka = Kafka::connect(&scene, scene.leader(0)).await;
    let committed: Vec<u32> = (5..10).chain(12..15).collect();
    assert_eq!(read_committed(&mut kafka).await, (committed.clone(), false), "the open one holds readers up");
    open.commit().await.expect("a commit");
    let all = [committed, vec![15]].concat();
    // Its marker comes a moment after the answer.
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let (values, is_end) = read_committed(&mut kafka).await;
        if is_end {
            assert_eq!(values, all);
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the transaction has no end");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

const GROUP: &str = "of-both-doors";
/// Neither door looks into what the members tell each other.
const KIND: &str = "workers";
const PROTOCOL: &str = "by-hand";

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The coordinator of the group, by both doors.
async fn coordinator(scene: &Scene) -> (CoordinatorClient<Channel>, Kafka) {
    let client = |id: BrokerId| {
        let port = scene.cluster.node(broker(id)).expect("there").port();
        CoordinatorClient::connect(format!("http://127.0.0.1:{port}"))
    };
    let kind = v1::CoordinatorKind::Group.into();
    let asked = v1::FindCoordinatorRequest { kind, key: GROUP.to_owned() };
    let deadline = tokio::time::Instant::now() + SOON;
    let found = loop {
        let mut any = client(scene.leader(0)).await.expect("it listens");
        match any.find_coordinator(asked.clone()).await {
            Ok(found) => break BrokerId::new(found.into_inner().broker_id),
            Err(status) => assert!(tokio::time::Instant::now() < deadline, "{status}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    (client(found).await.expect("it listens"), Kafka::connect(scene, found).await)
}

fn kafka_join(member_id: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text(PROTOCOL)).with_metadata(Bytes::from("kafka"));
    JoinGroupRequest::default()
        .with_group_id(text(GROUP).into())
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_member_id(text(member_id))
        .with_protocol_type(text(KIND))
        .with_protocols(vec![protocol])
}

fn native_join(member_id: &str) -> v1::JoinGroupRequest {
    v1::JoinGroupRequest {
        group_id: GROUP.to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        member_id: member_id.to_owned(),
        protocol_type: KIND.to_owned(),
        protocols: vec![v1::GroupProtocol { name: PROTOCOL.to_owned(), metadata: Bytes::from("native") }],
        ..Default::default()
    }
}

/// As KafkaJS resets a group: it commits Kafka's name for a log's beginning or end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offset_below_0_is_read_as_it_was_committed_and_is_none_to_members() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let (mut native, mut kafka) = coordinator(&scene).await;
    let stated = [(0, -2), (1, -1), (2, 7)];
    let partition = |(index, offset)| {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(index);
        partition.with_committed_offset(offset).with_committed_metadata(None)
    };
    let topic = OffsetCommitRequestTopic::default().with_name(name(TOPIC));
    let commit = OffsetCommitRequest::default()
        .with_group_id(text(GROUP).into())
        .with_topics(vec![topic.with_partitions(stated.map(partition).into())]);
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let answer = kafka.call(5, &commit).await;
        let codes: Vec<_> = answer.topics[0].partitions.iter().map(|it| it.error_code).collect();
        if codes == [0; 3] {
            break;
        }
        let loading = ResponseError::CoordinatorLoadInProgress.code();
        assert!(codes.iter().all(|code| *code == loading) && tokio::time::Instant::now() < deadline, "{codes:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let asked = OffsetFetchRequest::default().with_group_id(text(GROUP).into()).with_topics(None);
    let answer = kafka.call(5, &asked).await;
    let found: Vec<_> =
        answer.topics[0].partitions.iter().map(|it| (it.partition_index, it.committed_offset)).collect();
    assert_eq!(found, stated);
    let asked = v1::FetchOffsetsRequest { group_id: GROUP.to_owned(), ..Default::default() };
    let found = native.fetch_offsets(asked).await.expect("an answer").into_inner().offsets;
    assert_eq!(found.iter().map(|it| it.offset).collect::<Vec<_>>(), [-2, -1, 7]);
    // To members, and to who looks at what they have yet to read, there is one.
    let offsets = scene.client.admin().group_offsets(GROUP).await.expect("an answer");
    assert_eq!(offsets.iter().map(|it| it.position.offset.get()).collect::<Vec<_>>(), [7]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic_members_of_both_doors_are_of_one_generation() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let (mut native, mut kafka) = coordinator(&scene).await;
    // The coordinator may still be loading. The first member is alone in the group, and leads.
    let deadline = tokio::time::Instant::now() + SOON;
    let (kafka_id, generation) = loop {
        // The answer to a join of version 3 is the generation, and not an id to join with.
        let joined = kafka.call(3, &kafka_join("")).await;
        match ResponseError::try_from_code(joined.error_code) {
            None => break (joined.member_id.to_string(), joined.generation_id),
            Some(error) => assert!(error.is_retriable() && tokio::time::Instant::now() < deadline, "{error:?}"),
        }
    };
    let assign = |them: &[(&str, &str)]| -> Vec<SyncGroupRequestAssignment> {
        let one = |(member, what): &(&str, &str)| {
            SyncGroupRequestAssignment::default()
                .with_member_id(text(member))
                .with_assignment(Bytes::copy_from_slice(what.as_bytes()))
        };
        them.iter().map(one).collect()
    };
    let kafka_sync = |generation, assignments| {
        SyncGroupRequest::default()
            .with_group_id(text(GROUP).into())
            .with_generation_id(generation)
            .with_member_id(text(&kafka_id))
            .with_assignments(assignments)
    };
    let synced = kafka.call(2, &kafka_sync(generation, assign(&[(&kafka_id, "all")]))).await;
    assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from("all")));

    // The native one comes: the other hears of it by its heartbeat, joins again, and still leads.
    let mut joining = native.clone();
    let joining = tokio::spawn(async move { joining.join_group(native_join("")).await });
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(text(GROUP).into())
        .with_generation_id(generation)
        .with_member_id(text(&kafka_id));
    let rebalances = ResponseError::RebalanceInProgress.code();
    while kafka.call(2, &heartbeat).await.error_code != rebalances {
        assert!(tokio::time::Instant::now() < deadline, "nobody told the member");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let joined = kafka.call(3, &kafka_join(&kafka_id)).await;
    let native_joined =
        timeout(SOON, joining).await.expect("in time").expect("no panic").expect("an answer").into_inner();
    let native_id = native_joined.member_id;
    assert_eq!((joined.error_code, joined.generation_id), (0, native_joined.generation));
    assert!(joined.generation_id > generation);
    assert_eq!((&*joined.leader, &*native_joined.leader), (kafka_id.as_str(), kafka_id.as_str()));
    let told: BTreeSet<_> = joined.members.iter().map(|it| (it.member_id.to_string(), it.metadata.clone())).collect();
    let expected = [(kafka_id.clone(), Bytes::from("kafka")), (native_id.clone(), Bytes::from("native"))];
    assert_eq!(told, BTreeSet::from(expected));
    let generation = joined.generation_id;
    let synced = kafka.call(2, &kafka_sync(generation, assign(&[(&kafka_id, "left"), (&native_id, "right")]))).await;
    assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from("left")));
    let sync = v1::SyncGroupRequest {
        group_id: GROUP.to_owned(),
        generation,
        member_id: native_id.clone(),
        ..Default::default()
    };
    let synced = timeout(SOON, native.sync_group(sync)).await.expect("in time").expect("an answer").into_inner();
    assert_eq!(synced.assignment, Bytes::from("right"));

    // The leader leaves: the native one is alone, and leads.
    let left = kafka
        .call(2, &LeaveGroupRequest::default().with_group_id(text(GROUP).into()).with_member_id(text(&kafka_id)))
        .await;
    assert_eq!(left.error_code, 0);
    let joined = timeout(SOON, native.join_group(native_join(&native_id))).await.expect("in time").expect("an answer");
    let joined = joined.into_inner();
    assert!(joined.generation > generation);
    assert_eq!((joined.leader.as_str(), joined.members.len()), (native_id.as_str(), 1));
}
