//! The layouts, held against the encoder of the protocol's crate: each walks exactly what a client sends.

use bytes::BytesMut;
use kafka_protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;

use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn bytes(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

/// `build` makes a request with something in every field that the version has.
pub(crate) fn walks<M: Encodable + Decodable>(key: ApiKey, build: impl Fn(i16) -> M) {
    let api = APIS.iter().find(|api| api.key == key).expect("it is in the table");
    for version in api.first..=api.last {
        let mut bytes = BytesMut::new();
        build(version).encode(&mut bytes, version).unwrap_or_else(|error| panic!("{key:?} {version}: {error}"));
        let walked = api.layout.check(version, &bytes);
        assert_eq!(walked, Ok(bytes.len()), "{key:?} version {version}");
        let flexible = api.key.request_header_version(version) == 2;
        assert_eq!(api.layout.is_flexible(version), flexible, "{key:?} version {version}");
        for cut in 0..bytes.len() {
            assert!(api.layout.check(version, &bytes[..cut]).is_err(), "{key:?} version {version} cut at {cut}");
        }
    }
}

#[test]
fn produce_requests_are_walked_to_their_end() {
    walks(ApiKey::Produce, |version| {
        let data = PartitionProduceData::default().with_index(1).with_records(Some(Bytes::from_static(b"abc")));
        let topic = TopicProduceData::default().with_partition_data(vec![data.clone(), data.with_records(None)]);
        let topic = match version {
            ..13 => topic.with_name(text("t").into()),
            _ => topic.with_topic_id(uuid::Uuid::from_u128(7)),
        };
        ProduceRequest::default().with_transactional_id(Some(text("id").into())).with_topic_data(vec![topic])
    });
}

#[test]
fn fetch_requests_are_walked_to_their_end() {
    walks(ApiKey::Fetch, |version| {
        let mut partition =
            FetchPartition::default().with_partition(1).with_fetch_offset(9).with_partition_max_bytes(5);
        let (mut topic, mut forgotten) = (FetchTopic::default(), ForgottenTopic::default());
        if version < 13 {
            topic.topic = text("t").into();
            forgotten.topic = text("t").into();
        } else {
            topic.topic_id = uuid::Uuid::from_u128(7);
            forgotten.topic_id = uuid::Uuid::from_u128(8);
        }
        if version >= 17 {
            partition.replica_directory_id = uuid::Uuid::from_u128(9);
        }
        if version >= 18 {
            partition.high_watermark = 5;
        }
        let mut request = FetchRequest::default().with_topics(vec![topic.with_partitions(vec![partition])]);
        if version >= 7 {
            request.forgotten_topics_data = vec![forgotten.with_partitions(vec![1, 2])];
        }
        if version >= 11 {
            request.rack_id = text("rack");
        }
        if version >= 12 {
            request.cluster_id = Some(text("cluster"));
        }
        if version >= 15 {
            request.replica_state = ReplicaState::default().with_replica_id(3.into()).with_replica_epoch(4);
        }
        request
    });
}

#[test]
fn requests_of_the_other_apis_are_walked_to_their_end() {
    walks(ApiKey::ListOffsets, |_| {
        let partition = ListOffsetsPartition::default().with_partition_index(1).with_timestamp(-1);
        let topic = ListOffsetsTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
        ListOffsetsRequest::default().with_topics(vec![topic])
    });
    walks(ApiKey::Metadata, |version| {
        let topic = MetadataRequestTopic::default().with_name(Some(text("t").into()));
        MetadataRequest::default()
            .with_topics(Some(vec![topic.clone(), topic]))
            .with_allow_auto_topic_creation(true)
            .with_include_topic_authorized_operations(version >= 8)
    });
    walks(ApiKey::Metadata, |version| MetadataRequest::default().with_topics((version == 0).then(Vec::new)));
    walks(ApiKey::FindCoordinator, |version| match version {
        ..4 => FindCoordinatorRequest::default().with_key(text("g")),
        _ => FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"), text("h")]),
    });
    walks(ApiKey::ApiVersions, |version| match version {
        ..3 => ApiVersionsRequest::default(),
        _ => ApiVersionsRequest::default().with_client_software_name(text("n")).with_client_software_version(text("1")),
    });
    walks(ApiKey::InitProducerId, |_| InitProducerIdRequest::default().with_transactional_id(Some(text("t").into())));
    walks(ApiKey::OffsetForLeaderEpoch, |_| {
        let topic = OffsetForLeaderTopic::default().with_topic(text("t").into());
        let topic = topic.with_partitions(vec![OffsetForLeaderPartition::default().with_partition(1)]);
        OffsetForLeaderEpochRequest::default().with_topics(vec![topic])
    });
    walks(ApiKey::DescribeCluster, |_| DescribeClusterRequest::default());
}

#[test]
fn requests_of_classic_groups_are_walked_to_their_end() {
    walks(ApiKey::JoinGroup, |version| {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(bytes(b"abc"));
        JoinGroupRequest::default()
            .with_group_id(text("g").into())
            .with_member_id(text("m"))
            .with_group_instance_id((version >= 5).then(|| text("i")))
            .with_protocols(vec![protocol.clone(), protocol])
            .with_reason((version >= 8).then(|| text("why")))
    });
    walks(ApiKey::SyncGroup, |version| {
        let assignment = SyncGroupRequestAssignment::default().with_member_id(text("m")).with_assignment(bytes(b"a"));
        SyncGroupRequest::default()
            .with_group_instance_id((version >= 3).then(|| text("i")))
            .with_protocol_type((version >= 5).then(|| text("consumer")))
            .with_protocol_name((version >= 5).then(|| text("range")))
            .with_assignments(vec![assignment])
    });
    walks(ApiKey::Heartbeat, |version| {
        HeartbeatRequest::default().with_group_instance_id((version >= 3).then(|| text("i")))
    });
    walks(ApiKey::LeaveGroup, |version| match version {
        ..3 => LeaveGroupRequest::default().with_member_id(text("m")),
        _ => LeaveGroupRequest::default().with_members(vec![
            MemberIdentity::default()
                .with_member_id(text("m"))
                .with_group_instance_id(Some(text("i")))
                .with_reason((version >= 5).then(|| text("why"))),
        ]),
    });
}

#[test]
fn requests_of_offsets_are_walked_to_their_end() {
    walks(ApiKey::OffsetCommit, |version| {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_leader_epoch(if version >= 6 { 3 } else { -1 })
            .with_committed_metadata(Some(text("x")));
        let topic = OffsetCommitRequestTopic::default().with_name(text("t").into());
        OffsetCommitRequest::default()
            .with_group_instance_id((version >= 7).then(|| text("i")))
            .with_topics(vec![topic.with_partitions(vec![partition.clone(), partition])])
    });
    walks(ApiKey::OffsetFetch, |version| {
        let request = OffsetFetchRequest::default().with_require_stable(version >= 7);
        if version < 8 {
            let topic = OffsetFetchRequestTopic::default().with_name(text("t").into());
            return request.with_topics(Some(vec![topic.with_partition_indexes(vec![1, 2])]));
        }
        let topic = OffsetFetchRequestTopics::default().with_name(text("t").into()).with_partition_indexes(vec![1]);
        let group = OffsetFetchRequestGroup::default().with_group_id(text("g").into());
        let all = group.clone().with_topics(None);
        let member = group.with_topics(Some(vec![topic])).with_member_id((version >= 9).then(|| text("m")));
        request.with_groups(vec![member, all])
    });
    walks(ApiKey::OffsetDelete, |_| {
        let partition = OffsetDeleteRequestPartition::default().with_partition_index(1);
        let topic = OffsetDeleteRequestTopic::default().with_name(text("t").into());
        OffsetDeleteRequest::default().with_topics(vec![topic.with_partitions(vec![partition])])
    });
}

#[test]
fn requests_about_groups_are_walked_to_their_end() {
    walks(ApiKey::DescribeGroups, |version| {
        DescribeGroupsRequest::default()
            .with_groups(vec![text("g").into(), text("h").into()])
            .with_include_authorized_operations(version >= 3)
    });
    walks(ApiKey::ListGroups, |version| {
        let filter = |first: i16| if version >= first { vec![text("x"), text("y")] } else { Vec::new() };
        ListGroupsRequest::default().with_states_filter(filter(4)).with_types_filter(filter(5))
    });
    walks(ApiKey::DeleteGroups, |_| DeleteGroupsRequest::default().with_groups_names(vec![text("g").into()]));
    walks(ApiKey::ConsumerGroupHeartbeat, |version| {
        let owned = TopicPartitions::default().with_topic_id(uuid::Uuid::from_u128(7)).with_partitions(vec![1, 2]);
        ConsumerGroupHeartbeatRequest::default()
            .with_instance_id(Some(text("i")))
            .with_rack_id(Some(text("r")))
            .with_subscribed_topic_names(Some(vec![text("t").into()]))
            .with_subscribed_topic_regex((version >= 1).then(|| text("a.*")))
            .with_server_assignor(Some(text("range")))
            .with_topic_partitions(Some(vec![owned]))
    });
    walks(ApiKey::ConsumerGroupDescribe, |_| {
        ConsumerGroupDescribeRequest::default().with_group_ids(vec![text("g").into()])
    });
}

#[test]
fn requests_of_transactions_are_walked_to_their_end() {
    walks(ApiKey::AddPartitionsToTxn, |version| {
        let topic = AddPartitionsToTxnTopic::default().with_name(text("t").into()).with_partitions(vec![1, 2]);
        if version < 4 {
            return AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(text("id").into())
                .with_v3_and_below_topics(vec![topic]);
        }
        let one = AddPartitionsToTxnTransaction::default().with_transactional_id(text("id").into());
        AddPartitionsToTxnRequest::default().with_transactions(vec![one.with_topics(vec![topic.clone(), topic])])
    });
    walks(ApiKey::AddOffsetsToTxn, |_| AddOffsetsToTxnRequest::default().with_group_id(text("g").into()));
    walks(ApiKey::EndTxn, |_| EndTxnRequest::default().with_transactional_id(text("id").into()));
    walks(ApiKey::TxnOffsetCommit, |version| {
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_metadata(Some(text("m")));
        let topic = TxnOffsetCommitRequestTopic::default().with_name(text("t").into());
        let request = TxnOffsetCommitRequest::default().with_topics(vec![topic.with_partitions(vec![partition])]);
        match version {
            ..3 => request,
            _ => request.with_generation_id(3).with_member_id(text("m")).with_group_instance_id(Some(text("i"))),
        }
    });
    walks(ApiKey::DescribeProducers, |_| {
        let topic = TopicRequest::default().with_name(text("t").into()).with_partition_indexes(vec![1, 2]);
        DescribeProducersRequest::default().with_topics(vec![topic])
    });
    walks(ApiKey::DescribeTransactions, |_| {
        DescribeTransactionsRequest::default().with_transactional_ids(vec![text("id").into()])
    });
    walks(ApiKey::ListTransactions, |version| {
        ListTransactionsRequest::default()
            .with_state_filters(vec![text("Ongoing")])
            .with_producer_id_filters(vec![7.into()])
            .with_duration_filter(if version >= 1 { 5 } else { -1 })
            .with_transactional_id_pattern((version >= 2).then(|| text("a.*")))
    });
}

#[test]
fn requests_about_topics_are_walked_to_their_end() {
    walks(ApiKey::CreateTopics, |_| {
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![1.into(), 2.into()]);
        let config = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(Some(text("5")));
        let topic = CreatableTopic::default().with_name(text("t").into()).with_assignments(vec![assignment]);
        let topic = topic.with_configs(vec![config.clone(), config.with_value(None)]);
        CreateTopicsRequest::default().with_topics(vec![topic]).with_validate_only(true)
    });
    walks(ApiKey::DeleteTopics, |version| match version {
        ..6 => DeleteTopicsRequest::default().with_topic_names(vec![text("t").into(), text("u").into()]),
        _ => {
            let topic = DeleteTopicState::default().with_name(None).with_topic_id(uuid::Uuid::from_u128(7));
            DeleteTopicsRequest::default().with_topics(vec![topic.clone(), topic.with_name(Some(text("t").into()))])
        }
    });
    walks(ApiKey::DeleteRecords, |_| {
        let partition = DeleteRecordsPartition::default().with_partition_index(1).with_offset(-1);
        let topic = DeleteRecordsTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
        DeleteRecordsRequest::default().with_topics(vec![topic])
    });
    walks(ApiKey::CreatePartitions, |_| {
        let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![1.into()]);
        let topic = CreatePartitionsTopic::default().with_name(text("t").into()).with_count(3);
        let topics = vec![topic.clone(), topic.with_assignments(Some(vec![assignment]))];
        CreatePartitionsRequest::default().with_topics(topics).with_validate_only(true)
    });
    walks(ApiKey::ElectLeaders, |version| {
        let topic = elect_leaders_request::TopicPartitions::default().with_topic(text("t").into());
        let request = ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic.with_partitions(vec![1])]));
        if version > 0 { request.with_election_type(1) } else { request }
    });
    walks(ApiKey::DescribeTopicPartitions, |_| {
        let topic = describe_topic_partitions_request::TopicRequest::default().with_name(text("t").into());
        let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(text("t").into());
        DescribeTopicPartitionsRequest::default().with_topics(vec![topic]).with_cursor(Some(cursor))
    });
    walks(ApiKey::DescribeTopicPartitions, |_| DescribeTopicPartitionsRequest::default());
}

#[test]
fn requests_about_configs_and_disks_are_walked_to_their_end() {
    walks(ApiKey::DescribeConfigs, |version| {
        let resource = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text("t"));
        let some = resource.clone().with_configuration_keys(Some(vec![text("retention.ms")]));
        let resources = vec![some, resource.with_configuration_keys(None)];
        let request = DescribeConfigsRequest::default().with_resources(resources).with_include_synonyms(true);
        if version >= 3 { request.with_include_documentation(true) } else { request }
    });
    walks(ApiKey::AlterConfigs, |_| {
        let config = alter_configs_request::AlterableConfig::default().with_name(text("retention.ms"));
        let resource = alter_configs_request::AlterConfigsResource::default().with_resource_name(text("t"));
        let configs = vec![config.clone().with_value(Some(text("5"))), config.with_value(None)];
        AlterConfigsRequest::default().with_resources(vec![resource.with_configs(configs)])
    });
    walks(ApiKey::IncrementalAlterConfigs, |_| {
        let config = incremental_alter_configs_request::AlterableConfig::default().with_name(text("retention.ms"));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default().with_resource_name(text("t"));
        let configs =
            vec![config.clone().with_value(Some(text("5"))), config.with_config_operation(1).with_value(None)];
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(configs)])
    });
    walks(ApiKey::DescribeLogDirs, |_| {
        let topic = DescribableLogDirTopic::default().with_topic(text("t").into()).with_partitions(vec![1, 2]);
        DescribeLogDirsRequest::default().with_topics(Some(vec![topic]))
    });
    walks(ApiKey::DescribeLogDirs, |_| DescribeLogDirsRequest::default().with_topics(None));
}

#[test]
fn the_table_has_no_api_twice_and_no_version_that_the_crate_can_not_read() {
    let mut keys: Vec<_> = SUPPORTED.iter().map(|api| api.key).collect();
    keys.dedup();
    assert!(keys.is_sorted(), "by number, which also shows one that is there twice: {keys:?}");
    assert_eq!(keys.len(), SUPPORTED.len());
    for api in SUPPORTED {
        let known = ApiKey::try_from(api.key).expect("a key").valid_versions();
        assert!(known.min <= api.first && api.last <= known.max, "{api:?} of {known}");
    }
}

#[test]
fn a_newer_apiversions_is_answered_with_the_list_in_the_oldest_form() {
    let mut frame = unsupported(77).expect("it can be encoded").slice(4..);
    assert_eq!(bytes::Buf::get_i32(&mut frame), 77);
    let answer = ApiVersionsResponse::decode(&mut frame, 0).expect("version 0");
    assert_eq!(answer.error_code, 35);
    assert_eq!(answer.api_keys.len(), SUPPORTED.len());
    // Older clients do not compress otherwise; but what is listed for their sake is not taken.
    assert_eq!((answer.api_keys[0].api_key, answer.api_keys[0].min_version), (ApiKey::Produce as i16, 0));
    assert!(matches!(Api::find(ApiKey::Produce as i16, 2), Err(Broken::UnknownVersion { .. })));
}
