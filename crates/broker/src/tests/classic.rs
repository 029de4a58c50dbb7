//! The classic group protocol over gRPC, while coordinators come and go.

use std::time::Duration;

use highwater_protocol::v1::{self, CoordinatorKind};
use highwater_protocol::{code_of, topic_id_bytes};
use highwater_storage::sim::SimDisk;
use highwater_types::{BrokerId, ErrorCode, TopicPartition};

use super::coordinator::{asked, coordinator};
use super::harness::{eventually, soon};
use super::whole::{Node, start_with};
use crate::BrokerConfig;
use crate::cluster::tests::fake::Fake;

/// One of so many brokers, if there are fewer than three.
async fn start(fake: &Fake, id: u32, brokers: u32) -> Node {
    let config = BrokerConfig {
        id: BrokerId::new(id),
        group_initial_rebalance_delay_ms: 50,
        internal_topics_replication_factor: brokers.min(3),
        ..BrokerConfig::default()
    };
    start_with(fake, config, SimDisk::new(id.into())).await
}

async fn find(node: &Node) -> u32 {
    let request = || v1::FindCoordinatorRequest { kind: CoordinatorKind::Group.into(), key: "g".into() };
    asked(|| async { coordinator(node).find_coordinator(request()).await }).await.unwrap().broker_id
}

fn joining(member: &str) -> v1::JoinGroupRequest {
    v1::JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        member_id: member.into(),
        protocol_type: "t".into(),
        protocols: vec![v1::GroupProtocol { name: "p".into(), metadata: "m".into() }],
        client_id: "c".into(),
        ..Default::default()
    }
}

async fn join(node: &Node, request: v1::JoinGroupRequest) -> Result<v1::JoinGroupResponse, v1::Error> {
    asked(|| async { coordinator(node).join_group(request.clone()).await }).await
}

async fn sync(node: &Node, of: &v1::JoinGroupResponse) -> Result<v1::SyncGroupResponse, v1::Error> {
    let own = |it: &v1::JoinedMember| v1::MemberAssignment {
        member_id: it.member_id.clone(),
        assignment: it.member_id.clone().into(),
    };
    let request = v1::SyncGroupRequest {
        group_id: "g".into(),
        generation: of.generation,
        member_id: of.member_id.clone(),
        assignments: of.members.iter().map(own).collect(),
        ..Default::default()
    };
    asked(|| async { coordinator(node).sync_group(request.clone()).await }).await
}

async fn beat(node: &Node, of: &v1::JoinGroupResponse) -> Result<v1::HeartbeatResponse, v1::Error> {
    let request = v1::HeartbeatRequest {
        group_id: "g".into(),
        generation: of.generation,
        member_id: of.member_id.clone(),
        instance_id: String::new(),
    };
    asked(|| async { coordinator(node).heartbeat(request.clone()).await }).await
}

async fn commit(
    node: &Node,
    of: &v1::JoinGroupResponse,
    offsets: &[(TopicPartition, &str)],
) -> Result<Vec<Option<ErrorCode>>, v1::Error> {
    let one = |(tp, metadata): &(TopicPartition, &str)| v1::OffsetToCommit {
        topic_id: topic_id_bytes(tp.topic),
        partition: tp.partition.get(),
        offset: 7,
        leader_epoch: -1,
        metadata: (*metadata).to_owned(),
    };
    let request = v1::CommitOffsetsRequest {
        group_id: "g".into(),
        member_id: of.member_id.clone(),
        member_epoch: of.generation,
        instance_id: String::new(),
        offsets: offsets.iter().map(one).collect(),
    };
    let answer = asked(|| async { coordinator(node).commit_offsets(request.clone()).await }).await?;
    Ok(answer.partitions.iter().map(|it| it.error.as_ref().map(code_of)).collect())
}

async fn describe(node: &Node) -> v1::DescribeGroupResponse {
    let request = || v1::DescribeGroupRequest { group_id: "g".into() };
    asked(|| async { coordinator(node).describe_group(request()).await }).await.unwrap()
}

/// Both have their assignments.
async fn synced(node: &Node, one: &v1::JoinGroupResponse, two: &v1::JoinGroupResponse) {
    let (first, second) = tokio::join!(sync(node, one), sync(node, two));
    assert_eq!(first.unwrap().assignment, one.member_id);
    assert_eq!(second.unwrap().assignment, two.member_id);
}

#[tokio::test]
async fn two_members_join_and_sync_and_go_on_when_the_coordinator_has_moved() {
    let fake = Fake::start(1).await;
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(&fake, id, 3).await);
    }
    let data = fake.create_topic("data", &[1], &[]);
    let id = find(&nodes[0]).await;
    let here = nodes.remove(id as usize - 1);
    eventually(|| here.handle.partitions().image().partition(data).is_some()).await;

    let required = join(&here, v1::JoinGroupRequest { require_known_member_id: true, ..joining("") }).await.unwrap();
    assert_eq!(required.error.as_ref().map(code_of), Some(ErrorCode::MemberIdRequired));
    let (one, two) = tokio::join!(join(&here, joining(&required.member_id)), join(&here, joining("")));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((&one.leader, one.generation, &one.protocol_name), (&two.leader, two.generation, &two.protocol_name));
    assert_eq!(one.members.len() + two.members.len(), 2, "the leader's");
    synced(&here, &one, &two).await;
    beat(&here, &one).await.unwrap();
    let unknown = TopicPartition::new(data.topic, highwater_types::PartitionId::new(9));
    let long = "x".repeat(5000);
    let results = commit(&here, &one, &[(data, "why"), (unknown, ""), (data, &long)]).await.unwrap();
    assert_eq!(results, [None, Some(ErrorCode::UnknownPartition), Some(ErrorCode::OffsetMetadataTooLarge)]);
    // One hangs up while it waits: nothing is left waiting for it but its place, and that it takes again.
    let hung_up = tokio::time::timeout(Duration::from_millis(100), join(&here, joining(&one.leader))).await;
    assert!(hung_up.is_err(), "waits for the other");
    assert_eq!(code_of(&beat(&here, &two).await.unwrap_err()), ErrorCode::RebalanceInProgress);
    let (one, two) = tokio::join!(join(&here, joining(&one.member_id)), join(&here, joining(&two.member_id)));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.generation, two.generation), (2, 2));
    let described = describe(&here).await;
    let listed = described.group.unwrap();
    assert_eq!((listed.kind(), listed.state.as_str()), (v1::GroupKind::Classic, "CompletingRebalance"));
    assert!(described.members.iter().all(|it| it.is_classic && it.protocol_metadata == "m"));

    // In the midst of a generation the coordinator moves.
    here.stop().await;
    let id = find(&nodes[0]).await;
    let next = nodes.iter().find(|node| node.handle.partitions().me().get() == id).unwrap();
    synced(next, &one, &two).await;
    beat(next, &one).await.unwrap();
    assert_eq!(commit(next, &two, &[(data, "")]).await.unwrap(), [None]);
    let old = v1::JoinGroupResponse { generation: 1, ..two.clone() };
    assert_eq!(code_of(&commit(next, &old, &[(data, "")]).await.unwrap_err()), ErrorCode::IllegalGeneration);

    let leave = |member: &v1::JoinGroupResponse| v1::LeavingMember {
        member_id: member.member_id.clone(),
        ..Default::default()
    };
    let stranger = v1::LeavingMember { member_id: "stranger".into(), ..Default::default() };
    let request = v1::LeaveGroupRequest { group_id: "g".into(), members: vec![leave(&one), stranger, leave(&two)] };
    let left = soon(coordinator(next).leave_group(request)).await.unwrap().into_inner().members;
    let codes: Vec<_> = left.iter().map(|it| it.error.as_ref().map(code_of)).collect();
    assert_eq!(codes, [None, Some(ErrorCode::UnknownMemberId), None]);
    assert_eq!(describe(next).await.group.unwrap().state, "Empty");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn a_consumer_goes_on_while_its_group_becomes_one_of_kip_848_and_classic_again() {
    let fake = Fake::start(1).await;
    let node = start(&fake, 1, 1).await;
    let data = fake.create_topic("data", &[1], &[]);
    find(&node).await;
    eventually(|| node.handle.partitions().image().partition(data).is_some()).await;

    // Version 0 of what Kafka's consumers say, and are told.
    let metadata = b"\0\0\0\0\0\x01\0\x04data\xff\xff\xff\xff";
    let assigned = b"\0\0\0\0\0\x01\0\x04data\0\0\0\x01\0\0\0\0\xff\xff\xff\xff";
    let protocols = vec![v1::GroupProtocol { name: "range".into(), metadata: metadata.to_vec().into() }];
    let consumer = |member: &str| v1::JoinGroupRequest {
        protocol_type: "consumer".into(),
        protocols: protocols.clone(),
        ..joining(member)
    };
    let told = |of: &v1::JoinGroupResponse, leads: bool| {
        let assignment = v1::MemberAssignment { member_id: of.member_id.clone(), assignment: assigned.to_vec().into() };
        let request = v1::SyncGroupRequest {
            group_id: "g".into(),
            generation: of.generation,
            member_id: of.member_id.clone(),
            assignments: if leads { vec![assignment] } else { Vec::new() },
            ..Default::default()
        };
        let node = &node;
        async move { asked(|| async { coordinator(node).sync_group(request.clone()).await }).await.unwrap().assignment }
    };
    let one = join(&node, consumer("")).await.unwrap();
    assert_eq!(told(&one, true).await, assigned.as_slice());

    let heartbeat = |epoch: i32| {
        let subscription = v1::GroupSubscription { topics: vec!["data".into()], topic_pattern: String::new() };
        let request = v1::GroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "new".into(),
            member_epoch: epoch,
            subscription: (epoch == 0).then_some(subscription),
            ..Default::default()
        };
        let node = &node;
        async move { asked(|| async { coordinator(node).group_heartbeat(request.clone()).await }).await }
    };
    let joined = heartbeat(0).await.unwrap();
    assert_eq!((joined.member_epoch, joined.assignment.unwrap().partitions.len()), (2, 0), "it is the other's still");
    let described = describe(&node).await;
    assert_eq!(described.group.unwrap().kind(), v1::GroupKind::Consumer);
    assert_eq!(described.members.iter().filter(|it| it.is_classic).count(), 1);
    assert_eq!(code_of(&beat(&node, &one).await.unwrap_err()), ErrorCode::RebalanceInProgress);
    let one = join(&node, consumer(&one.member_id)).await.unwrap();
    assert_eq!((one.generation, one.leader.as_str()), (2, "new"));
    assert_eq!(told(&one, false).await, assigned.as_slice());
    beat(&node, &one).await.unwrap();
    assert_eq!(commit(&node, &one, &[(data, "")]).await.unwrap(), [None]);

    heartbeat(-1).await.unwrap();
    let described = describe(&node).await.group.unwrap();
    assert_eq!((described.kind(), described.state.as_str()), (v1::GroupKind::Classic, "PreparingRebalance"));
    assert_eq!(code_of(&beat(&node, &one).await.unwrap_err()), ErrorCode::RebalanceInProgress);
    let one = join(&node, consumer(&one.member_id)).await.unwrap();
    assert_eq!((one.generation, &one.leader), (3, &one.member_id));
    assert_eq!(told(&one, true).await, assigned.as_slice());
    node.stop().await;
}
