//! DeleteRecords: moves the first offset of partitions forward.

use highwater_protocol::v1::admin_server::Admin;
use highwater_protocol::{topic_id_bytes, v1};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{ApiKey, DeleteRecordsRequest, DeleteRecordsResponse, TopicName};
use tonic::Request;

use super::refusal::{Deadline, Refusal, each, told};
use super::{Broken, Call, Handler};
use crate::layout::{Layout, array, int32, int64, text};

/// All committed records.
const HIGH_WATERMARK: i64 = -1;

pub(super) struct DeleteRecords;

impl Handler for DeleteRecords {
    type Request = DeleteRecordsRequest;
    type Response = DeleteRecordsResponse;
    const KEY: ApiKey = ApiKey::DeleteRecords;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout = Layout { flexible: 2, fields: &[array(&[text(), array(&[int32(), int64()])]), int32()] };

    async fn handle(call: &Call, request: DeleteRecordsRequest) -> Result<DeleteRecordsResponse, Broken> {
        let deadline = Deadline::after_ms(request.timeout_ms);
        let mut response = DeleteRecordsResponse::default();
        for topic in request.topics {
            let name = &topic.name;
            let delete = |asked: DeleteRecordsPartition| async move {
                let deleted = delete(call, deadline, name, &asked).await;
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(asked.partition_index)
                    .with_error_code(told(&deleted).0)
                    .with_low_watermark(deleted.unwrap_or(-1))
            };
            let partitions = each(topic.partitions.into_iter().map(delete).collect()).await;
            let result = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
            response.topics.push(result.with_partitions(partitions));
        }
        Ok(response)
    }
}

async fn delete(
    call: &Call,
    deadline: Deadline,
    name: &TopicName,
    asked: &DeleteRecordsPartition,
) -> Result<i64, Refusal> {
    let image = call.door.api.link.image();
    let topic = image.topic_by_name(name).ok_or_else(|| Refusal::unknown_topic(name))?;
    let partition = u32::try_from(asked.partition_index).map_err(|_| Refusal::unknown_topic(name))?;
    if asked.offset < HIGH_WATERMARK {
        return Err(Refusal::new(ResponseError::OffsetOutOfRange, format!("there is no offset {}", asked.offset)));
    }
    let topic_id = topic_id_bytes(topic.id);
    let request = v1::DeleteRecordsRequest { topic_id, partition, before_offset: asked.offset };
    let deleted = deadline.answer(call.door.api.admin().delete_records(Request::new(request))).await;
    deleted.map(|deleted| deleted.log_start_offset).map_err(|refusal| match refusal.error {
        // It was named by name, and is gone.
        ResponseError::UnknownTopicId => Refusal::unknown_topic(name),
        _ => refusal,
    })
}
