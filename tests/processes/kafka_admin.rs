//! Administration by the Kafka door: each API in each version that is answered, on brokers that are not the controller.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource as ChangedResource, AlterableConfig as Change,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use crate::common::{SOON, Scene, TOPIC, broker, until};
use crate::kafka::{Kafka, batch, name, produce, produce_to};

const TIMEOUT_MS: i32 = 20_000;
const TOPIC_KIND: i8 = 2;
const BROKER_KIND: i8 = 4;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn creatable(topic: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic::default().with_name(name(topic)).with_num_partitions(partitions).with_replication_factor(replicas)
}

fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS)
}

fn config(key: &str, value: &str) -> CreatableTopicConfig {
    CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
}

async fn configs(kafka: &mut Kafka, kind: i8, of: &str) -> Vec<DescribeConfigsResourceResult> {
    let resource = DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(of));
    let resource = resource.with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    let mut described = kafka.call(4, &request.with_include_documentation(true)).await;
    let result = described.results.remove(0);
    assert_eq!(result.error_code, 0, "{:?}", result.error_message);
    result.configs
}

async fn config_of(kafka: &mut Kafka, topic: &str, key: &str) -> (String, i8) {
    let configs = configs(kafka, TOPIC_KIND, topic).await;
    let found = configs.into_iter().find(|config| &*config.name == key).expect("a known config");
    (found.value.expect("a value").to_string(), found.config_source)
}

/// Writes 100 records; a broker that is told a moment later than this client that it leads asks to be asked again.
async fn store(writer: &mut Kafka) {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let stored = writer.call(9, &produce(-1, batch(0..100))).await;
        let Some(error) = ResponseError::try_from_code(stored.responses[0].partition_responses[0].error_code) else {
            return;
        };
        assert!(error.is_retriable() && tokio::time::Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_grown_and_deleted_in_every_version() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let mut kafka = Kafka::connect(&scene, scene.cluster.broker_ids()[0]).await;
    for version in 2..=7 {
        let topic = format!("made-{version}");
        let new = creatable(&topic, 2, 3).with_configs(vec![config("retention.ms", "5")]);
        let made = kafka.call(version, &create(vec![new])).await;
        let made = &made.topics[0];
        assert_eq!((made.error_code, &made.error_message), (0, &None), "version {version}");
        if version >= 5 {
            assert_eq!((made.num_partitions, made.replication_factor), (2, 3));
            let set =
                made.configs.iter().flatten().find(|config| &*config.name == "retention.ms").expect("all configs");
            assert_eq!((set.value.as_deref(), set.config_source), (Some("5"), 1));
        }
        assert_eq!(made.topic_id.is_nil(), version < 7);
        let again = kafka.call(version, &create(vec![creatable(&topic, 2, 3)])).await;
        assert_eq!(again.topics[0].error_code, ResponseError::TopicAlreadyExists.code());
        assert!(again.topics[0].error_message.as_ref().is_some_and(|message| message.contains(&topic)));
    }

    // Each topic by itself; one that is there twice not at all; nothing of what is only tried.
    let by_hand = CreatableReplicaAssignment::default().with_broker_ids(vec![2.into(), 1.into()]);
    let several = vec![
        creatable("by-hand", -1, -1).with_assignments(vec![by_hand]),
        creatable("twice", 1, 1),
        creatable("twice", 1, 1),
        creatable("too-many", 1, 9),
        creatable("__own", 1, 1),
        creatable("a b", 1, 1),
        creatable("odd", 1, 1).with_configs(vec![config("compression.type", "zstd")]),
    ];
    let answer = kafka.call(7, &create(several.clone())).await;
    let told: Vec<_> = answer.topics.iter().map(|topic| (topic.name.to_string(), topic.error_code)).collect();
    let expected = [
        ("by-hand", 0),
        ("twice", ResponseError::InvalidRequest.code()),
        ("too-many", ResponseError::InvalidReplicationFactor.code()),
        ("__own", ResponseError::InvalidTopicException.code()),
        ("a b", ResponseError::InvalidTopicException.code()),
        ("odd", ResponseError::InvalidConfig.code()),
    ];
    assert_eq!(told, expected.map(|(name, code)| (name.to_owned(), code)));
    assert!(answer.topics[1..].iter().all(|topic| topic.error_message.as_ref().is_some_and(|text| !text.is_empty())));
    let tried = kafka.call(7, &create(vec![creatable("tried", 4, -1)]).with_validate_only(true)).await;
    assert_eq!((tried.topics[0].error_code, tried.topics[0].num_partitions), (0, 4));
    assert!(tried.topics[0].topic_id.is_nil());

    for version in 0..=3 {
        let grow = |count, validate_only| {
            let topic = CreatePartitionsTopic::default().with_name(name("by-hand")).with_count(count);
            let request = CreatePartitionsRequest::default().with_topics(vec![topic.with_assignments(None)]);
            request.with_timeout_ms(TIMEOUT_MS).with_validate_only(validate_only)
        };
        let more = i32::from(version) + 2;
        for (request, code) in [
            (grow(more, true), 0),
            (grow(more, false), 0),
            (grow(more, false), ResponseError::InvalidPartitions.code()),
            (grow(1, false), ResponseError::InvalidPartitions.code()),
        ] {
            let grown = kafka.call(version, &request).await;
            assert_eq!(grown.results[0].error_code, code, "version {version}: {:?}", grown.results[0].error_message);
        }
    }

    // Pages of the partitions of all topics.
    let (mut cursor, mut seen) = (None, Vec::new());
    loop {
        let request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(4).with_cursor(cursor);
        let page = kafka.call(0, &request).await;
        for topic in &page.topics {
            let topic_name = topic.name.as_ref().expect("a name").to_string();
            assert!(!topic.topic_id.is_nil());
            for partition in &topic.partitions {
                assert!(partition.eligible_leader_replicas.is_some());
                seen.push((topic_name.clone(), partition.partition_index));
            }
        }
        let Some(next) = page.next_cursor else { break };
        cursor = Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index));
    }
    assert!(seen.is_sorted() && seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    assert_eq!(seen.iter().filter(|(name, _)| name == "by-hand").count(), 5);
    let one = TopicRequest::default().with_name(name("none"));
    let request = DescribeTopicPartitionsRequest::default().with_topics(vec![one]).with_response_partition_limit(4);
    let missing = kafka.call(0, &request).await;
    assert_eq!(missing.topics[0].error_code, ResponseError::UnknownTopicOrPartition.code());

    for version in 1..=5 {
        let names = vec![name(&format!("made-{version}")), name("none")];
        let request = DeleteTopicsRequest::default().with_topic_names(names).with_timeout_ms(TIMEOUT_MS);
        let deleted = kafka.call(version, &request).await;
        let codes: Vec<_> = deleted.responses.iter().map(|topic| topic.error_code).collect();
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        assert_eq!(codes, [if version == 1 { unknown } else { 0 }, unknown], "version {version}");
    }
    let metadata = kafka.call(12, &MetadataRequest::default().with_topics(None)).await;
    let id = metadata.topics.iter().find(|topic| topic.name == Some(name("made-7"))).expect("it is there").topic_id;
    let by_id = DeleteTopicState::default().with_name(None).with_topic_id(id);
    let by_name = DeleteTopicState::default().with_name(Some(name("made-6")));
    let delete = |topics| DeleteTopicsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS);
    let twice = kafka.call(6, &delete(vec![by_id.clone(), by_id.clone()])).await;
    assert!(twice.responses.iter().all(|topic| topic.error_code == ResponseError::InvalidRequest.code()));
    let deleted = kafka.call(6, &delete(vec![by_id.clone(), by_name])).await;
    assert!(deleted.responses.iter().all(|topic| topic.error_code == 0), "{deleted:?}");
    assert_eq!((&deleted.responses[0].name, deleted.responses[0].topic_id), (&Some(name("made-7")), id));
    let gone = kafka.call(6, &delete(vec![by_id])).await;
    assert_eq!(gone.responses[0].error_code, ResponseError::UnknownTopicId.code());
}

/// How many partitions a broker says a topic has.
async fn partitions_of(kafka: &mut Kafka, topic: &str) -> Result<usize, i16> {
    let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(name(topic)));
    let answer = kafka.call(12, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
    let topic = &answer.topics[0];
    if topic.error_code != 0 {
        return Err(topic.error_code);
    }
    Ok(topic.partitions.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_broker_was_told_to_do_all_of_them_show_and_serve() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let mut brokers = Vec::new();
    for id in scene.cluster.broker_ids() {
        brokers.push((id, Kafka::connect(&scene, id).await));
    }
    for round in 0..8 {
        let topic = format!("told-{round}");
        let told = round % brokers.len();
        let made = brokers[told].1.call(7, &create(vec![creatable(&topic, 2, 3)])).await;
        assert_eq!(made.topics[0].error_code, 0);
        for (id, kafka) in &mut brokers {
            assert_eq!(partitions_of(kafka, &topic).await, Ok(2), "made, as broker {id} has it");
        }

        let grown = CreatePartitionsTopic::default().with_name(name(&topic)).with_count(3).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![grown]).with_timeout_ms(TIMEOUT_MS);
        assert_eq!(brokers[told].1.call(3, &request).await.results[0].error_code, 0);
        for (id, kafka) in &mut brokers {
            assert_eq!(partitions_of(kafka, &topic).await, Ok(3), "grown, as broker {id} has it");
        }
        // Each partition has a leader, and it is the one that knows it.
        let mut stored = 0;
        for (_, kafka) in &mut brokers {
            for partition in 0..3 {
                let answer = kafka.call(9, &produce_to(&topic, partition, -1, batch(0..1))).await;
                match answer.responses[0].partition_responses[0].error_code {
                    0 => stored += 1,
                    code => assert_eq!(code, ResponseError::NotLeaderOrFollower.code(), "partition {partition}"),
                }
            }
        }
        assert_eq!(stored, 3, "each by its leader");

        let value = format!("{}", 1000 + round);
        let change = Change::default().with_name(text("retention.ms")).with_value(Some(text(&value)));
        let resource = ChangedResource::default().with_resource_type(TOPIC_KIND).with_resource_name(text(&topic));
        let request =
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![change])]);
        assert_eq!(brokers[told].1.call(1, &request).await.responses[0].error_code, 0);
        for (id, kafka) in &mut brokers {
            assert_eq!(config_of(kafka, &topic, "retention.ms").await, (value.clone(), 1), "as broker {id} has it");
        }

        let request = DeleteTopicsRequest::default().with_topic_names(vec![name(&topic)]).with_timeout_ms(TIMEOUT_MS);
        assert_eq!(brokers[told].1.call(5, &request).await.responses[0].error_code, 0);
        let unknown = Err(ResponseError::UnknownTopicOrPartition.code());
        for (id, kafka) in &mut brokers {
            assert_eq!(partitions_of(kafka, &topic).await, unknown, "deleted, as broker {id} has it");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_are_seen_and_changed_in_every_version() {
    let scene = Scene::new().await;
    scene.all_in_sync().await;
    let me = scene.cluster.broker_ids()[1];
    let mut kafka = Kafka::connect(&scene, me).await;
    assert_eq!(config_of(&mut kafka, TOPIC, "retention.ms").await, ("604800000".to_owned(), 5));
    for version in 0..=1 {
        let change = |changes: &[(i8, &str, Option<&str>)]| {
            let changes = changes.iter().map(|(operation, key, value)| {
                Change::default().with_name(text(key)).with_config_operation(*operation).with_value(value.map(text))
            });
            let resource = ChangedResource::default().with_resource_type(TOPIC_KIND).with_resource_name(text(TOPIC));
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(changes.collect())])
        };
        let first = [(0, "retention.ms", Some("7")), (2, "cleanup.policy", Some("compact"))];
        let tried = kafka.call(version, &change(&first).with_validate_only(true)).await;
        assert_eq!(tried.responses[0].error_code, 0);
        assert_eq!(config_of(&mut kafka, TOPIC, "retention.ms").await.1, 5, "only tried");
        let changed = kafka.call(version, &change(&first)).await;
        assert_eq!(changed.responses[0].error_code, 0, "{:?}", changed.responses[0].error_message);
        assert_eq!(config_of(&mut kafka, TOPIC, "retention.ms").await, ("7".to_owned(), 1));
        assert_eq!(config_of(&mut kafka, TOPIC, "cleanup.policy").await.0, "delete,compact");
        let second = [(1, "retention.ms", None), (3, "cleanup.policy", Some("compact"))];
        let changed = kafka.call(version, &change(&second)).await;
        assert_eq!(changed.responses[0].error_code, 0, "{:?}", changed.responses[0].error_message);
        assert_eq!(config_of(&mut kafka, TOPIC, "retention.ms").await.1, 5);
        assert_eq!(config_of(&mut kafka, TOPIC, "cleanup.policy").await.0, "delete");
        let refused = kafka.call(version, &change(&[(0, "flush.messages", Some("1"))])).await;
        assert_eq!(refused.responses[0].error_code, ResponseError::InvalidConfig.code());
        assert!(refused.responses[0].error_message.as_ref().is_some_and(|text| text.contains("durability")));
    }
    for version in 0..=2 {
        let replace = |kind, of: &str, key: &str, value: &str| {
            let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
            let resource = AlterConfigsResource::default().with_resource_type(kind).with_resource_name(text(of));
            AlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![config])])
        };
        let first = kafka.call(version, &replace(TOPIC_KIND, TOPIC, "segment.bytes", "1048576")).await;
        assert_eq!(first.responses[0].error_code, 0);
        let second = kafka.call(version, &replace(TOPIC_KIND, TOPIC, "retention.ms", "9")).await;
        assert_eq!(second.responses[0].error_code, 0);
        assert_eq!(config_of(&mut kafka, TOPIC, "retention.ms").await, ("9".to_owned(), 1));
        assert_eq!(config_of(&mut kafka, TOPIC, "segment.bytes").await.1, 5, "what is not named is put back");
        for (kind, of) in [(BROKER_KIND, "1"), (8, "1")] {
            let refused = kafka.call(version, &replace(kind, of, "x", "1")).await;
            assert_eq!(refused.responses[0].error_code, ResponseError::InvalidRequest.code());
        }
        let unknown = kafka.call(version, &replace(TOPIC_KIND, "none", "retention.ms", "9")).await;
        assert_eq!(unknown.responses[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    }
    let own = configs(&mut kafka, BROKER_KIND, &me.to_string()).await;
    let node = own.iter().find(|config| &*config.name == "node.id").expect("it has a number");
    assert_eq!((node.value.as_deref(), node.read_only), (Some(me.to_string().as_str()), true));
    for version in 1..=4 {
        let resource =
            |kind, of| DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(of));
        let keys = resource(TOPIC_KIND, TOPIC).with_configuration_keys(Some(vec![text("segment.bytes")]));
        let resources = vec![keys, resource(TOPIC_KIND, "none"), resource(BROKER_KIND, "77")];
        let described = kafka.call(version, &DescribeConfigsRequest::default().with_resources(resources)).await;
        let codes: Vec<_> = described.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code(), ResponseError::InvalidRequest.code()]);
        let config = &described.results[0].configs[..];
        assert_eq!(config.len(), 1);
        // Older versions have no documentation.
        let is_plain = config[0].synonyms.is_empty() && (version < 3 || config[0].documentation.is_none());
        assert!(is_plain, "version {version}: what was not asked for");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_deleted_disks_described_and_leaders_elected_in_every_version() {
    let mut scene = Scene::new().await;
    scene.all_in_sync().await;
    let leader = scene.leader(0);
    let mut writer = Kafka::connect(&scene, leader).await;
    store(&mut writer).await;
    let other = scene.cluster.broker_ids().into_iter().find(|id| *id != leader).expect("three brokers");
    let mut kafka = Kafka::connect(&scene, other).await;
    for version in 0..=2 {
        let delete = |topic: &str, index, offset| {
            let partition = DeleteRecordsPartition::default().with_partition_index(index).with_offset(offset);
            let topic = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
            DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS)
        };
        let before = 10 * (i64::from(version) + 1);
        for (request, expected) in [
            (delete(TOPIC, 0, before), (0, before)),
            (delete(TOPIC, 0, 1_000), (ResponseError::OffsetOutOfRange.code(), -1)),
            (delete(TOPIC, 0, -2), (ResponseError::OffsetOutOfRange.code(), -1)),
            (delete(TOPIC, 9, 1), (ResponseError::UnknownTopicOrPartition.code(), -1)),
            (delete("none", 0, 1), (ResponseError::UnknownTopicOrPartition.code(), -1)),
        ] {
            let deleted = kafka.call(version, &request).await;
            let told = &deleted.topics[0].partitions[0];
            assert_eq!((told.error_code, told.low_watermark), expected, "version {version}: {request:?}");
        }
    }
    for version in 1..=4 {
        let described = kafka.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
        let dir = &described.results[0];
        assert_eq!((described.error_code, dir.error_code), (0, 0));
        let topic = dir.topics.iter().find(|topic| topic.name == name(TOPIC)).expect("a replica of each partition");
        assert_eq!(topic.partitions.len(), 3);
        assert!(topic.partitions.iter().any(|partition| partition.partition_size > 0));
        assert_eq!(dir.total_bytes > 0 && dir.usable_bytes > 0, version == 4);
    }

    // The preferred leader of partition 0 is gone and comes back.
    let preferred = scene.partition(0).replicas[0];
    scene.kill(broker(preferred));
    scene.partitions_when("another leads", |all| all[0].leader.is_some_and(|leader| leader != preferred)).await;
    let asked = scene.leader(0);
    let mut kafka = Kafka::connect(&scene, asked).await;
    let elect = |version: i16, partitions: Vec<i32>| {
        let topic = TopicPartitions::default().with_topic(name(TOPIC)).with_partitions(partitions);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic]));
        let request = request.with_timeout_ms(TIMEOUT_MS);
        if version > 0 { request.with_election_type(0) } else { request }
    };
    for version in 0..=2 {
        let refused = kafka.call(version, &elect(version, vec![0, 9])).await;
        let mut told: Vec<_> = refused.replica_election_results[0]
            .partition_result
            .iter()
            .map(|one| (one.partition_id, one.error_code))
            .collect();
        told.sort_unstable();
        let expected = [
            (0, ResponseError::PreferredLeaderNotAvailable.code()),
            (9, ResponseError::UnknownTopicOrPartition.code()),
        ];
        assert_eq!(told, expected, "version {version}");
    }
    scene.start(broker(preferred));
    scene.all_in_sync().await;
    let elected = kafka.call(2, &elect(2, vec![0])).await;
    let code = elected.replica_election_results[0].partition_result[0].error_code;
    let may = [0, ResponseError::ElectionNotNeeded.code()];
    assert!(may.contains(&code), "elected, or the controller was faster: {elected:?}");
    until("the preferred replica leads", || scene.partition(0).leader == Some(preferred)).await;
    let all =
        kafka.call(2, &ElectLeadersRequest::default().with_topic_partitions(None).with_timeout_ms(TIMEOUT_MS)).await;
    assert_eq!((all.error_code, all.replica_election_results.len()), (0, 0), "nothing is left to do");
    let odd = kafka.call(2, &elect(2, vec![0]).with_election_type(7)).await;
    assert_eq!(odd.error_code, ResponseError::InvalidRequest.code());
}
