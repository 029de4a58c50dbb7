//! DescribeTopicPartitions: partitions with their eligible leader replicas, page by page (KIP-966).

use std::collections::BTreeSet;
use std::ops::Range;

use highwater_metadata::{ClusterImage, PartitionState, TopicState};
use highwater_types::{BrokerId, TopicName, is_internal_topic};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{ApiKey, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use kafka_protocol::protocol::StrBytes;

use super::metadata::{node, partition};
use super::topics::uuid_of;
use super::{Broken, Call, Handler, operations};
use crate::door::Door;
use crate::layout::{Layout, array, int32, optional, text};

/// Partitions of one answer, whatever is asked for.
const PARTITIONS_MAX: i32 = 2_000;

pub(super) struct DescribeTopicPartitions;

impl Handler for DescribeTopicPartitions {
    type Request = DescribeTopicPartitionsRequest;
    type Response = DescribeTopicPartitionsResponse;
    const KEY: ApiKey = ApiKey::DescribeTopicPartitions;
    const VERSIONS: (i16, i16) = (0, 0);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[array(&[text()]), int32(), optional(&[text(), int32()])] };

    async fn handle(
        call: &Call,
        request: DescribeTopicPartitionsRequest,
    ) -> Result<DescribeTopicPartitionsResponse, Broken> {
        let image = call.door.api.link.image();
        let names = request.topics.iter().map(|topic| topic.name.to_string()).collect();
        let cursor = request
            .cursor
            .map(|cursor| (cursor.topic_name.to_string(), usize::try_from(cursor.partition_index).unwrap_or(0)));
        let limit = usize::try_from(request.response_partition_limit.clamp(1, PARTITIONS_MAX)).unwrap_or(1);
        let page = page(&image, names, limit, cursor);
        let next = page.next.map(|(name, index)| {
            Cursor::default()
                .with_topic_name(StrBytes::from_string(name).into())
                .with_partition_index(i32::try_from(index).unwrap_or(i32::MAX))
        });
        let topics = page.topics.into_iter().map(|(name, topic)| describe(&call.door, &image, name, topic));
        Ok(DescribeTopicPartitionsResponse::default().with_topics(topics.collect()).with_next_cursor(next))
    }
}

/// A topic that there is, and those of its partitions that are told.
type Told<'a> = (&'a TopicState, Range<usize>);

/// Some topics, by name.
struct Page<'a> {
    topics: Vec<(String, Option<Told<'a>>)>,
    /// The first partition of the next page.
    next: Option<(String, usize)>,
}

/// Of these topics, or of all; from `cursor` on; of `limit` partitions at most.
fn page(image: &ClusterImage, names: BTreeSet<String>, limit: usize, cursor: Option<(String, usize)>) -> Page<'_> {
    let names = match names.is_empty() {
        true => image.topics.values().map(|topic| topic.name.as_str().to_owned()).collect(),
        false => names,
    };
    let (from, mut first) = cursor.unwrap_or_default();
    let mut left = limit;
    let mut page = Page { topics: Vec::new(), next: None };
    for name in names {
        if name < from {
            continue;
        }
        let skipped = if name == from { std::mem::take(&mut first) } else { 0 };
        let Some(topic) = image.topic_by_name(&name) else {
            page.topics.push((name, None));
            continue;
        };
        let end = topic.partitions.len();
        let start = skipped.min(end);
        if left == 0 {
            page.next = Some((name, start));
            break;
        }
        let told = start..end.min(start + left);
        left -= told.len();
        let stopped = told.end;
        page.topics.push((name.clone(), Some((topic, told))));
        if stopped < end {
            page.next = Some((name, stopped));
            break;
        }
    }
    page
}

fn describe(
    door: &Door,
    image: &ClusterImage,
    name: String,
    topic: Option<Told<'_>>,
) -> DescribeTopicPartitionsResponseTopic {
    let told = DescribeTopicPartitionsResponseTopic::default().with_is_internal(is_internal_topic(&name));
    let Some((topic, range)) = topic else {
        let error = match TopicName::new(name.as_str()) {
            Ok(_) => ResponseError::UnknownTopicOrPartition,
            Err(_) => ResponseError::InvalidTopicException,
        };
        return told.with_error_code(error.code()).with_name(Some(StrBytes::from_string(name).into()));
    };
    let of = |index: usize| eligible(door, image, index, &topic.partitions[index]);
    told.with_name(Some(StrBytes::from_string(name).into()))
        .with_topic_id(uuid_of(topic.id))
        .with_topic_authorized_operations(operations::TOPIC)
        .with_partitions(range.map(of).collect())
}

fn eligible(
    door: &Door,
    image: &ClusterImage,
    index: usize,
    state: &PartitionState,
) -> DescribeTopicPartitionsResponsePartition {
    let plain = partition(door, image, i32::try_from(index).unwrap_or(i32::MAX), state);
    let nodes = |brokers: &[BrokerId]| Some(brokers.iter().map(|broker| node(*broker)).collect());
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(plain.error_code)
        .with_partition_index(plain.partition_index)
        .with_leader_id(plain.leader_id)
        .with_leader_epoch(plain.leader_epoch)
        .with_replica_nodes(plain.replica_nodes)
        .with_isr_nodes(plain.isr_nodes)
        .with_offline_replicas(plain.offline_replicas)
        .with_eligible_leader_replicas(nodes(&state.elr))
        .with_last_known_elr(nodes(&state.last_known_elr))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_metadata::Record;
    use highwater_types::TopicId;

    use super::*;

    fn cluster(topics: &[(&str, usize)]) -> ClusterImage {
        let mut image = ClusterImage::default();
        for (id, (name, partitions)) in (1..).zip(topics) {
            let partition = PartitionState::new(vec![BrokerId::new(1)], vec![BrokerId::new(1)]);
            let topic = TopicState {
                id: TopicId::from_u128(id),
                name: TopicName::new(*name).unwrap(),
                partitions: vec![partition; *partitions],
                configs: BTreeMap::new(),
            };
            image.replay(&Record::TopicCreated { topic }).unwrap();
        }
        image
    }

    fn told(page: &Page<'_>) -> Vec<(String, Option<Range<usize>>)> {
        page.topics.iter().map(|(name, topic)| (name.clone(), topic.as_ref().map(|(_, range)| range.clone()))).collect()
    }

    /// However small the pages are, all of them together have each partition once.
    #[test]
    fn pages_have_each_partition_once() {
        let image = cluster(&[("b", 5), ("a", 3), ("c", 1)]);
        for limit in 1..=10 {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let page = page(&image, BTreeSet::new(), limit, cursor);
                let found: Vec<_> = told(&page);
                let count: usize = found.iter().filter_map(|(_, range)| range.as_ref()).map(Range::len).sum();
                assert!(count <= limit && count > 0, "limit {limit}: {found:?}");
                all.extend(found.into_iter().flat_map(|(name, range)| range.unwrap().map(move |i| (name.clone(), i))));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            let expected: Vec<_> = [("a", 3), ("b", 5), ("c", 1)]
                .into_iter()
                .flat_map(|(name, n)| (0..n).map(move |i| (name.to_owned(), i)))
                .collect();
            assert_eq!(all, expected, "limit {limit}");
        }
    }

    #[test]
    fn topics_that_are_not_there_are_told_and_a_cursor_may_be_of_a_topic_that_is_gone() {
        let image = cluster(&[("a", 2), ("c", 2)]);
        let names = || ["a", "b", "c"].map(str::to_owned).into();
        let page_of = |cursor| told(&page(&image, names(), 3, cursor));
        assert_eq!(page_of(None), [("a".into(), Some(0..2)), ("b".into(), None), ("c".into(), Some(0..1))]);
        assert_eq!(page_of(Some(("b".into(), 1))), [("b".into(), None), ("c".into(), Some(0..2))]);
        assert_eq!(page_of(Some(("c".into(), 9))), [("c".into(), Some(2..2))]);
    }
}
