//! OffsetForLeaderEpoch: where a leader epoch ends in the leader's log, by which clients notice that it was cut.

use highwater_metadata::ClusterImage;
use highwater_types::{LeaderEpoch, TopicId};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{ApiKey, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use uuid::Uuid;

use super::{Broken, Call, Handler, topics};
use crate::layout::{Layout, array, int32, text};

pub(super) struct OffsetForLeaderEpoch;

impl Handler for OffsetForLeaderEpoch {
    type Request = OffsetForLeaderEpochRequest;
    type Response = OffsetForLeaderEpochResponse;
    const KEY: ApiKey = ApiKey::OffsetForLeaderEpoch;
    const VERSIONS: (i16, i16) = (2, 4);
    const LAYOUT: Layout =
        Layout { flexible: 4, fields: &[int32().since(3), array(&[text(), array(&[int32(), int32(), int32()])])] };

    async fn handle(call: &Call, request: OffsetForLeaderEpochRequest) -> Result<Self::Response, Broken> {
        let image: &ClusterImage = &call.door.api.image();
        let topics = request.topics.into_iter().map(|topic| {
            let id = topics::resolve(image, false, &topic.topic, Uuid::nil());
            let partitions = topic.partitions.iter().map(|asked| end_of(call, image, id, asked));
            OffsetForLeaderTopicResult::default().with_partitions(partitions.collect()).with_topic(topic.topic)
        });
        Ok(OffsetForLeaderEpochResponse::default().with_topics(topics.collect()))
    }
}

fn end_of(
    call: &Call,
    image: &ClusterImage,
    topic: Result<TopicId, ResponseError>,
    asked: &OffsetForLeaderPartition,
) -> EpochEndOffset {
    let answer = EpochEndOffset::default().with_partition(asked.partition).with_leader_epoch(-1).with_end_offset(-1);
    let found = topic.and_then(|topic| {
        let tp = topics::partition(topic, asked.partition)?;
        let (current, epoch) = (LeaderEpoch::new(asked.current_leader_epoch), LeaderEpoch::new(asked.leader_epoch));
        let partition = call.door.api.core.partitions.find(tp);
        let found = partition.and_then(|partition| partition.epoch_end(current, epoch));
        found.map_err(|error| topics::partition_error(image, &error, false))
    });
    match found {
        Ok(None) => answer,
        Ok(Some(end)) => answer.with_leader_epoch(end.epoch.get()).with_end_offset(end.end.get()),
        Err(error) => answer.with_error_code(error.code()),
    }
}
