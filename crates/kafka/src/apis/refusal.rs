//! What administration answers item by item: errors with messages, within the time that the client gives.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use highwater_types::KafkaConfigError;
use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status};

use crate::error::{self, By};

/// Items of one request that are worked on side by side.
const AT_ONCE: usize = 16;

/// Why one item of a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub error: ResponseError,
    pub message: String,
}

impl Refusal {
    pub(super) fn new(error: ResponseError, message: impl Into<String>) -> Self {
        Self { error, message: message.into() }
    }

    /// What the client asks for is in itself not what it should be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ResponseError::InvalidRequest, message)
    }

    pub(super) fn twice(topic: &str) -> Self {
        Self::invalid(format!("topic {topic:?} is in the request more than once"))
    }

    pub(super) fn unknown_topic(name: &str) -> Self {
        Self::new(ResponseError::UnknownTopicOrPartition, format!("there is no topic {name:?}"))
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let (error, said) = error::of_status(By::Controller, &status);
        Self::new(error, said.message)
    }
}

impl From<KafkaConfigError> for Refusal {
    fn from(error: KafkaConfigError) -> Self {
        Self::new(ResponseError::InvalidConfig, error.to_string())
    }
}

/// The error code and the message of an item.
pub(super) fn told<T>(outcome: &Result<T, Refusal>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(_) => (error::NONE, None),
        Err(refusal) => (refusal.error.code(), Some(StrBytes::from_string(refusal.message.clone()))),
    }
}

/// Until when a client waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
}

/// Clients that give no time at all (librdkafka's `operation_timeout` of 0) want to hear what came of it all the same, if that is
/// known soon.
const LEAST: Duration = Duration::from_secs(1);

impl Deadline {
    pub(super) fn after_ms(timeout_ms: i32) -> Self {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).max(LEAST);
        Self { at: Instant::now() + timeout, timeout }
    }

    /// What a method of the broker answers by then.
    pub(super) async fn answer<T>(
        self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Refusal> {
        match timeout_at(self.at, answer).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => {
                let message = format!("not done within {:?}; it may yet be done", self.timeout);
                Err(Refusal::new(ResponseError::RequestTimedOut, message))
            }
        }
    }
}

/// The results of `calls`, in their order; some of them go on at a time.
pub(super) async fn each<F: Future>(calls: Vec<F>) -> Vec<F::Output> {
    stream::iter(calls).buffered(AT_ONCE).collect().await
}

/// Each item once, in order, and whether it was there more than once.
pub(super) fn once<T, K: Ord + Clone>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<(T, bool)> {
    let twice = duplicates(items.iter().map(&key));
    let mut left = twice.clone();
    let first = |item: T| {
        let key = key(&item);
        let is_twice = twice.contains(&key);
        (!is_twice || left.remove(&key)).then_some((item, is_twice))
    };
    items.into_iter().filter_map(first).collect()
}

/// What is there more than once.
pub(super) fn duplicates<T: Ord + Clone>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| !seen.insert(item.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gives_no_time_hears_what_is_known_soon_and_no_more() {
        for timeout_ms in [i32::MIN, -1, 0, 1] {
            let known_after = async |time| {
                let answer = async {
                    tokio::time::sleep(time).await;
                    Ok(Response::new(()))
                };
                Deadline::after_ms(timeout_ms).answer(answer).await.map_err(|refusal| refusal.error)
            };
            assert_eq!(known_after(Duration::from_millis(900)).await, Ok(()), "{timeout_ms} ms");
            assert_eq!(known_after(Duration::from_millis(1100)).await, Err(ResponseError::RequestTimedOut));
        }
    }
}
