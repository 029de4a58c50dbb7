//! OffsetCommit, OffsetFetch and OffsetDelete: the offsets of a group.

use std::collections::BTreeMap;

use highwater_metadata::ClusterImage;
use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use highwater_protocol::{code_of, topic_id_bytes};
use highwater_types::{ErrorCode, PartitionId, TopicId, TopicPartition};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response as fetched;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use tonic::Request;
use uuid::Uuid;

use super::super::topics::{partition, resolve};
use super::super::{Broken, Call, Handler};
use super::{answered, stated, text};
use crate::error::{self, By};
use crate::layout::{Layout, array, int8, int32, int32s, int64, text as string};

/// What came of each partition of a request.
pub(crate) type Results = BTreeMap<TopicPartition, ResponseError>;

/// Of an offset's partition, which requests name by its topic's name.
fn offset_error(error: &v1::Error) -> ResponseError {
    match code_of(error) {
        // The coordinator has yet to hear of the topic, or it is gone.
        ErrorCode::UnknownTopicId => ResponseError::UnknownTopicOrPartition,
        code => error::of(By::Coordinator, code),
    }
}

/// Those that were refused.
pub(crate) fn refusals(partitions: &[v1::CommittedPartition]) -> Results {
    let one = |it: &v1::CommittedPartition| {
        let tp = TopicPartition::new(TopicId::from_slice(&it.topic_id)?, PartitionId::new(it.partition));
        Some((tp, offset_error(it.error.as_ref()?)))
    };
    partitions.iter().filter_map(one).collect()
}

/// Why members may not commit, as members know it.
pub(crate) fn commit_error(error: ResponseError) -> ResponseError {
    match error {
        // It says that it is none, and there are some.
        ResponseError::NonEmptyGroup => ResponseError::UnknownMemberId,
        error => epoch_error(error),
    }
}

/// Of requests about offsets there is one name for an epoch that is not the member's, whether it is behind or ahead.
fn epoch_error(error: ResponseError) -> ResponseError {
    match error {
        ResponseError::FencedMemberEpoch => ResponseError::StaleMemberEpoch,
        error => error,
    }
}

/// Partitions by topic, as they are asked for.
pub(crate) type ByTopic<T> = Vec<(TopicName, Vec<T>)>;

/// An offset as clients state it, of a partition by its number.
pub(crate) struct Stated<'a> {
    pub index: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Option<&'a StrBytes>,
}

impl Stated<'_> {
    fn to_commit(&self, tp: TopicPartition) -> v1::OffsetToCommit {
        v1::OffsetToCommit {
            topic_id: topic_id_bytes(tp.topic),
            partition: tp.partition.get(),
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            metadata: stated(self.metadata),
        }
    }
}

/// The offsets of a request that can be asked for, and what became of each as it was stated.
#[derive(Default)]
pub(crate) struct ToCommit {
    pub offsets: Vec<v1::OffsetToCommit>,
    places: ByTopic<(i32, Result<TopicPartition, ResponseError>)>,
}

impl ToCommit {
    pub(crate) fn add<'a>(
        &mut self,
        image: &ClusterImage,
        topic: &TopicName,
        partitions: impl Iterator<Item = Stated<'a>>,
    ) {
        let place = |it: Stated<'_>| {
            let place = find(image, topic, it.index);
            if let Ok(tp) = place {
                self.offsets.push(it.to_commit(tp));
            }
            (it.index, place)
        };
        self.places.push((topic.clone(), partitions.map(place).collect()));
    }

    /// The error code of each partition, as they were asked for.
    pub(crate) fn outcomes(self, answer: &Result<Results, ResponseError>) -> ByTopic<(i32, i16)> {
        let of = |(index, place)| (index, outcome(place, answer));
        self.places.into_iter().map(|(topic, places)| (topic, places.into_iter().map(of).collect())).collect()
    }
}

/// A partition of a topic that is named.
pub(crate) fn find(image: &ClusterImage, topic: &TopicName, index: i32) -> Result<TopicPartition, ResponseError> {
    partition(resolve(image, false, topic, Uuid::nil())?, index)
}

pub(crate) struct OffsetCommit;

impl Handler for OffsetCommit {
    type Request = OffsetCommitRequest;
    type Response = OffsetCommitResponse;
    const KEY: ApiKey = ApiKey::OffsetCommit;
    const VERSIONS: (i16, i16) = (2, 9);
    const LAYOUT: Layout = Layout {
        flexible: 8,
        fields: &[
            string(),
            int32(),
            string(),
            string().since(7),
            int64().until(4),
            array(&[string(), array(&[int32(), int64(), int32().since(6), string()])]),
        ],
    };

    async fn handle(call: &Call, request: OffsetCommitRequest) -> Result<OffsetCommitResponse, Broken> {
        let image = call.door.api.image();
        let mut to_commit = ToCommit::default();
        for topic in &request.topics {
            let stated = topic.partitions.iter().map(|it| Stated {
                index: it.partition_index,
                offset: it.committed_offset,
                leader_epoch: it.committed_leader_epoch,
                metadata: it.committed_metadata.as_ref(),
            });
            to_commit.add(&image, &topic.name, stated);
        }
        let asked = v1::CommitOffsetsRequest {
            group_id: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            member_epoch: request.generation_id_or_member_epoch,
            instance_id: stated(request.group_instance_id.as_ref()),
            offsets: std::mem::take(&mut to_commit.offsets),
        };
        let answer = answered(call.door.api.coordinator().commit_offsets(Request::new(asked)).await);
        let answer = answer.map(|answer| refusals(&answer.partitions)).map_err(commit_error);
        let partition =
            |(index, code)| OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code);
        let topics = to_commit.outcomes(&answer).into_iter().map(|(name, them)| {
            let partitions = them.into_iter().map(partition).collect();
            OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
        });
        Ok(OffsetCommitResponse::default().with_topics(topics.collect()))
    }
}

/// Of one partition: what was wrong with it, with the request, or with it again to the coordinator.
pub(crate) fn outcome(place: Result<TopicPartition, ResponseError>, answer: &Result<Results, ResponseError>) -> i16 {
    let error = match (place, answer) {
        (Err(error), _) => Some(error),
        (Ok(_), Err(error)) => Some(*error),
        (Ok(tp), Ok(refused)) => refused.get(&tp).copied(),
    };
    error.map_or(error::NONE, |error| error.code())
}

pub(crate) struct OffsetFetch;

/// Which versions ask about many groups at a time.
const MANY: i16 = 8;
/// Before it, an answer had no place for an error of the whole.
const WITH_ERROR: i16 = 2;

impl Handler for OffsetFetch {
    type Request = OffsetFetchRequest;
    type Response = OffsetFetchResponse;
    const KEY: ApiKey = ApiKey::OffsetFetch;
    const VERSIONS: (i16, i16) = (1, 9);
    const LAYOUT: Layout = Layout {
        flexible: 6,
        fields: &[
            string().until(7),
            array(&[string(), int32s()]).until(7),
            array(&[string(), string().since(9), int32().since(9), array(&[string(), int32s()])]).since(8),
            int8().since(7),
        ],
    };

    async fn handle(call: &Call, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Broken> {
        let response = OffsetFetchResponse::default();
        if call.version < MANY {
            let topics = request.topics.map(|topics| topics.into_iter().map(|it| (it.name, it.partition_indexes)));
            let asked = Asked {
                group: request.group_id,
                topics: topics.map(Iterator::collect),
                member: (String::new(), -1),
                require_stable: request.require_stable,
            };
            return Ok(one_group(response, fetch(call, asked).await, call.version));
        }
        let mut groups = Vec::with_capacity(request.groups.len());
        for it in request.groups {
            let topics = it.topics.map(|topics| topics.into_iter().map(|it| (it.name, it.partition_indexes)));
            let asked = Asked {
                group: it.group_id.clone(),
                topics: topics.map(Iterator::collect),
                member: (stated(it.member_id.as_ref()), it.member_epoch),
                require_stable: request.require_stable,
            };
            groups.push(group_of(it.group_id, fetch(call, asked).await));
        }
        Ok(response.with_groups(groups))
    }
}

struct Asked {
    group: GroupId,
    /// `None`: all that have an offset.
    topics: Option<ByTopic<i32>>,
    member: (String, i32),
    require_stable: bool,
}

struct Found {
    index: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    error: i16,
}

impl Found {
    fn nothing(index: i32) -> Self {
        Self { index, offset: -1, leader_epoch: -1, metadata: StrBytes::default(), error: error::NONE }
    }

    fn of(index: i32, it: &v1::CommittedOffset) -> Self {
        Self {
            index,
            offset: it.offset,
            leader_epoch: it.leader_epoch,
            metadata: text(it.metadata.clone()),
            error: it.error.as_ref().map_or(error::NONE, |error| offset_error(error).code()),
        }
    }
}

/// Why not, with what was asked for.
type Refused = (ResponseError, ByTopic<i32>);

async fn fetch(call: &Call, asked: Asked) -> Result<ByTopic<Found>, Refused> {
    let image = call.door.api.image();
    let stated = |topics: &ByTopic<i32>| -> Vec<v1::TopicPartitions> {
        let known = topics.iter().filter_map(|(name, indexes)| {
            let id = resolve(&image, false, name, Uuid::nil()).ok()?;
            let partitions = indexes.iter().filter_map(|index| u32::try_from(*index).ok()).collect();
            Some(v1::TopicPartitions { topic_id: topic_id_bytes(id), partitions })
        });
        known.collect()
    };
    let partitions = asked.topics.as_ref().map(stated);
    // To the coordinator, none are all.
    let asks_for_none = partitions.as_ref().is_some_and(|them| them.iter().all(|it| it.partitions.is_empty()));
    let request = v1::FetchOffsetsRequest {
        group_id: asked.group.to_string(),
        partitions: partitions.unwrap_or_default(),
        require_stable: asked.require_stable,
        member_id: asked.member.0,
        member_epoch: asked.member.1,
    };
    let answer = answered(call.door.api.coordinator().fetch_offsets(Request::new(request)).await);
    let offsets = match answer {
        Ok(answer) => answer.offsets,
        Err(error) => return Err((epoch_error(error), asked.topics.unwrap_or_default())),
    };
    let Some(topics) = asked.topics else { return Ok(by_topic(&image, &offsets)) };
    let found = |it: &v1::CommittedOffset| Some(((TopicId::from_slice(&it.topic_id)?, it.partition), it.clone()));
    let found: BTreeMap<_, _> = offsets.iter().filter(|_| !asks_for_none).filter_map(found).collect();
    let one = |(name, indexes): (TopicName, Vec<i32>)| {
        let id = image.topic_by_name(&name).map(|topic| topic.id);
        // A topic that there is not has no offset.
        let offset_of = |index: i32| found.get(&(id?, u32::try_from(index).ok()?)).map(|it| Found::of(index, it));
        let them = indexes.into_iter().map(|index| offset_of(index).unwrap_or_else(|| Found::nothing(index)));
        let them = them.collect();
        (name, them)
    };
    Ok(topics.into_iter().map(one).collect())
}

/// Of topics that there still are.
fn by_topic(image: &ClusterImage, offsets: &[v1::CommittedOffset]) -> ByTopic<Found> {
    let mut topics: BTreeMap<TopicId, (TopicName, Vec<Found>)> = BTreeMap::new();
    for it in offsets {
        let topic = TopicId::from_slice(&it.topic_id).and_then(|id| image.topic(id));
        let (Some(topic), Ok(index)) = (topic, i32::try_from(it.partition)) else { continue };
        let name = || TopicName::from(text(topic.name.to_string()));
        topics.entry(topic.id).or_insert_with(|| (name(), Vec::new())).1.push(Found::of(index, it));
    }
    topics.into_values().collect()
}

/// Everything that was asked for has the error.
fn failed(error: ResponseError, topics: ByTopic<i32>) -> ByTopic<Found> {
    let found = |index: i32| Found { error: error.code(), ..Found::nothing(index) };
    topics.into_iter().map(|(name, them)| (name, them.into_iter().map(found).collect())).collect()
}

/// The protocol has the same structures twice, under two names.
macro_rules! topics_as {
    ($topics:ident, $topic:ty, $partition:ty) => {{
        let partition = |it: Found| {
            <$partition>::default()
                .with_partition_index(it.index)
                .with_committed_offset(it.offset)
                .with_committed_leader_epoch(it.leader_epoch)
                .with_metadata(Some(it.metadata))
                .with_error_code(it.error)
        };
        let topic = |(name, them): (TopicName, Vec<Found>)| {
            <$topic>::default().with_name(name).with_partitions(them.into_iter().map(partition).collect())
        };
        $topics.into_iter().map(topic).collect()
    }};
}

fn one_group(
    response: OffsetFetchResponse,
    found: Result<ByTopic<Found>, Refused>,
    version: i16,
) -> OffsetFetchResponse {
    let (code, topics) = match found {
        Ok(found) => (error::NONE, found),
        Err((error, topics)) => (error.code(), failed(error, topics)),
    };
    let topics = topics_as!(topics, fetched::OffsetFetchResponseTopic, fetched::OffsetFetchResponsePartition);
    response.with_topics(topics).with_error_code(if version < WITH_ERROR { error::NONE } else { code })
}

fn group_of(id: GroupId, found: Result<ByTopic<Found>, Refused>) -> fetched::OffsetFetchResponseGroup {
    let (code, topics) = match found {
        Ok(found) => (error::NONE, found),
        Err((error, _)) => (error.code(), Vec::new()),
    };
    let topics = topics_as!(topics, fetched::OffsetFetchResponseTopics, fetched::OffsetFetchResponsePartitions);
    fetched::OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(code).with_topics(topics)
}

pub(crate) struct OffsetDelete;

impl Handler for OffsetDelete {
    type Request = OffsetDeleteRequest;
    type Response = OffsetDeleteResponse;
    const KEY: ApiKey = ApiKey::OffsetDelete;
    const VERSIONS: (i16, i16) = (0, 0);
    const LAYOUT: Layout =
        Layout { flexible: Layout::NEVER_FLEXIBLE, fields: &[string(), array(&[string(), array(&[int32()])])] };

    /// Topic by topic: one that is subscribed to keeps its offsets, and not the others theirs.
    async fn handle(call: &Call, request: OffsetDeleteRequest) -> Result<OffsetDeleteResponse, Broken> {
        let response = OffsetDeleteResponse::default();
        let image = call.door.api.image();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let indexes: Vec<i32> = topic.partitions.iter().map(|it| it.partition_index).collect();
            let places: Vec<_> = indexes.iter().map(|index| find(&image, &topic.name, *index)).collect();
            let there: Vec<_> = places.iter().filter_map(|place| place.ok()).collect();
            let asked = v1::DeleteOffsetsRequest {
                group_id: request.group_id.to_string(),
                partitions: there
                    .first()
                    .map(|first| v1::TopicPartitions {
                        topic_id: topic_id_bytes(first.topic),
                        partitions: there.iter().map(|tp| tp.partition.get()).collect(),
                    })
                    .into_iter()
                    .collect(),
            };
            let answer = answered(call.door.api.coordinator().delete_offsets(Request::new(asked)).await);
            let answer = match answer {
                Ok(answer) => Ok(refusals(&answer.partitions)),
                Err(ResponseError::GroupSubscribedToTopic) => Err(ResponseError::GroupSubscribedToTopic),
                Err(error) => return Ok(response.with_error_code(error.code())),
            };
            let partitions = indexes.into_iter().zip(places).map(|(index, place)| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(outcome(place, &answer))
            });
            topics
                .push(OffsetDeleteResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name));
        }
        Ok(response.with_topics(topics))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    fn topics() -> ByTopic<i32> {
        vec![(TopicName::from(StrBytes::from_static_str("t")), vec![0, 3])]
    }

    #[test]
    fn every_version_can_say_what_came_of_a_fetch() {
        for version in 1..=9 {
            let refused = || Err((ResponseError::NotCoordinator, topics()));
            let found = || Ok(vec![(TopicName::default(), vec![Found { offset: 5, ..Found::nothing(1) }])]);
            for found in [refused(), found()] {
                let answer = match version {
                    ..MANY => one_group(OffsetFetchResponse::default(), found, version),
                    _ => OffsetFetchResponse::default().with_groups(vec![group_of(GroupId::default(), found)]),
                };
                answer.encode(&mut BytesMut::new(), version).unwrap();
            }
        }
    }

    #[test]
    fn an_error_of_the_whole_is_also_that_of_each_partition() {
        let refused = || Err((ResponseError::NotCoordinator, topics()));
        let code = ResponseError::NotCoordinator.code();
        let first = one_group(OffsetFetchResponse::default(), refused(), 1);
        assert_eq!(first.error_code, 0, "there is no such field");
        assert!(first.topics[0].partitions.iter().all(|it| it.error_code == code));
        assert_eq!(one_group(OffsetFetchResponse::default(), refused(), 5).error_code, code);
        assert_eq!(group_of(GroupId::default(), refused()).error_code, code);
    }

    #[test]
    fn what_comes_of_a_partition_is_the_first_thing_that_was_wrong() {
        let tp = TopicPartition::new(TopicId::from_u128(1), PartitionId::new(0));
        let of = |error: ResponseError| error.code();
        let unknown = ResponseError::UnknownTopicOrPartition;
        let none = Ok(Results::new());
        assert_eq!(outcome(Ok(tp), &none), 0);
        assert_eq!(outcome(Err(unknown), &none), of(unknown));
        assert_eq!(outcome(Ok(tp), &Err(ResponseError::IllegalGeneration)), of(ResponseError::IllegalGeneration));
        let refused = Ok(Results::from([(tp, ResponseError::OffsetMetadataTooLarge)]));
        assert_eq!(outcome(Ok(tp), &refused), of(ResponseError::OffsetMetadataTooLarge));
        assert_eq!(commit_error(ResponseError::NonEmptyGroup), ResponseError::UnknownMemberId);
        assert_eq!(commit_error(ResponseError::FencedMemberEpoch), ResponseError::StaleMemberEpoch);
    }
}
