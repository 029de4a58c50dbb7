//! Every version of every API of the Kafka door, asked over a socket; groups and transactions as clients of each age use them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use highwater_client::BrokerId;
use highwater_record::{BatchBuilder, Compression};
use highwater_types::{ProducerEpoch, ProducerId, Sequence, TimestampMs};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::time::{Instant, sleep};

use crate::common::{SOON, Scene, TOPIC};
use crate::kafka::{Kafka, name, produce};
use crate::kafka_both_doors::read_committed;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The oldest and the newest version of each API, as the broker tells.
type Versions = BTreeMap<i16, (i16, i16)>;

async fn versions(kafka: &mut Kafka) -> Versions {
    let answer = kafka.call(0, &ApiVersionsRequest::default()).await;
    answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect()
}

/// Asks with a request that says nothing in each of its versions; what comes back is an answer of that version, to its end.
async fn ask_each<R: Request + Default>(kafka: &mut Kafka, versions: &Versions, asked: &mut BTreeSet<i16>) {
    let (first, last) = versions[&R::KEY];
    for version in first..=last {
        _ = kafka.call(version, &R::default()).await;
    }
    asked.insert(R::KEY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_that_is_told_of_is_answered() {
    let scene = Scene::new().await;
    let (_, mut kafka) = Kafka::of_leader(&scene).await;
    let versions = versions(&mut kafka).await;
    // Without acknowledgements, which is what a request that says nothing asks for, there is no answer: `kafka.rs` has it.
    let mut asked = BTreeSet::from([ProduceRequest::KEY]);
    macro_rules! ask {
        ($($request:ty),* $(,)?) => { $(ask_each::<$request>(&mut kafka, &versions, &mut asked).await;)* };
    }
    ask!(
        FetchRequest,
        ListOffsetsRequest,
        MetadataRequest,
        OffsetCommitRequest,
        OffsetFetchRequest,
        FindCoordinatorRequest,
        JoinGroupRequest,
        HeartbeatRequest,
        LeaveGroupRequest,
        SyncGroupRequest,
        DescribeGroupsRequest,
        ListGroupsRequest,
        ApiVersionsRequest,
        CreateTopicsRequest,
        DeleteTopicsRequest,
        DeleteRecordsRequest,
        InitProducerIdRequest,
        OffsetForLeaderEpochRequest,
        AddPartitionsToTxnRequest,
        AddOffsetsToTxnRequest,
        EndTxnRequest,
        TxnOffsetCommitRequest,
        DescribeConfigsRequest,
        AlterConfigsRequest,
        DescribeLogDirsRequest,
        CreatePartitionsRequest,
        DeleteGroupsRequest,
        ElectLeadersRequest,
        IncrementalAlterConfigsRequest,
        OffsetDeleteRequest,
        DescribeClusterRequest,
        DescribeProducersRequest,
        DescribeTransactionsRequest,
        ListTransactionsRequest,
        ConsumerGroupHeartbeatRequest,
        ConsumerGroupDescribeRequest,
        DescribeTopicPartitionsRequest,
    );
    assert_eq!(asked, versions.keys().copied().collect());
}

/// Clients of one age after the other: each request in the version that came with `age`, or the nearest there is.
struct Aged {
    versions: Versions,
    age: i16,
}

impl Aged {
    fn version<R: Request>(&self) -> i16 {
        let (first, last) = self.versions[&R::KEY];
        self.age.clamp(first, last)
    }

    async fn call<R: Request>(&self, kafka: &mut Kafka, request: &R) -> R::Response {
        kafka.call(self.version::<R>(), request).await
    }

    /// Asks any broker who coordinates, until that one can.
    async fn coordinator(&self, scene: &Scene, kind: i8, key: &str) -> Kafka {
        let mut any = Kafka::connect(scene, scene.leader(0)).await;
        // The oldest version knows groups only.
        let version = self.version::<FindCoordinatorRequest>().max(i16::from(kind));
        let deadline = Instant::now() + SOON;
        loop {
            let request = match version {
                ..4 => FindCoordinatorRequest::default().with_key(text(key)),
                _ => FindCoordinatorRequest::default().with_coordinator_keys(vec![text(key)]),
            };
            let request = if version == 0 { request } else { request.with_key_type(kind) };
            let answer = any.call(version, &request).await;
            let (code, id) = match answer.coordinators.first() {
                Some(it) => (it.error_code, it.node_id),
                None => (answer.error_code, answer.node_id),
            };
            match ResponseError::try_from_code(code) {
                None => return Kafka::connect(scene, BrokerId::new(id.0 as u32)).await,
                Some(error) => assert!(error.is_retriable() && Instant::now() < deadline, "{error:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asks again while the broker says that it will soon know more.
macro_rules! settled {
    ($call:expr, $code:expr) => {{
        let deadline = Instant::now() + SOON;
        loop {
            let answer = $call;
            #[allow(clippy::redundant_closure_call)]
            let code: i16 = $code(&answer);
            match ResponseError::try_from_code(code) {
                // A transaction whose markers are still being written is not called retriable, and every client waits for it.
                Some(error)
                    if (error.is_retriable() || error == ResponseError::ConcurrentTransactions)
                        && Instant::now() < deadline => {}
                _ => break answer,
            }
            sleep(Duration::from_millis(10)).await;
        }
    }};
}

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const KIND: &str = "consumer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic_groups_work_in_every_version() {
    let scene = Scene::new().await;
    let (_, mut any) = Kafka::of_leader(&scene).await;
    let mut aged = Aged { versions: versions(&mut any).await, age: 0 };
    for age in 0..=9 {
        aged.age = age;
        let group = format!("classic-{age}");
        let id: GroupId = text(&group).into();
        let mut kafka = aged.coordinator(&scene, GROUP, &group).await;
        let join_version = aged.version::<JoinGroupRequest>();
        let instance = (join_version >= 5).then(|| text("instance"));
        let join = |member: &StrBytes| {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from("what it wants"));
            let request = JoinGroupRequest::default()
                .with_group_id(id.clone())
                .with_session_timeout_ms(30_000)
                .with_member_id(member.clone())
                .with_group_instance_id(instance.clone())
                .with_protocol_type(text(KIND))
                .with_protocols(vec![protocol])
                .with_reason((join_version >= 8).then(|| text("it is new")));
            if join_version == 0 { request } else { request.with_rebalance_timeout_ms(30_000) }
        };
        let mut joined =
            settled!(aged.call(&mut kafka, &join(&text(""))).await, |it: &JoinGroupResponse| it.error_code);
        if join_version == 4 {
            // A dynamic member of these versions is given an id to join with (KIP-394).
            assert_eq!(joined.error_code, ResponseError::MemberIdRequired.code());
            joined = aged.call(&mut kafka, &join(&joined.member_id)).await;
        }
        assert_eq!((joined.error_code, joined.members.len()), (0, 1), "age {age}");
        assert_eq!((&joined.leader, joined.protocol_name.as_deref()), (&joined.member_id, Some("range")));
        let (member, generation) = (joined.member_id, joined.generation_id);

        let sync_version = aged.version::<SyncGroupRequest>();
        let assignment = SyncGroupRequestAssignment::default()
            .with_member_id(member.clone())
            .with_assignment(Bytes::from("what it gets"));
        let sync = SyncGroupRequest::default()
            .with_group_id(id.clone())
            .with_generation_id(generation)
            .with_member_id(member.clone())
            .with_group_instance_id(instance.clone().filter(|_| sync_version >= 3))
            .with_protocol_type((sync_version >= 5).then(|| text(KIND)))
            .with_protocol_name((sync_version >= 5).then(|| text("range")))
            .with_assignments(vec![assignment]);
        let synced = aged.call(&mut kafka, &sync).await;
        assert_eq!((synced.error_code, synced.assignment), (0, Bytes::from("what it gets")), "age {age}");

        let beat_version = aged.version::<HeartbeatRequest>();
        let heartbeat = HeartbeatRequest::default()
            .with_group_id(id.clone())
            .with_generation_id(generation)
            .with_member_id(member.clone())
            .with_group_instance_id(instance.clone().filter(|_| beat_version >= 3));
        assert_eq!(aged.call(&mut kafka, &heartbeat).await.error_code, 0, "age {age}");
        let stale = heartbeat.clone().with_generation_id(generation + 1);
        assert_eq!(aged.call(&mut kafka, &stale).await.error_code, ResponseError::IllegalGeneration.code());

        let commit_version = aged.version::<OffsetCommitRequest>();
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_offset(40 + i64::from(age))
            .with_committed_leader_epoch(if commit_version >= 6 { 0 } else { -1 })
            .with_committed_metadata(Some(text("a note")));
        let topic = OffsetCommitRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
        let commit = OffsetCommitRequest::default()
            .with_group_id(id.clone())
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(member.clone())
            .with_group_instance_id(instance.clone().filter(|_| commit_version >= 7))
            .with_topics(vec![topic]);
        let committed = settled!(aged.call(&mut kafka, &commit).await, |it: &OffsetCommitResponse| {
            it.topics[0].partitions[0].error_code
        });
        assert_eq!(committed.topics[0].partitions[0].error_code, 0, "age {age}");

        let fetch_version = aged.version::<OffsetFetchRequest>();
        let asked = if fetch_version < 8 {
            let topic = OffsetFetchRequestTopic::default().with_name(name(TOPIC)).with_partition_indexes(vec![0, 1]);
            OffsetFetchRequest::default().with_group_id(id.clone()).with_topics(Some(vec![topic]))
        } else {
            let topic = OffsetFetchRequestTopics::default().with_name(name(TOPIC)).with_partition_indexes(vec![0, 1]);
            let group = OffsetFetchRequestGroup::default().with_group_id(id.clone());
            OffsetFetchRequest::default().with_groups(vec![group.with_topics(Some(vec![topic]))])
        };
        let fetched = aged.call(&mut kafka, &asked).await;
        let found: Vec<(i32, i64, Option<StrBytes>, i16)> = match fetched.groups.into_iter().next() {
            None => fetched.topics[0]
                .partitions
                .iter()
                .map(|it| (it.partition_index, it.committed_offset, it.metadata.clone(), it.error_code))
                .collect(),
            Some(group) => group.topics[0]
                .partitions
                .iter()
                .map(|it| (it.partition_index, it.committed_offset, it.metadata.clone(), it.error_code))
                .collect(),
        };
        let expected = [(0, -1, Some(text("")), 0), (1, 40 + i64::from(age), Some(text("a note")), 0)];
        assert_eq!(found, expected, "age {age}");

        let described = aged.call(&mut kafka, &DescribeGroupsRequest::default().with_groups(vec![id.clone()])).await;
        let described = &described.groups[0];
        assert_eq!((described.error_code, &*described.group_state, &*described.protocol_data), (0, "Stable", "range"));
        assert_eq!(described.members[0].member_assignment, Bytes::from("what it gets"), "age {age}");
        let listed = aged.call(&mut kafka, &ListGroupsRequest::default()).await;
        let listed = listed.groups.iter().find(|it| it.group_id == id).expect("the coordinator lists it");
        assert_eq!(&*listed.protocol_type, KIND);

        let delete = DeleteGroupsRequest::default().with_groups_names(vec![id.clone()]);
        let deleted = aged.call(&mut kafka, &delete).await;
        assert_eq!(deleted.results[0].error_code, ResponseError::NonEmptyGroup.code());
        let leave_version = aged.version::<LeaveGroupRequest>();
        let leave = LeaveGroupRequest::default().with_group_id(id.clone());
        let leave = if leave_version < 3 {
            leave.with_member_id(member.clone())
        } else {
            let one = MemberIdentity::default()
                .with_member_id(member.clone())
                .with_group_instance_id(instance.clone())
                .with_reason((leave_version >= 5).then(|| text("it is done")));
            leave.with_members(vec![one])
        };
        let left = aged.call(&mut kafka, &leave).await;
        let codes: Vec<i16> = left.members.iter().map(|it| it.error_code).chain([left.error_code]).collect();
        assert!(codes.iter().all(|code| *code == 0), "age {age}: {codes:?}");

        if age == 9 {
            let partition = OffsetDeleteRequestPartition::default().with_partition_index(1);
            let topic = OffsetDeleteRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
            let request = OffsetDeleteRequest::default().with_group_id(id.clone()).with_topics(vec![topic]);
            let deleted = aged.call(&mut kafka, &request).await;
            assert_eq!((deleted.error_code, deleted.topics[0].partitions[0].error_code), (0, 0));
        }
        let deleted = aged.call(&mut kafka, &delete).await;
        // Without members and offsets there may be nothing left of it.
        let code = deleted.results[0].error_code;
        assert!(code == 0 || (age == 9 && code == ResponseError::GroupIdNotFound.code()), "age {age}: {code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_the_new_protocol_work_in_every_version() {
    let scene = Scene::new().await;
    let (_, mut any) = Kafka::of_leader(&scene).await;
    let topic_id = any.call(12, &MetadataRequest::default().with_topics(None)).await;
    let topic_id = topic_id.topics.iter().find(|it| it.name == Some(name(TOPIC))).expect("it is there").topic_id;
    let mut aged = Aged { versions: versions(&mut any).await, age: 0 };
    for age in 0..=1 {
        aged.age = age;
        let group = format!("new-{age}");
        let id: GroupId = text(&group).into();
        let mut kafka = aged.coordinator(&scene, GROUP, &group).await;
        let join = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(id.clone())
            // From version 1 on members choose their id themselves.
            .with_member_id(if age == 0 { text("") } else { text("by-itself") })
            .with_rebalance_timeout_ms(30_000)
            .with_server_assignor(Some(text("uniform")))
            .with_topic_partitions(Some(Vec::new()));
        let join = match age {
            0 => join.with_subscribed_topic_names(Some(vec![text(TOPIC).into()])),
            _ => join.with_subscribed_topic_regex(Some(text("e.*s"))),
        };
        let joined = settled!(aged.call(&mut kafka, &join).await, |it: &ConsumerGroupHeartbeatResponse| it.error_code);
        assert_eq!(joined.error_code, 0, "age {age}: {:?}", joined.error_message);
        assert!(joined.heartbeat_interval_ms > 0);
        let member = joined.member_id.clone().expect("its id");
        assert!(age == 0 || &*member == "by-itself");

        // It is handed everything, at once or with a later heartbeat, and says so.
        let (mut epoch, mut assignment, deadline) = (joined.member_epoch, joined.assignment, Instant::now() + SOON);
        let beat = |epoch: i32, owned: Option<Vec<TopicPartitions>>| {
            ConsumerGroupHeartbeatRequest::default()
                .with_group_id(id.clone())
                .with_member_id(member.clone())
                .with_member_epoch(epoch)
                .with_rebalance_timeout_ms(-1)
                .with_topic_partitions(owned)
        };
        let mut all = loop {
            if let Some(found) = assignment.take()
                && let Some(it) = found.topic_partitions.into_iter().find(|it| it.topic_id == topic_id)
                && it.partitions.len() == 3
            {
                break it.partitions;
            }
            assert!(Instant::now() < deadline, "nothing was assigned");
            let answer = aged.call(&mut kafka, &beat(epoch, None)).await;
            assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
            (epoch, assignment) = (answer.member_epoch, answer.assignment);
            sleep(Duration::from_millis(20)).await;
        };
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
        let owned = TopicPartitions::default().with_topic_id(topic_id).with_partitions(all);
        let owning = aged.call(&mut kafka, &beat(epoch, Some(vec![owned]))).await;
        assert_eq!((owning.error_code, owning.member_epoch), (0, epoch));
        let stale = aged.call(&mut kafka, &beat(epoch + 5, None)).await;
        assert_eq!(stale.error_code, ResponseError::FencedMemberEpoch.code());

        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![id.clone()]);
        let described = aged.call(&mut kafka, &request).await;
        let described = &described.groups[0];
        assert_eq!(
            (described.error_code, &*described.group_state, &*described.assignor_name),
            (0, "Stable", "uniform")
        );
        assert_eq!(described.members[0].member_id, member);
        assert_eq!(described.members[0].assignment.topic_partitions[0].partitions.len(), 3);

        // By the same requests as of old, with its epoch as the generation (KIP-848).
        let commit = |epoch: i32| {
            let partition = OffsetCommitRequestPartition::default().with_partition_index(2).with_committed_offset(9);
            let topic = OffsetCommitRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
            OffsetCommitRequest::default()
                .with_group_id(id.clone())
                .with_generation_id_or_member_epoch(epoch)
                .with_member_id(member.clone())
                .with_topics(vec![topic])
        };
        assert_eq!(kafka.call(9, &commit(epoch)).await.topics[0].partitions[0].error_code, 0);
        let stale = kafka.call(9, &commit(epoch + 5)).await;
        assert_eq!(stale.topics[0].partitions[0].error_code, ResponseError::StaleMemberEpoch.code());
        let topic = OffsetFetchRequestTopics::default().with_name(name(TOPIC)).with_partition_indexes(vec![2]);
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(id.clone())
            .with_member_id(Some(member.clone()))
            .with_member_epoch(epoch)
            .with_topics(Some(vec![topic]));
        let fetched = kafka.call(9, &OffsetFetchRequest::default().with_groups(vec![asked])).await;
        assert_eq!((fetched.groups[0].error_code, fetched.groups[0].topics[0].partitions[0].committed_offset), (0, 9));
        let left = aged.call(&mut kafka, &beat(-1, None)).await;
        assert_eq!((left.error_code, left.member_epoch), (0, -1));
    }
}

/// A batch of one record in a transaction.
fn in_transaction(producer: (i64, i16), sequence: i32, value: u32) -> Bytes {
    let mut builder = BatchBuilder::with_capacity(Compression::None, None, 128);
    builder.append(TimestampMs::new(1_700_000_000_000), None, Some(value.to_string().as_bytes()), &[]).expect("room");
    builder.set_producer(ProducerId::new(producer.0), ProducerEpoch::new(producer.1), Sequence::new(sequence));
    builder.set_transactional(true);
    builder.build().expect("a record")
}

/// One transaction after the other of a producer of some age, each with a record and an offset.
struct Writer<'a> {
    aged: &'a Aged,
    coordinator: Kafka,
    of_group: Kafka,
    leader: Kafka,
    id: TransactionalId,
    group: GroupId,
    topic_id: uuid::Uuid,
    producer: (i64, i16),
    sequence: i32,
}

impl Writer<'_> {
    async fn add(&mut self) {
        let topic = AddPartitionsToTxnTopic::default().with_name(name(TOPIC)).with_partitions(vec![0]);
        let request = match self.aged.version::<AddPartitionsToTxnRequest>() {
            ..4 => AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(self.id.clone())
                .with_v3_and_below_producer_id(self.producer.0.into())
                .with_v3_and_below_producer_epoch(self.producer.1)
                .with_v3_and_below_topics(vec![topic]),
            _ => {
                let one = AddPartitionsToTxnTransaction::default()
                    .with_transactional_id(self.id.clone())
                    .with_producer_id(self.producer.0.into())
                    .with_producer_epoch(self.producer.1)
                    .with_topics(vec![topic]);
                AddPartitionsToTxnRequest::default().with_transactions(vec![one])
            }
        };
        let code = |it: &AddPartitionsToTxnResponse| {
            let topics = it.results_by_topic_v3_and_below.iter();
            let many = it.results_by_transaction.iter().flat_map(|it| &it.topic_results);
            let mut all = topics.chain(many).flat_map(|it| &it.results_by_partition);
            all.next().expect("an answer for the partition").partition_error_code
        };
        let added = settled!(self.aged.call(&mut self.coordinator, &request).await, code);
        assert_eq!(code(&added), 0, "age {}", self.aged.age);
    }

    async fn add_offsets(&mut self) {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_group_id(self.group.clone());
        let added = settled!(self.aged.call(&mut self.coordinator, &request).await, |it: &AddOffsetsToTxnResponse| {
            it.error_code
        });
        assert_eq!(added.error_code, 0, "age {}", self.aged.age);
    }

    async fn send(&mut self, version: i16, producer: (i64, i16), value: u32) -> i16 {
        let mut request = produce(-1, in_transaction(producer, self.sequence, value));
        request.transactional_id = Some(self.id.clone());
        if version >= 13 {
            let topic = std::mem::take(&mut request.topic_data[0]);
            request.topic_data[0] = topic.with_name(name("")).with_topic_id(self.topic_id);
        }
        let answer = settled!(self.leader.call(version, &request).await, |it: &ProduceResponse| {
            it.responses[0].partition_responses[0].error_code
        });
        answer.responses[0].partition_responses[0].error_code
    }

    async fn commit_offset(&mut self, offset: i64) -> i16 {
        let partition =
            TxnOffsetCommitRequestPartition::default().with_partition_index(0).with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default().with_name(name(TOPIC)).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.id.clone())
            .with_group_id(self.group.clone())
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_topics(vec![topic]);
        let answer = settled!(self.aged.call(&mut self.of_group, &request).await, |it: &TxnOffsetCommitResponse| {
            it.topics[0].partitions[0].error_code
        });
        answer.topics[0].partitions[0].error_code
    }

    async fn end(&mut self, commits: bool) -> EndTxnResponse {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(self.producer.0.into())
            .with_producer_epoch(self.producer.1)
            .with_committed(commits);
        settled!(self.aged.call(&mut self.coordinator, &request).await, |it: &EndTxnResponse| it.error_code)
    }

    /// What the group has committed.
    async fn committed_offset(&mut self) -> i64 {
        let topic = OffsetFetchRequestTopics::default().with_name(name(TOPIC)).with_partition_indexes(vec![0]);
        let asked = OffsetFetchRequestGroup::default().with_group_id(self.group.clone()).with_topics(Some(vec![topic]));
        // Only what is stable: it is not told while the transaction is being ended.
        let request = OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(true);
        let answer = settled!(self.of_group.call(8, &request).await, |it: &OffsetFetchResponse| {
            it.groups[0].topics[0].partitions[0].error_code
        });
        answer.groups[0].topics[0].partitions[0].committed_offset
    }
}

/// What readers of committed records see, once nothing is open any more: markers come a moment after the answer.
async fn read_to_the_end(leader: &mut Kafka) -> Vec<u32> {
    let deadline = Instant::now() + SOON;
    loop {
        let (read, is_end) = read_committed(leader).await;
        if is_end {
            return read;
        }
        assert!(Instant::now() < deadline, "a transaction has no end");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_work_in_every_version_and_in_the_newest_each_has_an_epoch_of_its_own() {
    let scene = Scene::new().await;
    let (_, mut any) = Kafka::of_leader(&scene).await;
    let topic_id = any.call(12, &MetadataRequest::default().with_topics(None)).await;
    let topic_id = topic_id.topics.iter().find(|it| it.name == Some(name(TOPIC))).expect("it is there").topic_id;
    let mut aged = Aged { versions: versions(&mut any).await, age: 0 };
    let (mut value, mut visible) = (0, Vec::new());
    for age in 0..=5 {
        aged.age = age;
        let (id, group) = (format!("of-age-{age}"), format!("group-of-age-{age}"));
        let mut coordinator = aged.coordinator(&scene, TRANSACTION, &id).await;
        let init = InitProducerIdRequest::default()
            .with_transactional_id(Some(text(&id).into()))
            .with_transaction_timeout_ms(60_000);
        let begun = settled!(aged.call(&mut coordinator, &init).await, |it: &InitProducerIdResponse| it.error_code);
        assert_eq!(begun.error_code, 0, "age {age}");
        let mut writer = Writer {
            aged: &aged,
            coordinator,
            of_group: aged.coordinator(&scene, GROUP, &group).await,
            leader: Kafka::connect(&scene, scene.leader(0)).await,
            id: text(&id).into(),
            group: text(&group).into(),
            topic_id,
            producer: (begun.producer_id.0, begun.producer_epoch),
            sequence: 0,
        };
        // The newer protocol (KIP-890): the first record and the first offset of a transaction are what adds to it.
        let is_newer = age >= 5;
        let produce_version = if is_newer { 13 } else { 3 + age };
        for (n, commits) in [true, false, true].into_iter().enumerate() {
            if !is_newer {
                writer.add().await;
                writer.add_offsets().await;
            }
            let producer = writer.producer;
            assert_eq!(writer.send(produce_version, producer, value).await, 0, "age {age}");
            assert_eq!(writer.commit_offset(100 * i64::from(age) + n as i64).await, 0, "age {age}");
            let ended = writer.end(commits).await;
            assert_eq!(ended.error_code, 0, "age {age}");
            if commits {
                visible.push(value);
            }
            value += 1;
            if !is_newer {
                writer.sequence += 1;
                continue;
            }
            let next = (ended.producer_id.0, ended.producer_epoch);
            assert_eq!(next, (producer.0, producer.1 + 1), "the next transaction has an epoch of its own");
            // The answer was lost, and the end is asked for again: it is the same one.
            let again = writer.end(commits).await;
            assert_eq!((again.error_code, again.producer_id.0, again.producer_epoch), (0, next.0, next.1));
            let other_way = writer.end(!commits).await;
            assert_eq!(other_way.error_code, ResponseError::InvalidTxnState.code());
            // Late by a whole transaction: fenced by its epoch.
            read_to_the_end(&mut writer.leader).await;
            writer.sequence += 1;
            let late = writer.send(produce_version, producer, 1_000).await;
            assert_eq!(late, ResponseError::InvalidProducerEpoch.code());
            (writer.producer, writer.sequence) = (next, 0);
        }
        if is_newer {
            // Its first record did not get through, and it aborts: nothing was added, and the next has another epoch all the same.
            let (id, epoch) = writer.producer;
            let ended = writer.end(false).await;
            assert_eq!((ended.error_code, ended.producer_id.0, ended.producer_epoch), (0, id, epoch + 1));
            let again = writer.end(false).await;
            assert_eq!((again.error_code, again.producer_epoch), (0, epoch + 1));
            writer.producer = (id, epoch + 1);
        }
        assert_eq!(writer.committed_offset().await, 100 * i64::from(age) + 2, "age {age}");

        let describe = DescribeTransactionsRequest::default().with_transactional_ids(vec![writer.id.clone()]);
        let described = aged.call(&mut writer.coordinator, &describe).await;
        let state = &described.transaction_states[0];
        assert_eq!((state.error_code, state.producer_id.0), (0, writer.producer.0));
        let mut list = ListTransactionsRequest::default().with_producer_id_filters(vec![writer.producer.0.into()]);
        if aged.version::<ListTransactionsRequest>() >= 2 {
            list.transactional_id_pattern = Some(text("of-age-.*"));
        }
        let listed = aged.call(&mut writer.coordinator, &list).await;
        let named: Vec<_> = listed.transaction_states.iter().map(|it| it.transactional_id.clone()).collect();
        assert_eq!((listed.error_code, named), (0, vec![writer.id.clone()]));

        assert_eq!(read_to_the_end(&mut writer.leader).await, visible, "age {age}");
    }
}
