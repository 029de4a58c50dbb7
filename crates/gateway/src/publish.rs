//! Records in.

use futures::future::join_all;
use highwater_client::{Delivery, ErrorCode, RecordMetadata, TopicRef};
use highwater_protocol::{code_of, v1};

use crate::error::{IntoError as _, invalid};
use crate::state::State;
use crate::{publisher, wire};

/// Records that a producer has taken, in the request's order; each knows its place or its failure, or will.
pub(crate) enum Accepted {
    Sent(Vec<Result<Delivery, v1::Error>>),
    Stored(Vec<v1::PublishResult>),
}

/// Hands a request's records to the producer, in order. Waits while that one's buffer is full.
pub(crate) async fn accept(state: &State, request: v1::PublishRequest) -> Result<Accepted, v1::Error> {
    if request.records.is_empty() {
        return Err(invalid("a publish request needs at least one record"));
    }
    if !request.publisher_id.is_empty() {
        return publisher::publish(state, request).await.map(Accepted::Stored);
    }
    let producer = state.producer(wire::acks(request.acks)?).await?;
    let topic = TopicRef::from(request.topic);
    let mut out = Vec::with_capacity(request.records.len());
    let mut absent = None;
    for record in request.records {
        let accepted = match &absent {
            Some(error) => Err(v1::Error::clone(error)),
            None => producer.send(wire::produced(&topic, record)).await.map_err(|error| error.into_error()),
        };
        // It was waited for; not once more for each of the other records.
        if let Err(error) = &accepted
            && code_of(error) == ErrorCode::UnknownTopic
        {
            absent = Some(error.clone());
        }
        out.push(accepted);
    }
    Ok(Accepted::Sent(out))
}

impl Accepted {
    /// One result for each record, once all are known.
    pub async fn results(self) -> Vec<v1::PublishResult> {
        let settle = |accepted: Result<Delivery, v1::Error>| async {
            match accepted {
                Ok(delivery) => match delivery.await {
                    Ok(metadata) => stored(&metadata),
                    Err(error) => {
                        let partition = error.partition.map_or(0, |partition| partition.get());
                        v1::PublishResult { partition, ..failed(error.into_error()) }
                    }
                },
                Err(error) => failed(error),
            }
        };
        match self {
            Self::Sent(deliveries) => join_all(deliveries.into_iter().map(settle)).await,
            Self::Stored(results) => results,
        }
    }
}

pub(crate) fn stored(at: &RecordMetadata) -> v1::PublishResult {
    v1::PublishResult {
        error: None,
        partition: at.partition.get(),
        offset: at.offset.map(|offset| offset.get()),
        timestamp_ms: at.timestamp.get(),
    }
}

fn failed(error: v1::Error) -> v1::PublishResult {
    v1::PublishResult { error: Some(error), partition: 0, offset: None, timestamp_ms: -1 }
}

/// The failure of a request as a whole: its first record's. Others of its records may be stored, so that sending all of it
/// again may duplicate those.
pub(crate) fn failure(results: &[v1::PublishResult]) -> Option<v1::Error> {
    let mut failures = results.iter().filter_map(|result| result.error.as_ref());
    let mut error = failures.next()?.clone();
    let failed = 1 + failures.clone().count();
    if results.len() > 1 {
        error.message = format!("{failed} of {} records failed; the first: {}", results.len(), error.message);
    }
    error.outcome_unknown |= failed < results.len() || failures.any(|failure| failure.outcome_unknown);
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> v1::PublishResult {
        v1::PublishResult { error: None, partition: 1, offset: Some(4), timestamp_ms: 0 }
    }

    fn bad(code: ErrorCode) -> v1::PublishResult {
        failed(v1::Error::new(code, "why"))
    }

    #[test]
    fn a_request_succeeds_only_as_a_whole() {
        assert_eq!(failure(&[ok(), ok()]), None);
        let error = failure(&[ok(), bad(ErrorCode::RecordTooLarge), bad(ErrorCode::NotEnoughReplicas)]).unwrap();
        assert_eq!(code_of(&error), ErrorCode::RecordTooLarge);
        assert!(error.message.contains("2 of 3"), "{}", error.message);
    }

    #[test]
    fn the_outcome_is_known_only_if_no_record_is_or_may_be_stored() {
        let known = failure(&[bad(ErrorCode::RecordTooLarge), bad(ErrorCode::NotEnoughReplicas)]).unwrap();
        assert!(!known.outcome_unknown);
        assert!(failure(&[bad(ErrorCode::RecordTooLarge), ok()]).unwrap().outcome_unknown);
        let late = failure(&[bad(ErrorCode::RecordTooLarge), bad(ErrorCode::RequestTimedOut)]).unwrap();
        assert!(late.outcome_unknown);
    }
}
