//! [`highwater_types::ErrorCode`] to and from the wire.

use highwater_types::{ErrorCode, Outcome};
use prost::Message as _;
use tonic::{Code, Status};

use crate::v1;

impl v1::Error {
    /// An error with the retriability and outcome that its code implies.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            message: message.into(),
            leader: None,
            valid_offsets: None,
            retriable: code.is_retriable(),
            outcome_unknown: code.outcome() == Outcome::Unknown,
        }
    }

    #[must_use]
    pub fn with_leader(mut self, leader: v1::LeaderHint) -> Self {
        self.leader = Some(leader);
        self
    }

    #[must_use]
    pub fn with_valid_offsets(mut self, start: i64, end: i64) -> Self {
        self.valid_offsets = Some(v1::OffsetRange { start, end });
        self
    }
}

/// The code of an error off the wire; a number from a newer version counts as [`ErrorCode::Internal`].
pub fn code_of(error: &v1::Error) -> ErrorCode {
    ErrorCode::from_number(error.code).unwrap_or(ErrorCode::Internal)
}

/// A gRPC status that carries `error` in its details.
pub fn status_from_error(error: v1::Error) -> Status {
    let code = grpc_code(code_of(&error));
    let message = error.message.clone();
    Status::with_details(code, message, error.encode_to_vec().into())
}

/// The error that a status carries; a status made by gRPC itself becomes the nearest code, with its text.
pub fn error_from_status(status: &Status) -> v1::Error {
    if let Ok(error) = v1::Error::decode(status.details())
        && error.code != 0
    {
        return error;
    }
    let code = match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted => ErrorCode::Unavailable,
        Code::DeadlineExceeded => ErrorCode::RequestTimedOut,
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidRequest,
        Code::ResourceExhausted => ErrorCode::Throttled,
        Code::Unimplemented => ErrorCode::Unsupported,
        // Made on this side, of what broke below: gRPC calls a connection that ends in the middle an internal error.
        Code::Internal if std::error::Error::source(status).is_some() => ErrorCode::Unavailable,
        _ => ErrorCode::Internal,
    };
    v1::Error::new(code, status.message())
}

fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode as E;
    match code {
        E::UnknownTopic
        | E::UnknownPartition
        | E::UnknownTopicId
        | E::UnknownBroker
        | E::UnknownController
        | E::TransactionalIdNotFound
        | E::GroupIdNotFound => Code::NotFound,
        E::TopicAlreadyExists | E::DuplicateSequence => Code::AlreadyExists,
        E::OffsetOutOfRange | E::LogTruncated => Code::OutOfRange,
        E::RecordTooLarge
        | E::BatchTooLarge
        | E::CorruptBatch
        | E::InvalidRecord
        | E::InvalidTopicName
        | E::InvalidConfig
        | E::InvalidPartitionCount
        | E::InvalidReplicationFactor
        | E::InvalidReplicaAssignment
        | E::InvalidTransactionTimeout
        | E::InvalidGroupId
        | E::InconsistentGroupProtocol
        | E::InvalidSessionTimeout
        | E::UnsupportedAssignor
        | E::OffsetMetadataTooLarge
        | E::InvalidRegularExpression
        | E::InvalidRequest => Code::InvalidArgument,
        E::NotLeader
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::NotController
        | E::StaleBrokerEpoch
        | E::DuplicateBrokerRegistration
        | E::InvalidUpdateVersion
        | E::IneligibleReplica
        | E::OutOfOrderSequence
        | E::UnknownProducerId
        | E::InvalidProducerEpoch
        | E::ProducerFenced
        | E::InvalidProducerIdMapping
        | E::InvalidTransactionState
        | E::TransactionAbortable
        | E::TransactionCoordinatorFenced
        | E::NotCoordinator
        | E::UnknownMemberId
        | E::FencedMemberEpoch
        | E::StaleMemberEpoch
        | E::IllegalGeneration
        | E::RebalanceInProgress
        | E::FencedInstanceId
        | E::UnreleasedInstanceId
        | E::NonEmptyGroup
        | E::GroupSubscribedToTopic
        | E::MemberIdRequired
        | E::FetchSessionStale => Code::FailedPrecondition,
        E::LeaderNotAvailable
        | E::OffsetNotAvailable
        | E::NotEnoughReplicas
        | E::NotEnoughReplicasAfterAppend
        | E::ControllerNotAvailable
        | E::StorageOffline
        | E::DamagedData
        | E::BrokerShuttingDown
        | E::CoordinatorNotAvailable
        | E::CoordinatorLoadInProgress
        | E::Unavailable => Code::Unavailable,
        E::RequestTimedOut => Code::DeadlineExceeded,
        E::DiskFull | E::Throttled | E::GroupMaxSizeReached => Code::ResourceExhausted,
        E::Conflict | E::ConcurrentTransactions | E::UnstableOffsetCommit => Code::Aborted,
        E::UnsupportedCompression | E::Unsupported => Code::Unimplemented,
        E::Internal => Code::Internal,
    }
}

/// A message off the wire that can't be what it claims.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("a topic id is 16 bytes long, this one {length}")]
    TopicId { length: usize },
    #[error("the field {0} is missing")]
    Missing(&'static str),
    #[error("the field {field} can't be {value}")]
    Value { field: &'static str, value: i64 },
}

impl From<ProtocolError> for v1::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(ErrorCode::InvalidRequest, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_trip_through_a_status() {
        for &code in ErrorCode::ALL {
            let error = v1::Error::new(code, "why").with_valid_offsets(3, 9);
            let back = error_from_status(&status_from_error(error.clone()));
            assert_eq!(back, error);
        }
    }

    #[test]
    fn proto_enum_and_type_agree_on_names_and_numbers() {
        for &code in ErrorCode::ALL {
            let wire = v1::ErrorCode::try_from(code.number()).expect("in the proto file");
            let name: String = wire.as_str_name().trim_start_matches("ERROR_CODE_").replace('_', "").to_lowercase();
            assert_eq!(name, code.name().to_lowercase());
        }
    }

    #[test]
    fn a_status_of_grpc_itself_becomes_the_nearest_code() {
        let error = error_from_status(&Status::unavailable("connection refused"));
        assert_eq!(code_of(&error), ErrorCode::Unavailable);
        assert!(error.retriable && error.outcome_unknown);
    }

    #[test]
    fn p6_a_connection_that_breaks_in_the_middle_is_no_internal_error_of_the_broker() {
        let mut status = Status::internal("h2 protocol error: http2 error");
        status.set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        let error = error_from_status(&status);
        assert_eq!(code_of(&error), ErrorCode::Unavailable);
        assert!(error.retriable && error.outcome_unknown);
        assert_eq!(code_of(&error_from_status(&Status::internal("a bug"))), ErrorCode::Internal);
    }
}
