//! The TransactionMarkers service: what coordinators ask of the leaders of partitions.

use std::sync::Arc;

use futures::future::join_all;
use highwater_coordination::ProducerIdentity;
use highwater_protocol::internal::transaction_markers_server::TransactionMarkers;
use highwater_protocol::internal::{TransactionMarker, WriteMarkersRequest, WriteMarkersResponse, WrittenMarker};
use highwater_protocol::{status_from_error, v1};
use highwater_record::{EndTransactionMarker, TransactionResult};
use highwater_types::{PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition};
use tonic::{Request, Response, Status};

use crate::coordinator::Coordinators;
use crate::partition::{EndedBy, TransactionEnd};
use crate::services::error::invalid;

#[derive(Clone)]
pub struct MarkersService {
    coordinators: Arc<Coordinators>,
}

impl MarkersService {
    pub fn new(coordinators: Arc<Coordinators>) -> Self {
        Self { coordinators }
    }

    async fn write(&self, tp: TopicPartition, end: TransactionEnd) -> WrittenMarker {
        let error = self.coordinators.write_marker(tp, end).await.err();
        let topic_id = highwater_protocol::topic_id_bytes(tp.topic);
        WrittenMarker { producer_id: end.producer.id.get(), topic_id, partition: tp.partition.get(), error }
    }
}

#[tonic::async_trait]
impl TransactionMarkers for MarkersService {
    async fn write_markers(
        &self,
        request: Request<WriteMarkersRequest>,
    ) -> Result<Response<WriteMarkersResponse>, Status> {
        let mut writes = Vec::new();
        for marker in request.into_inner().markers {
            let (end, partitions) = decode(marker).map_err(status_from_error)?;
            writes.extend(partitions.into_iter().map(|tp| self.write(tp, end)));
        }
        Ok(Response::new(WriteMarkersResponse { markers: join_all(writes).await }))
    }
}

fn decode(marker: TransactionMarker) -> Result<(TransactionEnd, Vec<TopicPartition>), v1::Error> {
    let epoch = i16::try_from(marker.producer_epoch).ok().filter(|epoch| *epoch >= 0);
    let epoch = epoch.ok_or_else(|| invalid(format!("the producer epoch can't be {}", marker.producer_epoch)))?;
    let producer = ProducerIdentity { id: ProducerId::new(marker.producer_id), epoch: ProducerEpoch::new(epoch) };
    let result = if marker.commit { TransactionResult::Commit } else { TransactionResult::Abort };
    let end = EndTransactionMarker { result, coordinator_epoch: marker.coordinator_epoch };
    let by = if marker.keeps_epoch { EndedBy::CoordinatorInEpoch } else { EndedBy::Coordinator };
    let end = TransactionEnd { producer, marker: end, by };
    let mut partitions = Vec::new();
    for of in marker.partitions {
        let topic = TopicId::from_slice(&of.topic_id).ok_or_else(|| invalid("a topic id is 16 bytes long"))?;
        partitions.extend(of.partitions.into_iter().map(|n| TopicPartition::new(topic, PartitionId::new(n))));
    }
    Ok((end, partitions))
}
