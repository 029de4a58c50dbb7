//! The Coordinator service of whole brokers.

use std::time::Duration;

use highwater_metadata::Command;
use highwater_protocol::v1::admin_client::AdminClient;
use highwater_protocol::v1::coordinator_client::CoordinatorClient;
use highwater_protocol::v1::{self, CoordinatorKind};
use highwater_protocol::{code_of, error_from_status, topic_id_bytes};
use highwater_storage::sim::SimDisk;
use highwater_types::{ErrorCode, PartitionId, TRANSACTIONS_TOPIC, TopicPartition};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::harness::{eventually, failed, soon};
use super::whole::{Node, start, start_alone};
use crate::cluster::tests::fake::Fake;

pub(super) fn coordinator(node: &Node) -> CoordinatorClient<Channel> {
    CoordinatorClient::new(node.channel())
}

/// Ends it in order and starts it anew.
pub(super) async fn restart(fake: &Fake, node: Node) -> Node {
    let (broker, broker_epoch) = (node.handle.partitions().me(), node.handle.link().broker_epoch());
    let disk = node.stop().await;
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    start(fake, broker.get(), disk).await
}

/// Asks until the coordinator has loaded, as a client does.
pub(super) async fn asked<T, F>(mut ask: impl FnMut() -> F) -> Result<T, v1::Error>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    soon(async {
        loop {
            let error = match ask().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => error_from_status(&status),
            };
            let starts = [
                ErrorCode::CoordinatorLoadInProgress,
                ErrorCode::CoordinatorNotAvailable,
                ErrorCode::NotCoordinator,
                ErrorCode::ConcurrentTransactions,
            ];
            if !starts.contains(&code_of(&error)) {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

pub(super) async fn find(node: &Node, key: &str) -> v1::FindCoordinatorResponse {
    let kind = CoordinatorKind::Transaction.into();
    asked(|| async { coordinator(node).find_coordinator(v1::FindCoordinatorRequest { kind, key: key.into() }).await })
        .await
        .unwrap()
}

pub(super) async fn init(node: &Node, id: &str) -> Result<v1::InitProducerIdResponse, v1::Error> {
    let request = v1::InitProducerIdRequest {
        transactional_id: id.into(),
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
    };
    asked(|| async { coordinator(node).init_producer_id(request.clone()).await }).await
}

async fn add(node: &Node, of: v1::InitProducerIdResponse, tp: TopicPartition) -> Result<(), v1::Error> {
    let request = v1::AddPartitionsToTransactionRequest {
        transactional_id: "t".into(),
        producer_id: of.producer_id,
        producer_epoch: of.producer_epoch,
        partitions: vec![v1::TopicPartitions {
            topic_id: topic_id_bytes(tp.topic),
            partitions: vec![tp.partition.get()],
        }],
        verify_only: false,
        ..Default::default()
    };
    asked(|| async { coordinator(node).add_partitions_to_transaction(request.clone()).await }).await.map(|_| ())
}

async fn describe(node: &Node, id: &str) -> v1::TransactionInfo {
    let request = v1::DescribeTransactionRequest { transactional_id: id.into() };
    let found = asked(|| async { coordinator(node).describe_transaction(request.clone()).await }).await;
    found.unwrap().transaction.unwrap()
}

#[tokio::test]
async fn a_transaction_is_begun_and_kept_through_a_restart() {
    let fake = Fake::start(1).await;
    let node = start_alone(&fake, SimDisk::new(1)).await;
    let tp = fake.create_topic("data", &[1], &[]);
    assert_eq!(find(&node, "t").await.broker_id, 1);
    let made = fake.image().topic_by_name(TRANSACTIONS_TOPIC).cloned().unwrap();
    assert_eq!((made.partitions.len(), made.replication_factor()), (16, 1));
    find(&node, "other").await;
    assert_eq!(fake.image().topic_by_name(TRANSACTIONS_TOPIC), Some(&made), "made once");

    let producer = init(&node, "t").await.unwrap();
    eventually(|| node.handle.partitions().image().partition(tp).is_some()).await;
    add(&node, producer, tp).await.unwrap();
    let unknown = TopicPartition::new(tp.topic, PartitionId::new(7));
    assert_eq!(code_of(&add(&node, producer, unknown).await.unwrap_err()), ErrorCode::UnknownTopicId);
    let before = describe(&node, "t").await;
    assert_eq!((before.state.as_str(), before.producer_id), ("Ongoing", producer.producer_id));
    let listed = soon(coordinator(&node).list_transactions(v1::ListTransactionsRequest {})).await.unwrap();
    assert_eq!(listed.into_inner().transactions, std::slice::from_ref(&before));
    let stale = v1::InitProducerIdResponse { producer_id: producer.producer_id + 1, producer_epoch: 0 };
    assert_eq!(code_of(&add(&node, stale, tp).await.unwrap_err()), ErrorCode::InvalidProducerIdMapping);

    let node = restart(&fake, node).await;
    let after = describe(&node, "t").await;
    assert_eq!(after, before);
    node.stop().await;
}

#[tokio::test]
async fn producer_ids_without_a_transaction_are_given_by_any_broker_and_never_twice() {
    let fake = Fake::start(1).await;
    let (one, two) = (start(&fake, 1, SimDisk::new(1)).await, start(&fake, 2, SimDisk::new(2)).await);
    let mut given = Vec::new();
    for node in [&one, &two, &one, &two] {
        let producer = init(node, "").await.unwrap();
        assert_eq!(producer.producer_epoch, 0);
        given.push(producer.producer_id);
    }
    let one = restart(&fake, one).await;
    given.push(init(&one, "").await.unwrap().producer_id);
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count);
    one.stop().await;
    two.stop().await;
}

/// Made as soon as the first broker is there, they would have one replica for good.
#[tokio::test]
async fn p1_internal_topics_wait_until_there_are_brokers_for_all_replicas_and_say_so() {
    let fake = Fake::start(1).await;
    let mut nodes = vec![start(&fake, 1, SimDisk::new(1)).await];
    let request = v1::FindCoordinatorRequest { kind: CoordinatorKind::Group.into(), key: "g".into() };
    let status = soon(coordinator(&nodes[0]).find_coordinator(request)).await.unwrap_err();
    let refused = error_from_status(&status);
    assert_eq!(code_of(&refused), ErrorCode::CoordinatorNotAvailable);
    for said in ["__consumer_offsets", "needs as many brokers", "internal_topics_replication_factor"] {
        assert!(refused.message.contains(said), "{said} in {}", refused.message);
    }
    for id in 2..=3 {
        nodes.push(start(&fake, id, SimDisk::new(id.into())).await);
    }
    find(&nodes[0], "t").await;
    let image = nodes[0].handle.partitions().image();
    let topic = image.topic_by_name("__transaction_state").unwrap();
    assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 3));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_does_not_coordinate_says_who_does_and_leadership_moves_it() {
    let fake = Fake::start(1).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(&fake, id, SimDisk::new(id.into())).await);
    }
    let found = find(&nodes[0], "t").await;
    let here = nodes.remove(found.broker_id as usize - 1);
    let producer = init(&here, "t").await.unwrap();
    // Also there the topic is known by now, or soon.
    let request = v1::DescribeTransactionRequest { transactional_id: "t".into() };
    let refused = soon(async {
        loop {
            let status = coordinator(&nodes[0]).describe_transaction(request.clone()).await.unwrap_err();
            let error = error_from_status(&status);
            if code_of(&error) == ErrorCode::NotCoordinator {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let leader = refused.leader.unwrap();
    assert_eq!((leader.node_id, leader.port), (found.broker_id.into(), u32::from(here.handle.port())));
    assert!(!refused.outcome_unknown);

    here.stop().await;
    let next = find(&nodes[0], "t").await.broker_id;
    assert_ne!(next, found.broker_id);
    let next = nodes.iter().find(|node| node.handle.partitions().me().get() == next).unwrap();
    assert_eq!(describe(next, "t").await.producer_id, producer.producer_id);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn users_can_t_change_the_cluster_s_own_topics() {
    let fake = Fake::start(1).await;
    let node = start_alone(&fake, SimDisk::new(1)).await;
    find(&node, "t").await;
    let mut admin = AdminClient::new(node.channel());
    let create = v1::CreateTopicRequest { name: "__mine".into(), partitions: 1, ..Default::default() };
    let delete = v1::DeleteTopicRequest { name: TRANSACTIONS_TOPIC.into(), ..v1::DeleteTopicRequest::default() };
    let alter = v1::AlterTopicRequest { name: TRANSACTIONS_TOPIC.into(), partitions: 32, ..Default::default() };
    let refused = [
        soon(admin.create_topic(create)).await.unwrap_err(),
        soon(admin.delete_topic(delete)).await.unwrap_err(),
        soon(admin.alter_topic(alter)).await.unwrap_err(),
    ];
    for status in refused {
        assert_eq!(code_of(&error_from_status(&status)), ErrorCode::InvalidTopicName);
    }
    let topic = fake.image().topic_by_name(TRANSACTIONS_TOPIC).unwrap().id;
    let result = node.produce(TopicPartition::new(topic, PartitionId::new(0)), "a").await;
    assert_eq!(failed(&result.error), ErrorCode::InvalidRequest);
    node.stop().await;
}
