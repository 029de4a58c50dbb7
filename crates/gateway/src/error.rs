//! What the client library says of a failure, as thin clients are told.

use highwater_client::{
    AdminError, CommitError, ConnectError, ConsumeError, ErrorCode, InvalidSetting, Outcome, ProduceError,
    TransactionError,
};
use highwater_protocol::{status_from_error, v1};
use tonic::Status;

pub(crate) fn invalid(message: impl Into<String>) -> v1::Error {
    v1::Error::new(ErrorCode::InvalidRequest, message)
}

/// This broker shuts down: nothing was done.
pub(crate) fn ending() -> v1::Error {
    v1::Error::new(ErrorCode::BrokerShuttingDown, "this broker shuts down; connect to another one")
}

pub(crate) fn status(error: impl IntoError) -> Status {
    status_from_error(error.into_error())
}

/// Not `Into`: neither the errors nor the message are of this crate.
pub(crate) trait IntoError {
    fn into_error(self) -> v1::Error;
}

impl IntoError for v1::Error {
    fn into_error(self) -> v1::Error {
        self
    }
}

impl IntoError for ProduceError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(self.code, self.to_string());
        error.retriable = self.is_retriable();
        error.outcome_unknown = self.outcome == Outcome::Unknown;
        error
    }
}

impl IntoError for ConsumeError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(self.code(), self.to_string());
        error.retriable = self.is_retriable();
        // Reading changes nothing.
        error.outcome_unknown = false;
        match self {
            Self::OffsetOutOfRange { start, end, .. } => error.with_valid_offsets(start.get(), end.get()),
            _ => error,
        }
    }
}

impl IntoError for AdminError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(self.code, self.to_string());
        error.outcome_unknown = self.outcome == Outcome::Unknown;
        error
    }
}

impl IntoError for CommitError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(self.code, self.to_string());
        error.retriable = self.is_retriable();
        error.outcome_unknown = self.outcome == Outcome::Unknown;
        error
    }
}

/// Of a publisher's transaction, which is made again under the same sequence whatever became of it: so all that may pass is
/// worth another try.
impl IntoError for TransactionError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(self.code(), self.to_string());
        error.outcome_unknown = matches!(self, Self::Fenced { .. } | Self::Unavailable { .. });
        error.retriable |= matches!(self, Self::Fenced { .. });
        error
    }
}

impl IntoError for ConnectError {
    fn into_error(self) -> v1::Error {
        let mut error = v1::Error::new(ErrorCode::Unavailable, self.to_string());
        error.outcome_unknown = false;
        error
    }
}

impl IntoError for InvalidSetting {
    fn into_error(self) -> v1::Error {
        v1::Error::new(ErrorCode::Internal, self.to_string())
    }
}
