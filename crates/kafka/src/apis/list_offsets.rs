//! ListOffsets: the first and the last offset, and the first one of a time.

use highwater_broker::partition::OffsetAt;
use highwater_metadata::ClusterImage;
use highwater_types::{IsolationLevel, LeaderEpoch, TimestampMs};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ApiKey, ListOffsetsRequest, ListOffsetsResponse, TopicName};
use uuid::Uuid;

use super::{Broken, Call, Handler, topics};
use crate::error;
use crate::layout::{Layout, array, int8, int32, int64, text};

/// Times that stand for something else.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
/// On the broker's own disks, where everything is.
const EARLIEST_LOCAL: i64 = -4;
/// The first version with leader epochs.
const LEADER_EPOCHS: i16 = 4;

pub(super) struct ListOffsets;

impl Handler for ListOffsets {
    type Request = ListOffsetsRequest;
    type Response = ListOffsetsResponse;
    const KEY: ApiKey = ApiKey::ListOffsets;
    const VERSIONS: (i16, i16) = (1, 10);
    const LAYOUT: Layout = Layout {
        flexible: 6,
        fields: &[
            int32(),
            int8().since(2),
            array(&[text(), array(&[int32(), int32().since(4), int64()])]),
            int32().since(10),
        ],
    };

    async fn handle(call: &Call, request: ListOffsetsRequest) -> Result<ListOffsetsResponse, Broken> {
        let image = call.door.api.image();
        let isolation = match request.isolation_level {
            1 => IsolationLevel::ReadCommitted,
            _ => IsolationLevel::ReadUncommitted,
        };
        let mut response = ListOffsetsResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for asked in topic.partitions {
                partitions.push(look_up(call, &image, &topic.name, &asked, isolation).await);
            }
            response.topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
        }
        Ok(response)
    }
}

async fn look_up(
    call: &Call,
    image: &ClusterImage,
    name: &TopicName,
    asked: &ListOffsetsPartition,
    isolation: IsolationLevel,
) -> ListOffsetsPartitionResponse {
    let at = match asked.timestamp {
        LATEST => Ok(OffsetAt::Latest),
        EARLIEST | EARLIEST_LOCAL => Ok(OffsetAt::Earliest),
        MAX_TIMESTAMP => Ok(OffsetAt::MaxTimestamp),
        time if time >= 0 => Ok(OffsetAt::Timestamp(TimestampMs::new(time))),
        _ => Err(ResponseError::UnsupportedVersion),
    };
    let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
    let found = async {
        let tp = topics::partition(topics::resolve(image, false, name, Uuid::nil())?, asked.partition_index)?;
        let (at, epoch) = (at?, LeaderEpoch::new(asked.current_leader_epoch));
        let partition = call.door.api.core.partitions.find(tp);
        let partition = partition.map_err(|error| topics::partition_error(image, &error, false))?;
        let found = partition.find_offset(epoch, at, isolation).await;
        found.map_err(|error| topics::partition_error(image, &error, false))
    };
    match found.await {
        Ok(found) => answer
            .with_error_code(error::NONE)
            .with_offset(found.offset.map_or(-1, highwater_types::Offset::get))
            .with_timestamp(found.timestamp.get())
            .with_leader_epoch(match found.offset {
                Some(_) if call.version >= LEADER_EPOCHS => found.leader_epoch.get(),
                // Nothing found is of no epoch, and older versions have none.
                _ => LeaderEpoch::NONE.get(),
            }),
        Err(error) => answer.with_error_code(of_version(error, call.version).code()).with_offset(-1).with_timestamp(-1),
    }
}

/// Clients of old versions know no "not available yet" (KIP-207), and ask again after this one.
fn of_version(error: ResponseError, version: i16) -> ResponseError {
    match error {
        ResponseError::OffsetNotAvailable if version < 5 => ResponseError::LeaderNotAvailable,
        error => error,
    }
}
