//! From where a partition is to be read to a position in it.

use std::sync::Arc;

use highwater_types::{IsolationLevel, LeaderEpoch, Offset, PartitionId, TopicPartition};

use crate::client::ClientInner;
use crate::consumer::{Position, StartAt};
use crate::metadata::TopicMetadata;
use crate::offsets::{self, Lookup};
use crate::{AdminError, ConsumeError, ErrorCode, OffsetAt};

/// A partition and where to begin.
pub(crate) struct Start {
    pub topic: Arc<TopicMetadata>,
    pub partition: PartitionId,
    pub at: StartAt,
}

impl Start {
    pub fn id(&self) -> TopicPartition {
        TopicPartition::new(self.topic.id, self.partition)
    }

    fn lookup(&self, at: OffsetAt) -> Lookup {
        Lookup { topic: Arc::clone(&self.topic), partition: self.partition, at }
    }
}

/// The topic, if it exists within the time that topics may take to appear.
pub(crate) async fn topic(client: &Arc<ClientInner>, name: &str) -> Result<Arc<TopicMetadata>, ConsumeError> {
    client.topic(name).await.ok_or_else(|| ConsumeError::UnknownTopic { topic: name.to_owned() })
}

/// The positions, in the order asked.
pub(crate) async fn resolve(
    client: &Arc<ClientInner>,
    isolation: IsolationLevel,
    starts: &[Start],
) -> Result<Vec<Position>, ConsumeError> {
    let at = |offset, leader_epoch| Position { offset, leader_epoch };
    let mut positions = vec![at(Offset::ZERO, LeaderEpoch::NONE); starts.len()];
    let mut asked = Vec::new();
    let mut indexes = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let look_up = match start.at {
            StartAt::Offset(offset) => {
                positions[index] = at(offset, LeaderEpoch::NONE);
                continue;
            }
            StartAt::Position(position) => {
                positions[index] = position;
                continue;
            }
            StartAt::Beginning => OffsetAt::Earliest,
            StartAt::End => OffsetAt::Latest,
            StartAt::Timestamp(time) => OffsetAt::Timestamp(time),
        };
        asked.push(start.lookup(look_up));
        indexes.push(index);
    }
    let mut too_new = Vec::new();
    for (index, (_, answer)) in indexes.into_iter().zip(offsets::look_up(client, asked, isolation).await) {
        match answer.map_err(|error| failure(client, &starts[index], error))?.offset {
            Some(offset) => positions[index].offset = offset,
            // No record is that new: the end.
            None => too_new.push(index),
        }
    }
    let asked = too_new.iter().map(|index| starts[*index].lookup(OffsetAt::Latest)).collect();
    for (index, (_, answer)) in too_new.into_iter().zip(offsets::look_up(client, asked, isolation).await) {
        let found = answer.map_err(|error| failure(client, &starts[index], error))?;
        positions[index].offset = found.offset.unwrap_or(Offset::ZERO);
    }
    Ok(positions)
}

fn failure(client: &Arc<ClientInner>, start: &Start, error: AdminError) -> ConsumeError {
    let topic = start.topic.name.to_string();
    if error.is_retriable() {
        let AdminError { what, code, message, .. } = error;
        return ConsumeError::Unavailable { what, waited: client.request_timeout, code, message };
    }
    match error.code {
        ErrorCode::UnknownTopic => ConsumeError::UnknownTopic { topic },
        code => ConsumeError::Refused { topic, partition: start.partition, code, message: error.message },
    }
}
