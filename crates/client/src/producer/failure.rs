//! Why batches are not in the log, or may not be.

use std::sync::Arc;

use highwater_types::{ErrorCode, Outcome};

use crate::ProduceError;
use crate::producer::batch::Batch;

/// Why batches come back unsettled.
#[derive(Debug, Clone)]
pub(crate) struct AttemptFailure {
    pub code: ErrorCode,
    pub message: Arc<str>,
    pub outcome: Outcome,
    pub retriable: bool,
    /// A broker said so; otherwise it is the client's guess.
    pub answered: bool,
}

impl AttemptFailure {
    pub fn noted(&self) -> LastFailure {
        let refused = self.answered && self.outcome == Outcome::NotApplied;
        LastFailure { message: Arc::clone(&self.message), refusal: refused.then_some(self.code) }
    }
}

/// Why the last attempt at a partition failed.
#[derive(Debug, Clone)]
pub(crate) struct LastFailure {
    pub message: Arc<str>,
    /// Set if a broker said so, and that nothing was written.
    pub refusal: Option<ErrorCode>,
}

/// The error of a batch whose delivery timeout has passed: what the last broker that refused it said, if nothing else
/// can have happened to it.
pub(crate) fn expired(batch: &Batch, last: Option<&LastFailure>) -> ProduceError {
    let timeout = batch.deadline - batch.created;
    let message = match last {
        Some(last) => format!("not acknowledged within the delivery timeout of {timeout:?}; last: {}", last.message),
        None if batch.attempts > 0 => format!("not acknowledged within the delivery timeout of {timeout:?}"),
        None => format!("not sent within the delivery timeout of {timeout:?}: its partition had no leader, or a queue"),
    };
    let refusal = last.and_then(|last| last.refusal).filter(|_| batch.attempts > 0 && !batch.maybe_applied);
    batch.failure(refusal.unwrap_or(ErrorCode::RequestTimedOut), message, Outcome::NotApplied)
}
