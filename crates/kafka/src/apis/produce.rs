//! Produce: taken in order, several at a time, answered as they are acknowledged.
//!
//! As the gRPC door does it: a request that waits costs no task, and one timer serves all of a connection. What is not yet
//! answered is bounded in bytes, on the connection and over the broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_broker::partition::PartitionError;
use highwater_broker::produce::{
    Acks, InTransaction, PendingProduce, ProduceAnswer, ProduceRequest as Produce, ProduceResult, ProduceTo,
};
use highwater_broker::{Api as Measured, Deadlines};
use highwater_metadata::ClusterImage;
use highwater_record::{BatchError, RecordProblem};
use highwater_types::{LeaderEpoch, TimestampMs, TransactionalId};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::TopicProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::metadata::node;
use super::{Broken, Call, Pieces, decode, topics};
use crate::door::Door;
use crate::error;
use crate::layout::{Layout, array, blob, int16, int32, text, uuid};
use crate::reply;

/// Partitions become part of a transaction by its first records (KIP-890); before, clients add them first.
const JOINS_TRANSACTIONS: i16 = 12;
/// Clients know that a transaction is only to be aborted.
const KNOWS_ABORTABLE: i16 = 11;

pub(crate) const LAYOUT: Layout = Layout {
    flexible: 9,
    fields: &[text(), int16(), int32(), array(&[text().until(12), uuid().since(13), array(&[int32(), blob()])])],
};
/// From which versions on topics are named by id, and errors say who leads.
const BY_ID: i16 = 13;
const LEADER_HINTS: i16 = 10;
/// Records at fault are told one by one (KIP-467).
const RECORD_ERRORS: i16 = 8;
/// What a request takes of the connection's bound beside its bytes.
const OVERHEAD_BYTES: usize = 512;

/// What became of a partition's records so far.
enum Slot {
    /// The result of so many-th partition that the broker was asked for.
    Asked(usize),
    Refused(ResponseError, Option<String>),
}

/// A request that was taken.
struct Open {
    call: Call,
    began: Instant,
    deadline: Instant,
    bytes: usize,
    acks: Acks,
    pending: Arc<PendingProduce>,
    /// In the request's order.
    topics: Vec<(TopicProduceData, Vec<(i32, Slot)>)>,
    answer: Option<ProduceAnswer>,
}

/// The produce requests of one connection, in their order.
pub(crate) struct Pipeline {
    open: BTreeMap<u64, Open>,
    bytes: usize,
    deadlines: Deadlines,
    next_token: u64,
    answers: mpsc::UnboundedReceiver<ProduceAnswer>,
    answer_to: mpsc::UnboundedSender<ProduceAnswer>,
}

/// The client is gone: what it waited for keeps nothing of the broker's bounds any more.
impl Drop for Pipeline {
    fn drop(&mut self) {
        self.open.values().for_each(|open| open.pending.expire());
    }
}

impl Pipeline {
    pub(crate) fn new() -> Self {
        let (answer_to, answers) = mpsc::unbounded_channel();
        let (open, deadlines) = (BTreeMap::new(), Deadlines::default());
        Self { open, bytes: 0, deadlines, next_token: 0, answers, answer_to }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes of the requests that are not answered.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes one more: its records are appended, or refused, before this returns.
    pub(crate) async fn take(&mut self, mut call: Call, body: Bytes) -> Result<(), Broken> {
        let bytes = body.len() + OVERHEAD_BYTES;
        let request: ProduceRequest = decode(ApiKey::Produce, &LAYOUT, call.version, body)?;
        let core = Arc::clone(&call.door.api.core);
        let limits = &core.config.limits;
        let (token, began) = (self.next_token, Instant::now());
        self.next_token += 1;
        let acks = match request.acks {
            0 => Ok(Acks::None),
            1 => Ok(Acks::Leader),
            -1 => Ok(Acks::All),
            _ => Err(ResponseError::InvalidRequiredAcks),
        };
        let transactional_id = match request.transactional_id {
            None => Ok(None),
            Some(text) => TransactionalId::new(text.as_str()).map(Some).map_err(|_| ResponseError::InvalidRequest),
        };
        let refuse_all = acks.as_ref().err().or(transactional_id.as_ref().err()).copied();
        let acks = acks.unwrap_or(Acks::Leader);
        let image = call.door.api.image();
        let mut partitions = Vec::new();
        let mut topics = Vec::with_capacity(request.topic_data.len());
        for mut topic in request.topic_data {
            // A copy, as of all else that is kept until the answer: the request's memory goes with its records.
            topic.name = StrBytes::from_string(topic.name.to_string()).into();
            let id = topics::resolve(&image, call.version >= BY_ID, &topic.name, topic.topic_id);
            let mut slots = Vec::with_capacity(topic.partition_data.len());
            for data in std::mem::take(&mut topic.partition_data) {
                let to = match refuse_all {
                    Some(error) => Err(error),
                    None => id.and_then(|id| topics::partition(id, data.index)),
                };
                let slot = match to {
                    Err(error) => Slot::Refused(error, None),
                    Ok(_) if partitions.len() >= limits.partitions_per_request_max => {
                        let max = limits.partitions_per_request_max;
                        let why = format!("at most {max} partitions are allowed in one request");
                        Slot::Refused(ResponseError::InvalidRequest, Some(why))
                    }
                    Ok(partition) => {
                        let records = data.records.unwrap_or_default();
                        // Not of many partitions: where each keeps the whole, it is kept for too long.
                        let may_keep = records.len() >= bytes - bytes / 8;
                        partitions.push(ProduceTo { partition, leader_epoch: LeaderEpoch::NONE, records, may_keep });
                        Slot::Asked(partitions.len() - 1)
                    }
                };
                slots.push((data.index, slot));
            }
            topics.push((topic, slots));
        }
        let wait_ms = u32::try_from(request.timeout_ms.max(0)).unwrap_or(0).min(limits.wait_ms_max);
        let deadline = began + Duration::from_millis(wait_ms.into());
        let joins = call.version >= JOINS_TRANSACTIONS;
        let transaction = transactional_id.unwrap_or_default().map(|id| InTransaction { id, joins });
        let asked = Produce { token, acks, transaction, partitions };
        let permit = call.share.permit.take();
        let pending = core.partitions.produce(asked, limits.decompressed_bytes_max, permit, &self.answer_to).await;
        if !pending.is_answered() {
            self.deadlines.add(deadline, token);
        }
        self.bytes += bytes;
        self.open.insert(token, Open { call, began, deadline, bytes, acks, pending, topics, answer: None });
        Ok(())
    }

    /// Resolves when [`answered`](Self::answered) may have something. Can be dropped and called again.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            biased;
            // The sender is this pipeline's own as well: never closed.
            Some(answer) = self.answers.recv() => {
                if let Some(open) = self.open.get_mut(&answer.token) {
                    self.deadlines.remove(open.deadline, answer.token);
                    open.answer = Some(answer);
                }
            }
            token = self.deadlines.next() => {
                if let Some(open) = self.open.get(&token) {
                    open.pending.expire();
                }
            }
        }
    }

    /// The next answer, once all before it are out. `Some(None)`: to a request that wants none.
    pub(crate) fn answered(&mut self) -> Result<Option<Option<Pieces>>, Broken> {
        let Some(first) = self.open.first_entry() else { return Ok(None) };
        if first.get().answer.is_none() {
            return Ok(None);
        }
        let open = first.remove();
        self.bytes -= open.bytes;
        let metrics = open.call.door.api.core.partitions.metrics();
        metrics.produce_took.record(open.began.elapsed());
        open.finish().map(Some)
    }
}

impl Open {
    fn finish(self) -> Result<Option<Pieces>, Broken> {
        let Self { call, acks, topics, answer, .. } = self;
        let image = call.door.api.image();
        let mut results: Vec<Option<ProduceResult>> = answer
            .map(|answer| answer.results)
            .unwrap_or_default()
            .into_iter()
            .map(|(_, result)| Some(result))
            .collect();
        let mut response = ProduceResponse::default();
        for (topic, slots) in topics {
            let mut answered = TopicProduceResponse::default().with_name(topic.name).with_topic_id(topic.topic_id);
            for (index, slot) in slots {
                let partition = match slot {
                    Slot::Refused(error, message) => refused(error, message),
                    Slot::Asked(n) => match results.get_mut(n).and_then(Option::take) {
                        Some(result) => encode(&call, &image, result, &mut response.node_endpoints),
                        // Each has one.
                        None => refused(ResponseError::UnknownServerError, None),
                    },
                };
                if acks == Acks::None && partition.error_code != error::NONE {
                    return Err(Broken::Refused(partition.error_message.unwrap_or_default().to_string()));
                }
                answered.partition_responses.push(partition.with_index(index));
            }
            response.responses.push(answered);
        }
        if acks == Acks::None {
            return Ok(None);
        }
        call.door.metrics.answered(ApiKey::Produce, &response);
        Ok(Some(vec![reply::message(call.reply_header(), &response, call.version)?]))
    }
}

fn refused(error: ResponseError, message: Option<String>) -> PartitionProduceResponse {
    PartitionProduceResponse::default()
        .with_error_code(error.code())
        .with_error_message(message.map(StrBytes::from_string))
        .with_base_offset(-1)
        .with_log_append_time_ms(TimestampMs::NONE.get())
        .with_log_start_offset(-1)
}

fn encode(
    call: &Call,
    image: &ClusterImage,
    result: ProduceResult,
    endpoints: &mut Vec<NodeEndpoint>,
) -> PartitionProduceResponse {
    match result {
        Ok(produced) => PartitionProduceResponse::default()
            .with_base_offset(produced.base_offset.get())
            .with_log_append_time_ms(produced.append_time.unwrap_or(TimestampMs::NONE).get())
            .with_log_start_offset(produced.log_start.get()),
        Err(error) => {
            call.door.api.core.partitions.metrics().refused(Measured::Produce, error.code());
            let code = match topics::partition_error(image, &error, call.version >= BY_ID) {
                // What coordinators call these, leaders do not.
                ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
                ResponseError::TransactionAbortable if call.version < KNOWS_ABORTABLE => ResponseError::InvalidTxnState,
                error => error,
            };
            let mut answer = refused(code, Some(error.to_string()));
            if call.version >= RECORD_ERRORS {
                answer.record_errors = record_errors(&error);
            }
            if call.version >= LEADER_HINTS {
                hint(&call.door, image, &error, &mut answer, endpoints);
            }
            answer
        }
    }
}

/// Those of the records that are not allowed (KIP-467): clients send none of the batch again, and tell which were at fault. The batch
/// itself is the first of the partition, as clients send no more than one.
fn record_errors(error: &PartitionError) -> Vec<BatchIndexAndErrorMessage> {
    let PartitionError::Batch(BatchError::Refused { at: 0, records }) = error else { return Vec::new() };
    let told = |(index, problem): &(u32, RecordProblem)| {
        BatchIndexAndErrorMessage::default()
            .with_batch_index(i32::try_from(*index).unwrap_or(i32::MAX))
            .with_batch_index_error_message(Some(StrBytes::from_string(problem.to_string())))
    };
    records.named.iter().map(told).collect()
}

fn hint(
    door: &Door,
    image: &ClusterImage,
    error: &PartitionError,
    answer: &mut PartitionProduceResponse,
    endpoints: &mut Vec<NodeEndpoint>,
) {
    let Some(hint) = topics::leader_hint(door, image, error) else { return };
    let id = node(hint.leader);
    answer.current_leader = LeaderIdAndEpoch::default().with_leader_id(id).with_leader_epoch(hint.leader_epoch.get());
    if !endpoints.iter().any(|endpoint| endpoint.node_id == id) {
        endpoints.push(
            NodeEndpoint::default()
                .with_node_id(id)
                .with_host(StrBytes::from_string(hint.host))
                .with_port(hint.port.into())
                .with_rack(hint.rack.map(StrBytes::from_string)),
        );
    }
}
