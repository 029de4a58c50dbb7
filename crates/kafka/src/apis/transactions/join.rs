//! AddPartitionsToTxn, AddOffsetsToTxn and TxnOffsetCommit: what becomes part of a transaction.

use std::collections::BTreeMap;

use highwater_protocol::topic_id_bytes;
use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use highwater_types::TopicPartition;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::*;
use tonic::Request;

use super::super::groups::offsets::{Stated, ToCommit, commit_error, find, refusals};
use super::super::{Broken, Call, Handler, answered};
use super::fenced_as;
use crate::error;
use crate::layout::{Layout, array, int8, int16, int32, int32s, int64, text};

pub(crate) struct AddPartitionsToTxn;

/// Which versions ask for many transactions at a time.
const MANY: i16 = 4;

impl Handler for AddPartitionsToTxn {
    type Request = AddPartitionsToTxnRequest;
    type Response = AddPartitionsToTxnResponse;
    const KEY: ApiKey = ApiKey::AddPartitionsToTxn;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout {
        flexible: 3,
        fields: &[
            array(&[text(), int64(), int16(), int8(), array(&[text(), int32s()])]).since(4),
            text().until(3),
            int64().until(3),
            int16().until(3),
            array(&[text(), int32s()]).until(3),
        ],
    };

    async fn handle(call: &Call, request: AddPartitionsToTxnRequest) -> Result<AddPartitionsToTxnResponse, Broken> {
        let response = AddPartitionsToTxnResponse::default();
        if call.version < MANY {
            let one = AddPartitionsToTxnTransaction::default()
                .with_transactional_id(request.v3_and_below_transactional_id)
                .with_producer_id(request.v3_and_below_producer_id)
                .with_producer_epoch(request.v3_and_below_producer_epoch)
                .with_topics(request.v3_and_below_topics);
            return Ok(response.with_results_by_topic_v3_and_below(add(call, one).await));
        }
        let mut results = Vec::with_capacity(request.transactions.len());
        for one in request.transactions {
            let result = AddPartitionsToTxnResult::default().with_transactional_id(one.transactional_id.clone());
            results.push(result.with_topic_results(add(call, one).await));
        }
        Ok(response.with_results_by_transaction(results))
    }
}

/// All of them, or none.
async fn add(call: &Call, of: AddPartitionsToTxnTransaction) -> Vec<AddPartitionsToTxnTopicResult> {
    let image = call.door.api.image();
    let find_all = |topic: &AddPartitionsToTxnTopic| -> Vec<Result<TopicPartition, ResponseError>> {
        let there = |tp: TopicPartition| image.partition(tp).map(|_| tp).ok_or(ResponseError::UnknownTopicOrPartition);
        topic.partitions.iter().map(|index| find(&image, &topic.name, *index).and_then(there)).collect()
    };
    let places: Vec<_> = of.topics.iter().map(find_all).collect();
    let error = if places.iter().flatten().any(Result::is_err) {
        Some(ResponseError::OperationNotAttempted)
    } else {
        let mut partitions: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for tp in places.iter().flatten().flatten() {
            partitions.entry(tp.topic).or_default().push(tp.partition.get());
        }
        let topic = |(topic, partitions)| v1::TopicPartitions { topic_id: topic_id_bytes(topic), partitions };
        let asked = v1::AddPartitionsToTransactionRequest {
            transactional_id: of.transactional_id.to_string(),
            producer_id: of.producer_id.0,
            producer_epoch: of.producer_epoch.into(),
            partitions: partitions.into_iter().map(topic).collect(),
            verify_only: of.verify_only,
            group_id: String::new(),
        };
        let answer = call.door.api.coordinator().add_partitions_to_transaction(Request::new(asked)).await;
        answered(answer).err().map(|error| match error {
            // They are named by topic.
            ResponseError::UnknownTopicId => ResponseError::UnknownTopicOrPartition,
            error => fenced_as(error, call.version, 2),
        })
    };
    of.topics.into_iter().zip(places).map(|(topic, places)| results(topic, places, error)).collect()
}

fn results(
    topic: AddPartitionsToTxnTopic,
    places: Vec<Result<TopicPartition, ResponseError>>,
    error: Option<ResponseError>,
) -> AddPartitionsToTxnTopicResult {
    let results = topic.partitions.into_iter().zip(places).map(|(index, place)| {
        let code = place.err().or(error).map_or(error::NONE, |error| error.code());
        AddPartitionsToTxnPartitionResult::default().with_partition_index(index).with_partition_error_code(code)
    });
    AddPartitionsToTxnTopicResult::default().with_results_by_partition(results.collect()).with_name(topic.name)
}

pub(crate) struct AddOffsetsToTxn;

impl Handler for AddOffsetsToTxn {
    type Request = AddOffsetsToTxnRequest;
    type Response = AddOffsetsToTxnResponse;
    const KEY: ApiKey = ApiKey::AddOffsetsToTxn;
    const VERSIONS: (i16, i16) = (0, 4);
    const LAYOUT: Layout = Layout { flexible: 3, fields: &[text(), int64(), int16(), text()] };

    async fn handle(call: &Call, request: AddOffsetsToTxnRequest) -> Result<AddOffsetsToTxnResponse, Broken> {
        let response = AddOffsetsToTxnResponse::default();
        if request.group_id.is_empty() {
            return Ok(response.with_error_code(ResponseError::InvalidGroupId.code()));
        }
        let asked = v1::AddPartitionsToTransactionRequest {
            transactional_id: request.transactional_id.to_string(),
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch.into(),
            partitions: Vec::new(),
            verify_only: false,
            group_id: request.group_id.to_string(),
        };
        let answer = call.door.api.coordinator().add_partitions_to_transaction(Request::new(asked)).await;
        let code = answered(answer).err().map_or(error::NONE, |error| fenced_as(error, call.version, 2).code());
        Ok(response.with_error_code(code))
    }
}

pub(crate) struct TxnOffsetCommit;

/// The group's partition becomes part of the transaction by it.
const JOINS: i16 = 5;

impl Handler for TxnOffsetCommit {
    type Request = TxnOffsetCommitRequest;
    type Response = TxnOffsetCommitResponse;
    const KEY: ApiKey = ApiKey::TxnOffsetCommit;
    const VERSIONS: (i16, i16) = (0, 5);
    const LAYOUT: Layout = Layout {
        flexible: 3,
        fields: &[
            text(),
            text(),
            int64(),
            int16(),
            int32().since(3),
            text().since(3),
            text().since(3),
            array(&[text(), array(&[int32(), int64(), int32().since(2), text()])]),
        ],
    };

    async fn handle(call: &Call, request: TxnOffsetCommitRequest) -> Result<TxnOffsetCommitResponse, Broken> {
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
        let asked = v1::CommitOffsetsInTransactionRequest {
            transactional_id: request.transactional_id.to_string(),
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch.into(),
            group_id: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            member_epoch: request.generation_id,
            instance_id: request.group_instance_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            offsets: std::mem::take(&mut to_commit.offsets),
            verify_only: call.version < JOINS,
        };
        let answer = answered(call.door.api.coordinator().commit_offsets_in_transaction(Request::new(asked)).await);
        let refused = |error| match commit_error(error) {
            // As those of the group's coordinator are known to clients.
            ResponseError::ProducerFenced => ResponseError::InvalidProducerEpoch,
            ResponseError::StaleMemberEpoch | ResponseError::FencedMemberEpoch => ResponseError::IllegalGeneration,
            ResponseError::TransactionAbortable if call.version < JOINS => ResponseError::InvalidTxnState,
            error => error,
        };
        let answer = answer.map(|answer| refusals(&answer.partitions)).map_err(refused);
        let partition = |(index, code)| {
            TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        };
        let topics = to_commit.outcomes(&answer).into_iter().map(|(name, them)| {
            let partitions = them.into_iter().map(partition).collect();
            TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
        });
        Ok(TxnOffsetCommitResponse::default().with_topics(topics.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_keeps_the_others_from_being_added_and_each_is_told_why() {
        let topic = AddPartitionsToTxnTopic::default().with_partitions(vec![0, 9]);
        let tp = TopicPartition::new(highwater_types::TopicId::from_u128(1), highwater_types::PartitionId::new(0));
        let places = vec![Ok(tp), Err(ResponseError::UnknownTopicOrPartition)];
        let told = results(topic, places, Some(ResponseError::OperationNotAttempted));
        let codes: Vec<_> = told.results_by_partition.iter().map(|it| it.partition_error_code).collect();
        let expected = [ResponseError::OperationNotAttempted, ResponseError::UnknownTopicOrPartition];
        assert_eq!(codes, expected.map(|error| error.code()));
    }

    #[test]
    fn fencing_has_its_own_name_only_for_those_who_know_it() {
        assert_eq!(fenced_as(ResponseError::ProducerFenced, 1, 2), ResponseError::InvalidProducerEpoch);
        assert_eq!(fenced_as(ResponseError::ProducerFenced, 2, 2), ResponseError::ProducerFenced);
        assert_eq!(fenced_as(ResponseError::InvalidTxnState, 0, 2), ResponseError::InvalidTxnState);
    }
}
