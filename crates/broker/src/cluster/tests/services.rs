use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use highwater_metadata::Command;
use highwater_protocol::v1::admin_server::{Admin, AdminServer};
use highwater_protocol::v1::metadata_server::Metadata;
use highwater_protocol::v1::*;
use highwater_protocol::{code_of, topic_id_bytes};
use highwater_seams::{Net, TcpNet};
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, Offset, TopicPartition};
use tokio_stream::StreamExt as _;
use tonic::Request;

use super::fake::{Fake, code};
use super::*;
use crate::services::admin::{AdminService, LocalPartitions};
use crate::services::metadata::MetadataService;

/// Answers for every partition, as leader.
#[derive(Default)]
struct Local {
    deleted: Mutex<Vec<(TopicPartition, Option<Offset>)>>,
    leader: u32,
}

#[tonic::async_trait]
impl LocalPartitions for Local {
    fn describe(&self, partition: TopicPartition) -> Result<PartitionDescription, Error> {
        let (partition, leader) = (partition.partition.get(), self.leader);
        Ok(PartitionDescription { partition, leader, ..PartitionDescription::default() })
    }

    fn log_dirs(&self) -> Vec<LogDir> {
        vec![LogDir { path: format!("/data-of-{}", self.leader), total_bytes: 9, ..LogDir::default() }]
    }

    async fn delete_records(&self, partition: TopicPartition, before: Option<Offset>) -> Result<Offset, Error> {
        self.deleted.lock().unwrap().push((partition, before));
        Ok(before.unwrap_or(Offset::new(99)))
    }
}

fn admin(link: &ClusterLink) -> AdminService {
    AdminService::new(link.clone(), Arc::new(Local { leader: link.broker().get(), ..Local::default() }))
}

fn create(name: &str, replicas: &[&[u32]]) -> Request<CreateTopicRequest> {
    Request::new(CreateTopicRequest {
        name: name.into(),
        assignments: replicas.iter().map(|r| ReplicaAssignment { replicas: r.to_vec() }).collect(),
        ..CreateTopicRequest::default()
    })
}

#[tokio::test]
async fn t48_a_broker_without_an_image_does_not_show_an_empty_cluster() {
    let fake = Fake::start(1).await;
    fake.set_active(None);
    let link = start(config(&fake.endpoints, 1));
    let service = MetadataService::new(link);
    let asked = service.get_metadata(Request::new(GetMetadataRequest::default()));
    let waited = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(waited.is_err(), "{waited:?}");
    let asked = service.get_metadata(Request::new(GetMetadataRequest::default()));
    fake.add_broker(7);
    fake.create_topic("t", &[7], &[]);
    fake.set_active(Some(0));
    let update = within(asked).await.unwrap().into_inner();
    assert_eq!(update.topics.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["t"]);
    assert!(update.snapshot && update.cluster_id == "c" && update.version > 0);
}

#[tokio::test]
async fn t48_a_broker_without_an_image_does_not_call_topics_unknown() {
    let fake = Fake::start(1).await;
    fake.add_broker(7);
    fake.create_topic("t", &[7], &[("retention.ms", "5")]);
    fake.set_active(None);
    let link = start(config(&fake.endpoints, 1));
    let admin = admin(&link);
    let asked = || admin.describe_topic_configs(Request::new(DescribeTopicConfigsRequest { name: "t".into() }));
    let waited = tokio::time::timeout(Duration::from_millis(300), asked()).await;
    assert!(waited.is_err(), "{waited:?}");
    let asked = asked();
    fake.set_active(Some(0));
    let configs = within(asked).await.unwrap().into_inner().configs;
    assert!(configs.iter().any(|config| (&*config.key, &*config.value) == ("retention.ms", "5")));
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_and_then_only_what_changed_of_what_it_asked_for() {
    let (fake, link) = unfenced(1).await;
    fake.create_topic("a", &[1], &[]);
    fake.create_topic("b", &[1], &[]);
    caught_up(&fake, &link).await;
    let service = MetadataService::new(link.clone());
    let request = WatchMetadataRequest { topics: vec!["a".into()] };
    let mut updates = service.watch_metadata(Request::new(request)).await.unwrap().into_inner();
    let first = within(updates.next()).await.unwrap().unwrap();
    assert!(first.snapshot && first.topics.len() == 1 && first.brokers.len() == 1);
    let admin = admin(&link);
    admin
        .delete_topic(Request::new(DeleteTopicRequest { name: "b".into(), ..DeleteTopicRequest::default() }))
        .await
        .unwrap();
    admin
        .delete_topic(Request::new(DeleteTopicRequest { name: "a".into(), ..DeleteTopicRequest::default() }))
        .await
        .unwrap();
    let second = within(updates.next()).await.unwrap().unwrap();
    assert!(
        !second.snapshot && second.topics.is_empty() && second.brokers.is_empty() && second.version > first.version
    );
    assert_eq!(second.removed_topics.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(second.removed_topics[0].topic_id, first.topics[0].topic_id);
    link.close().await;
    assert!(within(updates.next()).await.is_none(), "ends with the broker");
}

#[tokio::test]
async fn metadata_can_be_asked_for_by_name_and_a_name_that_cant_be_is_refused() {
    let (fake, link) = unfenced(1).await;
    fake.create_topic("a", &[1], &[]);
    caught_up(&fake, &link).await;
    let service = MetadataService::new(link);
    let ask = |names: &[&str]| {
        let topics = names.iter().map(|n| (*n).to_owned()).collect();
        service.get_metadata(Request::new(GetMetadataRequest { topics }))
    };
    assert_eq!(ask(&["a", "none"]).await.unwrap().into_inner().topics.len(), 1);
    assert_eq!(code(&ask(&["a b"]).await.unwrap_err()), ErrorCode::InvalidTopicName);
}

#[tokio::test]
async fn what_was_done_is_visible_at_the_same_broker_at_once() {
    let (_fake, link) = unfenced(1).await;
    let admin = admin(&link);
    for i in 0..20 {
        let name = format!("t{i}");
        let topic = admin.create_topic(create(&name, &[&[1]])).await.unwrap().into_inner().topic.unwrap();
        assert_eq!(topic.name, name);
        assert!(link.image().topic_by_name(&name).is_some());
        let alter = AlterTopicRequest {
            name: name.clone(),
            set_configs: HashMap::from([("retention.ms".to_owned(), "7".to_owned())]),
            partitions: 3,
            ..AlterTopicRequest::default()
        };
        let altered = admin.alter_topic(Request::new(alter)).await.unwrap().into_inner().topic.unwrap();
        assert_eq!((altered.partitions.len(), altered.topic_id), (3, topic.topic_id));
        let describe = DescribeTopicConfigsRequest { name };
        let configs = admin.describe_topic_configs(Request::new(describe)).await.unwrap().into_inner().configs;
        let set: Vec<_> = configs.iter().filter(|c| c.overridden).map(|c| (c.key.as_str(), c.value.as_str())).collect();
        assert_eq!(set, [("retention.ms", "7")]);
    }
}

#[tokio::test]
async fn refusals_keep_their_codes() {
    let (_fake, link) = unfenced(1).await;
    let admin = admin(&link);
    admin.create_topic(create("t", &[&[1]])).await.unwrap();
    assert_eq!(code(&admin.create_topic(create("t", &[&[1]])).await.unwrap_err()), ErrorCode::TopicAlreadyExists);
    assert_eq!(code(&admin.create_topic(create("a b", &[&[1]])).await.unwrap_err()), ErrorCode::InvalidTopicName);
    assert_eq!(code(&admin.create_topic(create("u", &[&[9]])).await.unwrap_err()), ErrorCode::InvalidReplicaAssignment);
    let delete = Request::new(DeleteTopicRequest { name: "none".into(), ..DeleteTopicRequest::default() });
    assert_eq!(code(&admin.delete_topic(delete).await.unwrap_err()), ErrorCode::UnknownTopic);
    let configs = Request::new(DescribeTopicConfigsRequest { name: "none".into() });
    assert_eq!(code(&admin.describe_topic_configs(configs).await.unwrap_err()), ErrorCode::UnknownTopic);
    let elect = Request::new(ElectPreferredLeadersRequest { topics: vec!["none".into()] });
    assert_eq!(code(&admin.elect_preferred_leaders(elect).await.unwrap_err()), ErrorCode::UnknownTopic);
    let remove = Request::new(RemoveControllerRequest { controller_id: 77 });
    assert_eq!(code(&admin.remove_controller(remove).await.unwrap_err()), ErrorCode::UnknownController);
    let bad_id = DescribePartitionsRequest { topic_id: vec![1, 2].into(), partitions: vec![] };
    assert_eq!(code(&admin.describe_partitions(Request::new(bad_id)).await.unwrap_err()), ErrorCode::InvalidRequest);
    let unknown = DescribePartitionsRequest { topic_id: vec![1; 16].into(), partitions: vec![] };
    assert_eq!(code(&admin.describe_partitions(Request::new(unknown)).await.unwrap_err()), ErrorCode::UnknownTopicId);
    let offset = DeleteRecordsRequest { topic_id: vec![1; 16].into(), partition: 0, before_offset: -2 };
    assert_eq!(code(&admin.delete_records(Request::new(offset)).await.unwrap_err()), ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn without_a_controller_a_command_waits_for_one() {
    let (fake, link) = unfenced(2).await;
    fake.set_active(None);
    within(link.status().wait_for(|status| status.active.is_none())).await.unwrap();
    let admin = admin(&link);
    let asked = tokio::spawn(async move { admin.create_topic(create("t", &[&[1]])).await });
    fake.set_active(Some(1));
    within(asked).await.unwrap().unwrap();
    assert!(link.image().topic_by_name("t").is_some());
}

#[tokio::test]
async fn questions_about_a_partition_go_to_its_leader() {
    let fake = Fake::start(1).await;
    // Broker 2 serves Admin at its own port.
    let listener = TcpNet.bind("127.0.0.1", 0).await.unwrap();
    let mut second = config(&fake.endpoints, 2);
    second.internal_endpoint = highwater_metadata::Endpoint::new("127.0.0.1", listener.port());
    let (one, two) = (start(config(&fake.endpoints, 1)), start(second));
    assert!(within(one.unfenced()).await && within(two.unfenced()).await);
    let local = Arc::new(Local { leader: 2, ..Local::default() });
    let served = AdminService::new(two.clone(), Arc::clone(&local) as Arc<dyn LocalPartitions>);
    let router = tonic::transport::Server::builder().add_service(AdminServer::new(served));
    tokio::spawn(router.serve_with_incoming(highwater_seams::incoming(listener)));
    caught_up(&fake, &one).await;

    let asked = admin(&one);
    let topic =
        asked.create_topic(create("t", &[&[1, 2], &[2, 1], &[2, 1]])).await.unwrap().into_inner().topic.unwrap();
    caught_up(&fake, &two).await;
    let request = DescribePartitionsRequest { topic_id: topic.topic_id.clone(), partitions: vec![2, 0, 9, 1] };
    let described = within(asked.describe_partitions(Request::new(request))).await.unwrap().into_inner().partitions;
    let leaders: Vec<_> = described.iter().map(|d| (d.partition, d.leader)).collect();
    assert_eq!(leaders, [(0, 1), (1, 2), (2, 2), (9, 0)]);
    assert_eq!(code_of(described[3].error.as_ref().unwrap()), ErrorCode::UnknownPartition);

    let topic_id = topic_id_bytes(one.image().topic_by_name("t").unwrap().id);
    let request = DeleteRecordsRequest { topic_id, partition: 1, before_offset: 5 };
    let start = within(asked.delete_records(Request::new(request))).await.unwrap().into_inner().log_start_offset;
    assert_eq!(start, 5);
    assert_eq!(local.deleted.lock().unwrap().len(), 1, "done where the leader is");
}

#[tokio::test]
async fn a_leader_that_cant_be_reached_is_an_error_of_its_partitions_only() {
    let (fake, link) = unfenced(1).await;
    fake.add_broker(2);
    caught_up(&fake, &link).await;
    let admin = admin(&link);
    let topic = admin.create_topic(create("t", &[&[1, 2], &[2, 1]])).await.unwrap().into_inner().topic.unwrap();
    let request = DescribePartitionsRequest { topic_id: topic.topic_id, partitions: vec![] };
    let described = within(admin.describe_partitions(Request::new(request))).await.unwrap().into_inner().partitions;
    assert!(described[0].error.is_none());
    assert!(described[1].error.as_ref().unwrap().retriable);
}

#[tokio::test]
async fn the_cluster_is_described_with_and_without_an_active_controller() {
    let (fake, link) = unfenced(1).await;
    fake.create_topic("t", &[1], &[]);
    caught_up(&fake, &link).await;
    let admin = admin(&link);
    let endpoint = Some(highwater_protocol::v1::Endpoint { host: "h".into(), port: 5 });
    let add = AddControllerRequest { controller_id: 4, endpoint };
    admin.add_controller(Request::new(add)).await.unwrap();
    let described = admin.describe_cluster(Request::new(DescribeClusterRequest {})).await.unwrap().into_inner();
    assert_eq!((described.active_controller, described.topics, described.partitions), (Some(0), 1, 1));
    caught_up(&fake, &link).await;
    fake.set_active(None);
    let described = within(admin.describe_cluster(Request::new(DescribeClusterRequest {}))).await.unwrap().into_inner();
    assert_eq!((described.active_controller, described.controllers.len(), described.offline_partitions), (None, 1, 0));
}

#[tokio::test]
async fn leaders_are_elected_by_partition_and_an_unclean_election_is_waited_for() {
    let (fake, link) = unfenced(1).await;
    fake.add_broker(2);
    caught_up(&fake, &link).await;
    let admin = admin(&link);
    let tp = fake.create_topic("t", &[2, 1], &[("min.insync.replicas", "1")]);
    caught_up(&fake, &link).await;
    let elect = |unclean, partition, timeout_ms| {
        let partitions = vec![PartitionToElect { topic_id: topic_id_bytes(tp.topic), partition }];
        admin.elect_leaders(Request::new(ElectLeadersRequest { unclean, partitions, timeout_ms }))
    };
    for (unclean, partition, expected) in [
        (false, 0, ElectionOutcome::NotNeeded),
        (true, 0, ElectionOutcome::NotNeeded),
        (false, 5, ElectionOutcome::UnknownPartition),
    ] {
        let told = within(elect(unclean, partition, 0)).await.unwrap().into_inner().partitions;
        assert_eq!(told.iter().map(PartitionElected::outcome).collect::<Vec<_>>(), [expected]);
    }
    // Only 2 has everything, and dies: this broker is asked where its log ends.
    let (broker, me) = (BrokerId::new(2), link.broker());
    let broker_epoch = fake.image().broker(broker).unwrap().broker_epoch;
    let state = fake.image().partition(tp).unwrap().clone();
    assert_eq!(state.leader, Some(broker));
    let proposal = highwater_metadata::AlterPartition {
        partition: tp,
        leader_epoch: state.leader_epoch,
        partition_epoch: state.partition_epoch,
        new_isr: vec![highwater_metadata::IsrMember { broker, broker_epoch: BrokerEpoch::NONE }],
        recovered: false,
    };
    fake.run(&Command::AlterPartitions { broker, broker_epoch, partitions: vec![proposal] }).unwrap();
    fake.run(&Command::FenceBroker { broker, broker_epoch }).unwrap();
    assert_eq!(fake.image().partition(tp).unwrap().leader, None);
    caught_up(&fake, &link).await;
    let report = async {
        image_where(&link, |image| image.partition(tp).is_some_and(|state| state.unclean_asked)).await;
        let ends = vec![highwater_metadata::PartitionLogEnd {
            partition: tp,
            last_epoch: highwater_types::LeaderEpoch::FIRST,
            log_end_offset: Offset::new(3),
        }];
        link.report_log_ends(ends);
    };
    let (elected, ()) = tokio::join!(within(elect(true, 0, 30_000)), report);
    assert_eq!(elected.unwrap().into_inner().partitions[0].outcome(), ElectionOutcome::Elected);
    assert_eq!(link.image().partition(tp).unwrap().leader, Some(me));
}

#[tokio::test]
async fn the_data_dirs_of_all_brokers_are_told_by_any() {
    let (fake, one) = unfenced(1).await;
    fake.add_broker(7);
    caught_up(&fake, &one).await;
    let described = within(admin(&one).describe_log_dirs(Request::new(DescribeLogDirsRequest::default()))).await;
    let brokers = described.unwrap().into_inner().brokers;
    assert_eq!(brokers.iter().map(|it| it.broker_id).collect::<Vec<_>>(), [1, 7]);
    assert_eq!((brokers[0].dirs[0].path.as_str(), &brokers[0].error), ("/data-of-1", &None));
    assert!(brokers[1].error.as_ref().unwrap().retriable, "nobody listens there: {:?}", brokers[1].error);
    let unknown = DescribeLogDirsRequest { brokers: vec![99] };
    let unknown = within(admin(&one).describe_log_dirs(Request::new(unknown))).await.unwrap().into_inner();
    assert_eq!(code_of(unknown.brokers[0].error.as_ref().unwrap()), ErrorCode::InvalidRequest);
}

/// A client that stayed with a broker that is cut off would keep to leaders that have long been replaced.
#[tokio::test]
async fn a_broker_without_a_controller_sends_its_watchers_away_and_not_for_a_change_of_controllers() {
    let (fake, link) = unfenced(1).await;
    let service = MetadataService::new(link.clone());
    let mut updates = service.watch_metadata(Request::new(WatchMetadataRequest::default())).await.unwrap().into_inner();
    assert!(within(updates.next()).await.unwrap().is_ok());
    link.shared.status.send_modify(|status| status.active = None);
    assert!(tokio::time::timeout(Duration::from_millis(500), updates.next()).await.is_err(), "an election takes time");
    link.shared.status.send_modify(|status| status.active = Some(fake.endpoints[0].clone()));
    assert!(tokio::time::timeout(Duration::from_millis(2500), updates.next()).await.is_err(), "there is one again");
    link.shared.status.send_modify(|status| status.active = None);
    let ended = within(updates.next()).await.unwrap().unwrap_err();
    assert_eq!(code(&ended), ErrorCode::ControllerNotAvailable);
    assert!(within(updates.next()).await.is_none(), "it is over");
}
