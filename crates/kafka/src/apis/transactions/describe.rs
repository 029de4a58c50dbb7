//! DescribeProducers, DescribeTransactions and ListTransactions: what administrators see of transactions (KIP-664).

use highwater_protocol::topic_id_bytes;
use highwater_protocol::v1;
use highwater_protocol::v1::coordinator_server::Coordinator as _;
use highwater_types::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use regex::{Regex, RegexBuilder};
use tonic::Request;

use super::super::groups::offsets::find;
use super::super::{Broken, Call, Handler, answered};
use crate::error::{self, By};
use crate::layout::{Layout, array, int32s, int64, int64s, text, texts};

/// As the coordinator names them.
const STATES: [&str; 6] = ["Empty", "Ongoing", "PrepareCommit", "PrepareAbort", "CompleteCommit", "CompleteAbort"];

pub(crate) struct DescribeProducers;

impl Handler for DescribeProducers {
    type Request = DescribeProducersRequest;
    type Response = DescribeProducersResponse;
    const KEY: ApiKey = ApiKey::DescribeProducers;
    const VERSIONS: (i16, i16) = (0, 0);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[array(&[text(), int32s()])] };

    async fn handle(call: &Call, request: DescribeProducersRequest) -> Result<DescribeProducersResponse, Broken> {
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for index in topic.partition_indexes {
                partitions.push(producers(call, &topic.name, index).await);
            }
            topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
        }
        Ok(DescribeProducersResponse::default().with_topics(topics))
    }
}

async fn producers(call: &Call, topic: &TopicName, index: i32) -> PartitionResponse {
    let partition = PartitionResponse::default().with_partition_index(index);
    let refused = |error: ResponseError, message: Option<String>| {
        partition.clone().with_error_code(error.code()).with_error_message(message.map(StrBytes::from_string))
    };
    let tp = match find(&call.door.api.image(), topic, index) {
        Ok(tp) => tp,
        Err(error) => return refused(error, None),
    };
    let asked = v1::DescribeProducersRequest { topic_id: topic_id_bytes(tp.topic), partition: tp.partition.get() };
    match call.door.api.coordinator().describe_producers(Request::new(asked)).await {
        Ok(found) => {
            let found = found.into_inner().producers.into_iter();
            partition.with_active_producers(found.map(producer).collect())
        }
        Err(status) => {
            let (error, said) = error::of_status(By::Leader, &status);
            refused(error, Some(said.message))
        }
    }
}

fn producer(it: v1::ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(it.producer_id.into())
        .with_producer_epoch(it.producer_epoch)
        .with_last_sequence(it.last_sequence)
        .with_last_timestamp(it.last_timestamp_ms)
        .with_coordinator_epoch(it.coordinator_epoch)
        .with_current_txn_start_offset(it.transaction_start_offset)
}

pub(crate) struct DescribeTransactions;

impl Handler for DescribeTransactions {
    type Request = DescribeTransactionsRequest;
    type Response = DescribeTransactionsResponse;
    const KEY: ApiKey = ApiKey::DescribeTransactions;
    const VERSIONS: (i16, i16) = (0, 0);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[texts()] };

    async fn handle(call: &Call, request: DescribeTransactionsRequest) -> Result<DescribeTransactionsResponse, Broken> {
        let mut states = Vec::with_capacity(request.transactional_ids.len());
        for id in request.transactional_ids {
            states.push(describe(call, id).await);
        }
        Ok(DescribeTransactionsResponse::default().with_transaction_states(states))
    }
}

async fn describe(call: &Call, id: TransactionalId) -> TransactionState {
    let asked = v1::DescribeTransactionRequest { transactional_id: id.to_string() };
    let answer = answered(call.door.api.coordinator().describe_transaction(Request::new(asked)).await);
    let state = TransactionState::default().with_transactional_id(id).with_producer_id((-1).into());
    let found = match answer {
        Ok(answer) => answer.transaction.unwrap_or_default(),
        Err(error) => return state.with_error_code(error.code()),
    };
    let image = call.door.api.image();
    let topic = |of: v1::TopicPartitions| {
        let topic = TopicId::from_slice(&of.topic_id).and_then(|id| image.topic(id))?;
        let partitions = of.partitions.into_iter().filter_map(|it| i32::try_from(it).ok());
        let name = TopicName::from(StrBytes::from_string(topic.name.to_string()));
        Some(TopicData::default().with_topic(name).with_partitions(partitions.collect()))
    };
    state
        .with_transaction_state(StrBytes::from_string(found.state))
        .with_transaction_timeout_ms(i32::try_from(found.timeout_ms).unwrap_or(i32::MAX))
        .with_transaction_start_time_ms(found.started_at_ms)
        .with_producer_id(found.producer_id.into())
        .with_producer_epoch(i16::try_from(found.producer_epoch).unwrap_or(-1))
        .with_topics(found.partitions.into_iter().filter_map(topic).collect())
}

pub(crate) struct ListTransactions;

impl Handler for ListTransactions {
    type Request = ListTransactionsRequest;
    type Response = ListTransactionsResponse;
    const KEY: ApiKey = ApiKey::ListTransactions;
    const VERSIONS: (i16, i16) = (0, 2);
    const LAYOUT: Layout = Layout { flexible: 0, fields: &[texts(), int64s(), int64().since(1), text().since(2)] };

    async fn handle(call: &Call, request: ListTransactionsRequest) -> Result<ListTransactionsResponse, Broken> {
        let unknown = request.state_filters.iter().filter(|state| !STATES.contains(&state.as_str()));
        let response = ListTransactionsResponse::default().with_unknown_state_filters(unknown.cloned().collect());
        let Ok(pattern) = whole(request.transactional_id_pattern.as_deref().unwrap_or_default()) else {
            return Ok(response.with_error_code(ResponseError::InvalidRegularExpression.code()));
        };
        let asked = Request::new(v1::ListTransactionsRequest {});
        let now_ms = call.door.api.core.clock.timestamp().get();
        Ok(match answered(call.door.api.coordinator().list_transactions(asked).await) {
            Err(error) => response.with_error_code(error.code()),
            Ok(found) => {
                let is_named = |it: &v1::TransactionInfo| {
                    pattern.as_ref().is_none_or(|pattern| pattern.is_match(&it.transactional_id))
                };
                let wanted = found.transactions.into_iter().filter(|it| is_wanted(&request, it, now_ms));
                response.with_transaction_states(wanted.filter(is_named).map(listed).collect())
            }
        })
    }
}

/// A pattern of whole names; none if it is empty. What a stranger's takes is bounded.
fn whole(pattern: &str) -> Result<Option<Regex>, regex::Error> {
    if pattern.is_empty() {
        return Ok(None);
    }
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(1 << 20).build().map(Some)
}

/// Of each filter, none is all.
fn is_wanted(request: &ListTransactionsRequest, it: &v1::TransactionInfo, now_ms: i64) -> bool {
    let states = &request.state_filters;
    let producers = &request.producer_id_filters;
    // Negative: not asked for. One that is not open lasts no time.
    let lasts = || it.started_at_ms >= 0 && now_ms.saturating_sub(it.started_at_ms) > request.duration_filter;
    (states.is_empty() || states.iter().any(|state| state.as_str() == it.state))
        && (producers.is_empty() || producers.iter().any(|id| id.0 == it.producer_id))
        && (request.duration_filter < 0 || lasts())
}

fn listed(it: v1::TransactionInfo) -> ListedTransaction {
    ListedTransaction::default()
        .with_transactional_id(TransactionalId::from(StrBytes::from_string(it.transactional_id)))
        .with_producer_id(it.producer_id.into())
        .with_transaction_state(StrBytes::from_string(it.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_from_end_to_end() {
        let is_match = |pattern: &str, name| whole(pattern).unwrap().is_none_or(|it| it.is_match(name));
        assert!(is_match("", "orders-1") && is_match("orders-.*|x", "orders-1"));
        assert!(!is_match("orders", "orders-1") && !is_match("a|orders", "orders-1"));
        assert!(whole("(").is_err() && whole("(?:a{1000}){1000}").is_err());
    }

    #[test]
    fn transactions_are_listed_by_state_producer_and_duration() {
        let open = v1::TransactionInfo {
            producer_id: 7,
            state: "Ongoing".to_owned(),
            started_at_ms: 1_000,
            ..Default::default()
        };
        let idle = v1::TransactionInfo { state: "Empty".to_owned(), started_at_ms: -1, ..open.clone() };
        let all = ListTransactionsRequest::default().with_duration_filter(-1);
        assert!(is_wanted(&all, &open, 2_000) && is_wanted(&all, &idle, 2_000));
        let ongoing = all.clone().with_state_filters(vec![StrBytes::from_static_str("Ongoing")]);
        assert!(is_wanted(&ongoing, &open, 2_000) && !is_wanted(&ongoing, &idle, 2_000));
        let other = all.clone().with_producer_id_filters(vec![8.into()]);
        assert!(!is_wanted(&other, &open, 2_000));
        let long = all.with_duration_filter(999);
        assert!(is_wanted(&long, &open, 2_000) && !is_wanted(&long, &open, 1_999) && !is_wanted(&long, &idle, 2_000));
    }
}
