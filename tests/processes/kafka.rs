//! The Kafka door: one log behind both doors, and strangers at this one.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_client::{BrokerId, ErrorCode};
use highwater_protocol::v1;
use highwater_record::{BatchBuilder, Compression, split};
use highwater_types::TimestampMs;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use v1::records_client::RecordsClient;

use crate::common::{SOON, Scene, TOPIC, broker};

/// A Kafka client of one broker.
pub(crate) struct Kafka {
    io: TcpStream,
    correlation_id: i32,
}

impl Kafka {
    pub(crate) async fn connect(scene: &Scene, id: BrokerId) -> Self {
        let port = scene.cluster.node(broker(id)).expect("a node").kafka_port().expect("a broker has one");
        Self { io: TcpStream::connect(("127.0.0.1", port)).await.expect("it listens"), correlation_id: 0 }
    }

    /// The leader of the topic's first partition, once it has taken up what the controllers say of it; until then it is to be
    /// asked again.
    pub(crate) async fn of_leader(scene: &Scene) -> (BrokerId, Self) {
        scene.all_in_sync().await;
        let leader = scene.leader(0);
        let mut kafka = Self::connect(scene, leader).await;
        let leads = async {
            loop {
                let answer = kafka.call(12, &fetch(12, uuid::Uuid::nil(), 0, 0).with_session_epoch(-1)).await;
                match answer.responses[0].partitions[0].error_code {
                    0 => break,
                    // Its client has heard of the topic by another broker, or of the leader before it has.
                    3 | 6 => tokio::time::sleep(Duration::from_millis(2)).await,
                    code => panic!("error {code}"),
                }
            }
        };
        timeout(SOON, leads).await.expect("it leads");
        (leader, kafka)
    }

    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version)).expect("a header");
        request.encode(&mut frame, version).expect("a request");
        let length = i32::try_from(frame.len() - 4).expect("small");
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.io.write_all(&frame).await.expect("it is taken");
    }

    /// The next answer, to the request with this correlation id.
    async fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let read = async {
            let length = self.io.read_i32().await?;
            let mut frame = vec![0; usize::try_from(length).expect("a length")];
            self.io.read_exact(&mut frame).await?;
            std::io::Result::Ok(Bytes::from(frame))
        };
        let mut frame = timeout(SOON, read).await.expect("an answer in time").expect("an answer");
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, correlation_id, "answers come in the order of the requests");
        let response = R::Response::decode(&mut frame, version).expect("an answer of this version");
        assert!(!frame.has_remaining(), "{} bytes are left of it", frame.remaining());
        response
    }

    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.receive::<R>(version, self.correlation_id).await
    }

    /// Whether the broker closes the connection.
    async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        matches!(timeout(SOON, self.io.read_to_end(&mut rest)).await, Ok(Ok(0) | Err(_)))
    }
}

pub(crate) fn name(text: &str) -> TopicName {
    StrBytes::from_string(text.to_owned()).into()
}

pub(crate) fn batch(values: std::ops::Range<u32>) -> Bytes {
    let mut builder = BatchBuilder::with_capacity(Compression::None, None, 1024);
    for value in values {
        let time = TimestampMs::new(1_700_000_000_000 + i64::from(value));
        builder.append(time, Some(b"key"), Some(value.to_string().as_bytes()), &[]).expect("it fits");
    }
    builder.build().expect("records")
}

pub(crate) fn produce(acks: i16, records: Bytes) -> ProduceRequest {
    produce_to(TOPIC, 0, acks, records)
}

pub(crate) fn produce_to(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![topic])
}

pub(crate) fn fetch(version: i16, id: uuid::Uuid, offset: i64, wait_ms: i32) -> FetchRequest {
    let partition =
        FetchPartition::default().with_partition(0).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_partitions(vec![partition]);
    let topic = if version < 13 { topic.with_topic(name(TOPIC)) } else { topic.with_topic_id(id) };
    let request = FetchRequest::default().with_max_wait_ms(wait_ms).with_min_bytes(1).with_max_bytes(1 << 20);
    request.with_replica_id((-1).into()).with_topics(vec![topic])
}

pub(crate) fn values_of(records: &Bytes) -> Vec<u32> {
    let batches = split(records.clone()).expect("whole batches");
    let records = batches.iter().flat_map(|batch| batch.records(1 << 20).expect("records"));
    let value = |record: highwater_record::Record| record.value.expect("a value");
    records
        .map(|record| {
            String::from_utf8(value(record.expect("sound")).to_vec()).expect("text").parse().expect("a number")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_door_takes_the_other_gives_in_every_version() {
    let scene = Scene::new().await;
    let (leader, mut kafka) = Kafka::of_leader(&scene).await;

    let versions = kafka
        .call(
            4,
            &ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("test"))
                .with_client_software_version(StrBytes::from_static_str("1")),
        )
        .await;
    let range: BTreeMap<i16, (i16, i16)> =
        versions.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
    let mut topic_id = uuid::Uuid::nil();
    for version in range[&3].0..=range[&3].1 {
        let asked = MetadataRequestTopic::default().with_name(Some(name(TOPIC)));
        let metadata = kafka.call(version, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
        assert_eq!(metadata.brokers.len(), 3, "version {version}");
        let port = scene.cluster.node(broker(leader)).expect("there").kafka_port().expect("there");
        let described = metadata.brokers.iter().find(|it| it.node_id.0 as u32 == leader.get()).expect("the leader");
        assert_eq!((&*described.host, described.port), ("127.0.0.1", i32::from(port)));
        let topic = &metadata.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 3));
        assert_eq!(topic.partitions[0].leader_id.0 as u32, leader.get());
        topic_id = topic.topic_id;
    }
    // By its id, without a name or with an empty one, as the Java client has it.
    for unnamed in [None, Some(name(""))] {
        let asked = MetadataRequestTopic::default().with_name(unnamed.clone()).with_topic_id(topic_id);
        let other = asked.clone().with_topic_id(uuid::Uuid::from_u128(7));
        let metadata = kafka.call(12, &MetadataRequest::default().with_topics(Some(vec![asked, other]))).await;
        let told: Vec<_> = metadata.topics.iter().map(|it| (it.topic_id, it.name.clone(), it.error_code)).collect();
        let unknown = ResponseError::UnknownTopicId.code();
        let there = (topic_id, Some(name(TOPIC)), 0);
        assert_eq!(told, [there, (uuid::Uuid::from_u128(7), Some(name("")), unknown)], "named {unnamed:?}");
    }

    // One batch of two records in each version of Produce and level of acks.
    let mut next = 0;
    // Listed from 0 on, as Kafka does for older clients' sake.
    assert_eq!(range[&0].0, 0);
    for version in 3..=range[&0].1 {
        for acks in [-1, 1, 0] {
            let mut request = produce(acks, batch(next..next + 2));
            if version >= 13 {
                request.topic_data[0] =
                    std::mem::take(&mut request.topic_data[0]).with_name(name("")).with_topic_id(topic_id);
            }
            if acks == 0 {
                kafka.send(version, &request).await;
            } else {
                let answer = kafka.call(version, &request).await;
                let partition = &answer.responses[0].partition_responses[0];
                assert_eq!((partition.error_code, partition.base_offset), (0, i64::from(next)), "version {version}");
            }
            next += 2;
        }
    }

    // By the native door.
    let grpc = scene.cluster.node(broker(leader)).expect("there").port();
    let mut thin = RecordsClient::connect(format!("http://127.0.0.1:{grpc}")).await.expect("it listens");
    let record = |value: u32| v1::PublishRecord {
        value: Some(value.to_string().into()),
        partition: Some(0),
        timestamp_ms: Some(1_800_000_000_000),
        ..Default::default()
    };
    let publish = v1::PublishRequest {
        topic: TOPIC.to_owned(),
        records: (next..next + 10).map(record).collect(),
        ..Default::default()
    };
    let published = timeout(SOON, thin.publish(publish)).await.expect("an answer").expect("stored").into_inner();
    assert_eq!(published.results.len(), 10);
    let all: Vec<u32> = (0..next + 10).collect();
    let mut answers =
        thin.read(v1::ReadRequest { topic: TOPIC.to_owned(), ..Default::default() }).await.expect("there").into_inner();
    let mut read = Vec::new();
    while let Some(answer) = timeout(SOON, answers.message()).await.expect("an answer").expect("it can be read") {
        let value = |record: v1::ReadRecord| String::from_utf8(record.value.expect("a value").to_vec()).expect("there");
        read.extend(answer.records.into_iter().map(|it| value(it).parse::<u32>().expect("there")));
    }
    assert_eq!(read, all, "by gRPC, what both doors took");

    for version in range[&1].0..=range[&1].1 {
        for isolation in [0, 1] {
            let mut found = Vec::new();
            while found.len() < all.len() {
                let request = fetch(version, topic_id, found.len() as i64, 0).with_isolation_level(isolation);
                let answer = kafka.call(version, &request).await;
                assert_eq!(answer.error_code, 0);
                let partition = &answer.responses[0].partitions[0];
                assert_eq!(
                    (partition.error_code, partition.high_watermark),
                    (0, all.len() as i64),
                    "version {version}"
                );
                let values = values_of(partition.records.as_ref().expect("records"));
                assert!(!values.is_empty(), "version {version}");
                let first =
                    values.iter().position(|value| *value as usize == found.len()).expect("the offset asked for");
                found.extend_from_slice(&values[first..]);
            }
            assert_eq!(found, all, "by Kafka, what both doors took, in version {version}");
        }
    }
    for version in range[&2].0..=range[&2].1 {
        // Of those that came by gRPC, which have one time.
        let largest = all.len() as i64 - 10;
        for (timestamp, offset) in [(-1, all.len() as i64), (-2, 0), (1_700_000_000_003, 3), (-3, largest)] {
            let asked = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(timestamp);
            let topic = ListOffsetsTopic::default().with_name(name(TOPIC)).with_partitions(vec![asked]);
            let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
            let answer = kafka.call(version, &request).await;
            let found = &answer.topics[0].partitions[0];
            assert_eq!((found.error_code, found.offset), (0, offset), "version {version} at {timestamp}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_with_the_first_record_and_a_session_tells_only_what_is_new() {
    let scene = Scene::new().await;
    let (leader, mut writer) = Kafka::of_leader(&scene).await;
    let mut reader = Kafka::connect(&scene, leader).await;

    let first = reader.call(12, &fetch(12, uuid::Uuid::nil(), 0, 0).with_session_epoch(0)).await;
    assert!(first.session_id > 0, "a session begins");
    assert_eq!(first.responses[0].partitions[0].error_code, 0);
    assert_eq!(first.responses[0].partitions[0].high_watermark, 0, "a whole answer has what has no records too");
    let go_on = |epoch: i32, wait_ms: i32| {
        let mut request = fetch(12, uuid::Uuid::nil(), 0, wait_ms);
        request.topics.clear();
        request.with_session_id(first.session_id).with_session_epoch(epoch)
    };
    let nothing = reader.call(12, &go_on(1, 50)).await;
    assert!(nothing.responses.is_empty(), "nothing is new");
    reader.send(12, &go_on(2, 60_000)).await;
    let stored = writer.call(9, &produce(-1, batch(0..3))).await;
    assert_eq!(stored.responses[0].partition_responses[0].error_code, 0);
    let woken = reader.receive::<FetchRequest>(12, 3).await;
    assert_eq!(values_of(woken.responses[0].partitions[0].records.as_ref().expect("there")), [0, 1, 2]);
    let stale = reader.call(12, &go_on(2, 0)).await;
    assert_eq!(stale.error_code, 71, "the epoch was used");

    // Not the leader: who is.
    let other = scene.cluster.broker_ids().into_iter().find(|id| *id != leader).expect("three brokers");
    let mut other = Kafka::connect(&scene, other).await;
    let knows = async {
        loop {
            let refused = other.call(12, &produce(-1, batch(0..1))).await;
            let partition = &refused.responses[0].partition_responses[0];
            // It may not have heard of the topic yet, or of who leads.
            if (partition.error_code, partition.current_leader.leader_id.0 as u32) == (6, leader.get()) {
                break refused;
            }
            assert!(matches!(partition.error_code, 3 | 6), "error {}", partition.error_code);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let refused = timeout(SOON, knows).await.expect("it says who leads");
    assert_eq!(refused.node_endpoints[0].node_id.0 as u32, leader.get());
    let metadata = other.call(12, &MetadataRequest::default().with_topics(None)).await;
    let id = metadata.topics.iter().find(|it| it.name == Some(name(TOPIC))).expect("it knows the topic").topic_id;
    let refused = other.call(16, &fetch(16, id, 0, 0).with_session_epoch(-1)).await;
    let partition = &refused.responses[0].partitions[0];
    assert_eq!((partition.error_code, partition.current_leader.leader_id.0 as u32), (6, leader.get()));
    assert_eq!(refused.node_endpoints[0].node_id.0 as u32, leader.get());
    assert!(ErrorCode::NotLeader.is_retriable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_47_strangers_at_the_door_are_turned_away_and_others_notice_nothing() {
    let scene = Scene::new().await;
    let (leader, mut good) = Kafka::of_leader(&scene).await;
    let bytes = |frame: &[u8]| [&(frame.len() as i32).to_be_bytes()[..], frame].concat();
    let nonsense: [(&str, Vec<u8>); 6] = [
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a negative length", vec![0xff; 64]),
        ("2 GB announced", vec![0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 1]),
        ("an API that there is not", bytes(&[0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff])),
        ("a version that there is not", bytes(&[0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff])),
        ("154 GB of topics", bytes(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff])),
    ];
    for (what, frame) in nonsense {
        let mut stranger = Kafka::connect(&scene, leader).await;
        stranger.io.write_all(&frame).await.expect("it is taken");
        assert!(stranger.is_closed().await, "{what}");
    }
    // Slow ones hold little, and nobody up.
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut one = Kafka::connect(&scene, leader).await;
        one.io.write_all(&[&(90_i32 << 20).to_be_bytes()[..], &[0, 0, 0, 9]].concat()).await.expect("it is taken");
        slow.push(one);
    }
    let mut damaged = batch(0..1).to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let refused = timeout(Duration::from_secs(20), good.call(9, &produce(-1, damaged.into()))).await.expect("in time");
    assert_eq!(refused.responses[0].partition_responses[0].error_code, 2, "a damaged batch");
    let stored = good.call(9, &produce(-1, batch(0..1))).await;
    assert_eq!(stored.responses[0].partition_responses[0].error_code, 0);
    drop(slow);
}
