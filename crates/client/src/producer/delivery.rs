//! How a record's sender learns what became of it.
//!
//! One [`Completion`] serves a whole batch; a record's [`Delivery`] is a share of it and an index. A record costs no
//! allocation and no task.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use highwater_types::{Offset, PartitionId, TimestampMs, TopicName};

use crate::ProduceError;
use crate::producer::RecordMetadata;

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    /// `None` with acks=none.
    pub base_offset: Option<Offset>,
    /// Set where the leader gave the records their time.
    pub append_time: Option<TimestampMs>,
}

/// What became of a batch. Settled once; later attempts to settle it change nothing.
#[derive(Debug)]
pub(crate) struct Completion {
    pub topic: TopicName,
    pub partition: PartitionId,
    result: OnceLock<Result<Acknowledged, ProduceError>>,
    wakers: Mutex<Vec<Waker>>,
}

impl Completion {
    pub fn new(topic: TopicName, partition: PartitionId) -> Arc<Self> {
        Arc::new(Self { topic, partition, result: OnceLock::new(), wakers: Mutex::default() })
    }

    pub fn is_settled(&self) -> bool {
        self.result.get().is_some()
    }

    /// Whether this settled it.
    pub fn settle(&self, result: Result<Acknowledged, ProduceError>) -> bool {
        if self.result.set(result).is_err() {
            return false;
        }
        // After the result is there: whoever registers later finds it under this lock.
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
        wakers.into_iter().for_each(Waker::wake);
        true
    }
}

/// A record on its way: resolves once it is settled, to its place in the log, or to a [`ProduceError`] that says whether
/// the outcome is known. Dropping it does not stop the record.
#[derive(Debug)]
#[must_use = "a delivery that nobody awaits hides a failure from all but `flush`"]
pub struct Delivery {
    completion: Arc<Completion>,
    index: u32,
    timestamp: TimestampMs,
    waker: Option<u32>,
}

impl Delivery {
    pub(crate) fn new(completion: Arc<Completion>, index: u32, timestamp: TimestampMs) -> Self {
        Self { completion, index, timestamp, waker: None }
    }

    /// The partition that the record goes to.
    pub fn partition(&self) -> PartitionId {
        self.completion.partition
    }

    /// The result, if the record is settled.
    pub fn result(&self) -> Option<Result<RecordMetadata, ProduceError>> {
        let result = self.completion.result.get()?;
        Some(match result {
            Ok(at) => Ok(RecordMetadata {
                topic: self.completion.topic.clone(),
                partition: self.completion.partition,
                offset: at.base_offset.map(|base| base.plus(self.index.into())),
                timestamp: at.append_time.unwrap_or(self.timestamp),
            }),
            Err(error) => Err(error.clone()),
        })
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(result) = self.result() {
            return Poll::Ready(result);
        }
        let registered = {
            let mut wakers = self.completion.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            if self.completion.is_settled() {
                None
            } else {
                match self.waker {
                    Some(slot) => {
                        wakers[slot as usize].clone_from(cx.waker());
                        Some(slot)
                    }
                    None => {
                        wakers.push(cx.waker().clone());
                        Some(wakers.len() as u32 - 1)
                    }
                }
            }
        };
        match registered {
            Some(slot) => {
                self.waker = Some(slot);
                Poll::Pending
            }
            // Settled between the two looks.
            None => self.result().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn completion() -> Arc<Completion> {
        Completion::new(TopicName::new("t").unwrap(), PartitionId::new(3))
    }

    #[tokio::test]
    async fn every_record_of_a_batch_gets_its_own_offset_and_time() {
        let batch = completion();
        let deliveries: Vec<_> =
            (0..3).map(|i| Delivery::new(Arc::clone(&batch), i, TimestampMs::new(i.into()))).collect();
        let waiting = tokio::spawn(futures::future::join_all(deliveries));
        tokio::task::yield_now().await;
        let at = Acknowledged { base_offset: Some(Offset::new(40)), append_time: None };
        assert!(batch.settle(Ok(at)));
        let results = waiting.await.unwrap();
        for (i, result) in results.into_iter().enumerate() {
            let metadata = result.unwrap();
            assert_eq!(metadata.offset, Some(Offset::new(40 + i as i64)));
            assert_eq!(metadata.timestamp, TimestampMs::new(i as i64));
        }
    }

    #[test]
    fn the_first_settlement_stays_and_a_delivery_polled_twice_holds_one_waker() {
        let batch = completion();
        let mut delivery = Delivery::new(Arc::clone(&batch), 0, TimestampMs::NONE);
        for _ in 0..3 {
            assert!((&mut delivery).now_or_never().is_none());
        }
        assert_eq!(batch.wakers.lock().unwrap().len(), 1);
        let at = Acknowledged { base_offset: Some(Offset::ZERO), append_time: Some(TimestampMs::new(9)) };
        assert!(batch.settle(Ok(at)));
        assert!(!batch.settle(Ok(Acknowledged { base_offset: None, append_time: None })));
        assert_eq!(delivery.now_or_never().unwrap().unwrap().timestamp, TimestampMs::new(9));
    }
}
