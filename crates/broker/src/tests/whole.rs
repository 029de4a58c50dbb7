//! Whole brokers, from start to end, against controllers that follow the rules of the metadata crate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::Command;
use highwater_protocol::v1::data_client::DataClient;
use highwater_protocol::v1::metadata_client::MetadataClient;
use highwater_protocol::v1::{self, Acks};
use highwater_seams::{Seams, channel};
use highwater_storage::sim::{Crash, SimDisk};
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, TopicPartition};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::harness::{batch, eventually, failed, fetch_request, partition_of, records, request, soon};
use crate::cluster::tests::fake::Fake;
use crate::error::Fatal;
use crate::{Broker, BrokerConfig, BrokerHandle};

pub(super) struct Node {
    pub handle: BrokerHandle,
    pub disk: SimDisk,
}

pub(super) async fn start(fake: &Fake, id: u32, disk: SimDisk) -> Node {
    let config = BrokerConfig { id: BrokerId::new(id), ..BrokerConfig::default() };
    start_with(fake, config, disk).await
}

/// The only broker of its cluster.
pub(super) async fn start_alone(fake: &Fake, disk: SimDisk) -> Node {
    let config =
        BrokerConfig { id: BrokerId::new(1), internal_topics_replication_factor: 1, ..BrokerConfig::default() };
    start_with(fake, config, disk).await
}

/// Where controllers and data are, is not the caller's.
pub(super) async fn start_with(fake: &Fake, config: BrokerConfig, disk: SimDisk) -> Node {
    let controllers = fake.endpoints.iter().map(|endpoint| (endpoint.host.clone(), endpoint.port)).collect();
    let data_dirs = vec![PathBuf::from("/data")];
    let config = BrokerConfig { controllers, data_dirs, disk_reserve_bytes: 1 << 20, ..config };
    let handle = soon(Broker::start(config, Seams::real(), disk.mount())).await.unwrap();
    assert!(soon(handle.ready()).await);
    Node { handle, disk }
}

impl Node {
    pub(super) fn channel(&self) -> Channel {
        channel(&Seams::real().net, "127.0.0.1", self.handle.port())
    }

    pub(super) async fn produce(&self, tp: TopicPartition, value: &str) -> v1::ProducePartitionResult {
        let (requests, outbound) = tokio::sync::mpsc::channel(1);
        requests.send(request(1, Acks::All, &[(tp, batch(&[value]))])).await.unwrap();
        let mut client = DataClient::new(self.channel());
        let mut answers = soon(client.produce(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        soon(answers.message()).await.unwrap().unwrap().partitions.remove(0)
    }

    pub(super) async fn read(&self, tp: TopicPartition) -> Vec<String> {
        let (requests, outbound) = tokio::sync::mpsc::channel(1);
        requests.send(fetch_request(1, Duration::from_secs(5), &[(tp, 0)])).await.unwrap();
        let mut client = DataClient::new(self.channel());
        let mut answers = soon(client.fetch(ReceiverStream::new(outbound))).await.unwrap().into_inner();
        let answer = soon(answers.message()).await.unwrap().unwrap();
        records(&answer.partitions[0], 0).into_iter().map(|(_, value)| value).collect()
    }

    async fn health(&self) -> ServingStatus {
        let mut health = HealthClient::new(self.channel());
        soon(health.check(HealthCheckRequest::default())).await.unwrap().into_inner().status()
    }

    /// Does this broker lead?
    pub(super) fn leads(&self, tp: TopicPartition) -> bool {
        self.handle.partitions().find(tp).is_ok_and(|partition| partition.is_leader())
    }

    /// In order; returns what is left on the disk.
    pub(super) async fn stop(self) -> SimDisk {
        soon(self.handle.shutdown()).await;
        self.disk.crash(Crash::PowerLosingAll);
        self.disk
    }
}

fn leader(fake: &Fake, tp: TopicPartition) -> Option<u32> {
    fake.image().partition(tp).unwrap().leader.map(BrokerId::get)
}

#[tokio::test]
async fn a_broker_registers_serves_and_says_that_it_is_healthy() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let tp = fake.create_topic("t", &[1], &[]);
    eventually(|| node.leads(tp)).await;
    assert_eq!(node.produce(tp, "a").await.error, None);
    assert_eq!(node.read(tp).await, ["a"]);
    soon(async {
        while node.health().await != ServingStatus::Serving {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut metadata = MetadataClient::new(node.channel());
    let update = soon(metadata.get_metadata(v1::GetMetadataRequest::default())).await.unwrap().into_inner();
    let port = update.brokers[0].endpoint.as_ref().unwrap().port;
    assert_eq!((update.topics.len(), port), (1, u32::from(node.handle.port())));
    let cluster_ids: Vec<_> = node.handle.partitions().data_dirs().map(|dir| dir.cluster_id()).collect();
    assert_eq!(cluster_ids, [Some("c".to_owned())]);
    node.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_and_an_unknown_method_is_told() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let list = MessageRequest::ListServices(String::new());
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut client = ServerReflectionClient::new(node.channel());
    let answers = soon(client.server_reflection_info(tokio_stream::once(ask))).await.unwrap();
    let answer = soon(answers.into_inner().message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<String> = services.service.into_iter().map(|ServiceResponse { name }| name).collect();
    for name in ["highwater.v1.Data", "highwater.v1.Metadata", "highwater.v1.Coordinator", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn three_brokers_replicate_and_elect_and_lose_nothing_when_the_leader_stops_in_order() {
    let fake = Fake::start(1).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(&fake, id, SimDisk::new(id.into())).await);
    }
    let tp = fake.create_topic("t", &[1, 2, 3], &[("min.insync.replicas", "2")]);
    eventually(|| nodes[0].leads(tp)).await;
    for value in ["a", "b"] {
        assert_eq!(nodes[0].produce(tp, value).await.error, None);
    }
    let first = nodes.remove(0);
    let epoch = first.handle.link().broker_epoch();
    let disk = first.stop().await;
    assert_ne!(leader(&fake, tp), Some(1), "leadership has moved away before the end");
    let new = nodes.iter().find(|node| Some(node.handle.partitions().me().get()) == leader(&fake, tp)).unwrap();
    eventually(|| new.leads(tp)).await;
    assert_eq!(new.produce(tp, "c").await.error, None);
    assert_eq!(new.read(tp).await, ["a", "b", "c"]);

    // Back again, it says that it ended in order, and in which epoch.
    let heard = fake.state.lock().unwrap().registrations.len();
    fake.run(&Command::FenceBroker { broker: BrokerId::new(1), broker_epoch: epoch }).unwrap();
    let back = start(&fake, 1, disk).await;
    let registration = fake.state.lock().unwrap().registrations[heard].clone();
    assert!(registration.clean_shutdown);
    assert_eq!((registration.previous_broker_epoch, registration.cluster_id.as_str()), (epoch.get(), "c"));
    eventually(|| fake.image().partition(tp).unwrap().isr.len() == 3).await;
    let back_end = || back.handle.partitions().find(tp).unwrap().positions().unwrap().0.end.get();
    eventually(|| back_end() == 3).await;
}

#[tokio::test]
async fn t8_a_follower_that_falls_behind_leaves_the_isr_and_returns_by_proposals() {
    let fake = Fake::start(1).await;
    let (one, two) = (start(&fake, 1, SimDisk::new(1)).await, start(&fake, 2, SimDisk::new(2)).await);
    let tp = fake.create_topic("t", &[1, 2], &[("min.insync.replicas", "1")]);
    eventually(|| one.leads(tp)).await;
    assert_eq!(one.produce(tp, "a").await.error, None);
    // The follower's disk fails; what it can't serve is said, and the controller takes it out.
    two.disk.fail_syncs(Some("/data"));
    let result = one.produce(tp, "b").await;
    assert_eq!(result.error, None, "{result:?}");
    assert_eq!(fake.image().partition(tp).unwrap().isr, [BrokerId::new(1)]);
    assert_eq!(fake.image().partition(tp).unwrap().unusable, [BrokerId::new(2)]);
    assert!(matches!(soon(two.handle.fatal()).await, Fatal::Storage(_)));
}

#[tokio::test]
async fn an_unclean_restart_is_said_and_costs_nothing_that_was_acknowledged() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let tp = fake.create_topic("t", &[1], &[]);
    eventually(|| node.leads(tp)).await;
    assert_eq!(node.produce(tp, "a").await.error, None);
    let (broker, broker_epoch) = (BrokerId::new(1), node.handle.link().broker_epoch());
    node.disk.crash(Crash::PowerLosingAll);
    node.handle.link().close().await;
    let disk = node.disk.clone();
    drop(node);
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    let node = start(&fake, 1, disk).await;
    let registration = fake.state.lock().unwrap().registrations.last().cloned().unwrap();
    assert!(!registration.clean_shutdown);
    eventually(|| node.leads(tp)).await;
    assert_eq!(node.read(tp).await, ["a"]);
}

#[tokio::test]
async fn t18_a_broker_whose_place_was_taken_ends_and_claims_no_clean_shutdown() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let (broker, broker_epoch) = (BrokerId::new(1), node.handle.link().broker_epoch());
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    fake.add_broker(1);
    assert!(matches!(soon(node.handle.fatal()).await, Fatal::Cluster(_)));
    let disk = node.stop().await;
    assert!(disk.files().iter().all(|path| !path.to_string_lossy().contains("clean")), "{:?}", disk.files());
}

#[tokio::test]
async fn t19_log_ends_are_reported_for_an_unclean_election_and_the_chosen_one_leads() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    let epoch = fake.add_broker(2);
    let configs = [("min.insync.replicas", "1"), ("unclean.leader.election", "proactive")];
    let tp = fake.create_topic("t", &[2, 1], &configs);
    // The other one leads alone, and dies.
    let mut isr = fake.image().partition(tp).unwrap().clone();
    isr.isr = vec![BrokerId::new(2)];
    let proposal = highwater_metadata::AlterPartition {
        partition: tp,
        leader_epoch: isr.leader_epoch,
        partition_epoch: isr.partition_epoch,
        new_isr: vec![highwater_metadata::IsrMember { broker: BrokerId::new(2), broker_epoch: BrokerEpoch::NONE }],
        recovered: false,
    };
    let (broker, broker_epoch) = (BrokerId::new(2), epoch);
    fake.run(&Command::AlterPartitions { broker, broker_epoch, partitions: vec![proposal] }).unwrap();
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    eventually(|| leader(&fake, tp) == Some(1)).await;
    assert!(fake.image().partition(tp).unwrap().unclean.is_some());
    eventually(|| node.leads(tp)).await;
    // And it says when others may join.
    eventually(|| !fake.image().partition(tp).unwrap().recovering).await;
}

#[tokio::test]
async fn a_topic_of_which_this_broker_has_no_replica_is_somebody_elses() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, SimDisk::new(1)).await;
    fake.add_broker(2);
    let tp = fake.create_topic("t", &[2], &[]);
    eventually(|| node.handle.partitions().image().partition(tp).is_some()).await;
    assert_eq!(failed(&node.produce(tp, "a").await.error), ErrorCode::NotLeader);
    let missing = partition_of(tp.topic, 9);
    assert_eq!(failed(&node.produce(missing, "a").await.error), ErrorCode::UnknownPartition);
    drop(Arc::clone(node.handle.partitions()));
}
