//! Partitions as requests name them: by the topic's name, or by its id in newer versions.

use highwater_broker::partition::PartitionError;
use highwater_metadata::ClusterImage;
use highwater_types::{BrokerId, LeaderEpoch, PartitionId, TopicId, TopicPartition};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::TopicName;
use uuid::Uuid;

use crate::door::Door;
use crate::error;

/// A topic id as the protocol has it.
pub(crate) fn uuid_of(topic: TopicId) -> Uuid {
    Uuid::from_bytes(*topic.as_bytes())
}

/// A topic id of the protocol.
pub(crate) fn topic_id(id: Uuid) -> TopicId {
    // A UUID has 16 bytes.
    TopicId::from_slice(id.as_bytes()).unwrap_or(TopicId::NIL)
}

/// The id of a topic that a request names; `by_id`: by its id.
pub(crate) fn resolve(image: &ClusterImage, by_id: bool, name: &TopicName, id: Uuid) -> Result<TopicId, ResponseError> {
    let found = if by_id { image.topic(topic_id(id)) } else { image.topic_by_name(name) };
    found.map(|topic| topic.id).ok_or(unknown_topic(by_id))
}

/// What is said of a topic that there is not.
pub(crate) fn unknown_topic(by_id: bool) -> ResponseError {
    if by_id { ResponseError::UnknownTopicId } else { ResponseError::UnknownTopicOrPartition }
}

/// One partition of a topic.
pub(crate) fn partition(topic: TopicId, index: i32) -> Result<TopicPartition, ResponseError> {
    let index = u32::try_from(index).map_err(|_| ResponseError::UnknownTopicOrPartition)?;
    Ok(TopicPartition::new(topic, PartitionId::new(index)))
}

/// The error of a partition in a request of which the topic was found in the newest image, and may be gone since; or the
/// broker's partitions have not taken up that image yet: then clients ask again, as they do of who does not lead yet.
pub(crate) fn partition_error(newest: &ClusterImage, error: &PartitionError, by_id: bool) -> ResponseError {
    match error {
        PartitionError::UnknownTopicId(topic) if newest.topic(*topic).is_some() => ResponseError::NotLeaderOrFollower,
        PartitionError::UnknownPartition { asked, .. } if newest.partition(*asked).is_some() => {
            ResponseError::NotLeaderOrFollower
        }
        PartitionError::UnknownTopicId(_) => unknown_topic(by_id),
        error => error::of_partition(error),
    }
}

/// Who leads instead of this broker, and where it is reached (KIP-951).
pub(crate) struct LeaderHint {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
}

/// See [`LeaderHint`]. `None` if the error is of another kind, or clients could not use the answer.
pub(crate) fn leader_hint(door: &Door, image: &ClusterImage, error: &PartitionError) -> Option<LeaderHint> {
    let (leader, leader_epoch) = error.leader()?;
    let endpoint = door.endpoint_of(image, leader)?;
    let rack = image.broker(leader).and_then(|broker| broker.rack.clone());
    Some(LeaderHint { leader, leader_epoch, host: endpoint.host.clone(), port: endpoint.port, rack })
}
