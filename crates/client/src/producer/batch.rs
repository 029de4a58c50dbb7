//! A batch on its way through the producer.

use std::sync::Arc;

use bytes::Bytes;
use highwater_record::{BatchBuilder, BatchError, set_producer};
use highwater_types::{ErrorCode, Outcome, Sequence};
use tokio::time::Instant;

use crate::ProduceError;
use crate::producer::delivery::Completion;
use crate::producer::numbering::{Number, Session};

/// Records of one partition that are settled together. **Invariant**: it never goes away unsettled; dropped (the runtime
/// shuts down), it fails its records.
pub(crate) struct Batch {
    /// Grows with each batch of a producer: what a flush waits for lies below one.
    pub id: u64,
    pub completion: Arc<Completion>,
    payload: Payload,
    pub records: u32,
    /// Bytes of the producer's buffer that it holds.
    pub reserved: usize,
    pub created: Instant,
    pub deadline: Instant,
    /// How many times it was sent.
    pub attempts: u32,
    /// An attempt ended with its outcome unknown: the batch may be in the log. It keeps its number from then on.
    pub maybe_applied: bool,
    /// Given when it is first sent, with idempotence.
    pub number: Option<Number>,
    /// The number that its bytes state.
    stated: Option<Number>,
}

enum Payload {
    Building(BatchBuilder),
    Built(Bytes),
}

impl Batch {
    pub fn new(
        id: u64,
        completion: Arc<Completion>,
        builder: BatchBuilder,
        created: Instant,
        deadline: Instant,
    ) -> Self {
        let payload = Payload::Building(builder);
        Self {
            id,
            completion,
            payload,
            records: 0,
            reserved: 0,
            created,
            deadline,
            attempts: 0,
            maybe_applied: false,
            number: None,
            stated: None,
        }
    }

    /// While it is open.
    pub fn builder(&mut self) -> Option<&mut BatchBuilder> {
        match &mut self.payload {
            Payload::Building(builder) => Some(builder),
            Payload::Built(_) => None,
        }
    }

    /// Bytes; before it is built, an upper bound.
    pub fn size(&self) -> usize {
        match &self.payload {
            Payload::Building(builder) => builder.estimated_bytes(),
            Payload::Built(bytes) => bytes.len(),
        }
    }

    /// Its bytes, with its number; builds (compresses, sums up) at the first call. The same bytes each time, unless it
    /// was given another number.
    pub fn bytes(&mut self) -> Result<Bytes, BatchError> {
        let none = Number { session: Session::NONE, first: Sequence::NONE };
        let Number { session, first } = self.number.unwrap_or(none);
        let built = match std::mem::replace(&mut self.payload, Payload::Built(Bytes::new())) {
            Payload::Building(mut builder) => {
                builder.set_producer(session.id, session.epoch, first);
                builder.build()?
            }
            Payload::Built(bytes) if self.stated == self.number => bytes,
            Payload::Built(bytes) => {
                let mut bytes = Vec::from(bytes);
                set_producer(&mut bytes, session.id, session.epoch, first);
                bytes.into()
            }
        };
        self.stated = self.number;
        self.payload = Payload::Built(built.clone());
        Ok(built)
    }

    /// The error that its records fail with. What earlier attempts left unknown stays unknown.
    pub fn failure(&self, code: ErrorCode, message: impl Into<Arc<str>>, outcome: Outcome) -> ProduceError {
        ProduceError {
            code,
            message: message.into(),
            outcome: if self.maybe_applied { Outcome::Unknown } else { outcome },
            topic: self.completion.topic.as_str().into(),
            partition: Some(self.completion.partition),
            attempts: self.attempts,
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.completion.is_settled() {
            let outcome = if self.attempts > 0 { Outcome::Unknown } else { Outcome::NotApplied };
            let error = self.failure(ErrorCode::Unavailable, "the producer was stopped before it was settled", outcome);
            self.completion.settle(Err(error));
        }
    }
}
