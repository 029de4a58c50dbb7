//! Error codes of the broker as the Kafka protocol has them: the one mapping of this door.

use highwater_broker::partition::PartitionError;
use highwater_protocol::{code_of, error_from_status, v1};
use highwater_record::BatchError;
use highwater_types::ErrorCode;
use kafka_protocol::error::ResponseError;
use tonic::Status;

/// No error.
pub(crate) const NONE: i16 = 0;

/// The protocol's error for `code`. A retriable code becomes one that clients retry.
pub(crate) fn of(code: ErrorCode) -> ResponseError {
    use ErrorCode as E;
    use ResponseError as K;
    match code {
        E::Internal => K::UnknownServerError,
        E::UnknownTopic | E::UnknownPartition => K::UnknownTopicOrPartition,
        E::UnknownTopicId => K::UnknownTopicId,
        E::NotLeader => K::NotLeaderOrFollower,
        E::LeaderNotAvailable | E::BrokerShuttingDown => K::LeaderNotAvailable,
        E::FencedLeaderEpoch => K::FencedLeaderEpoch,
        E::UnknownLeaderEpoch => K::UnknownLeaderEpoch,
        E::OffsetOutOfRange | E::LogTruncated => K::OffsetOutOfRange,
        E::OffsetNotAvailable => K::OffsetNotAvailable,
        E::NotEnoughReplicas => K::NotEnoughReplicas,
        E::NotEnoughReplicasAfterAppend => K::NotEnoughReplicasAfterAppend,
        E::RecordTooLarge | E::BatchTooLarge => K::MessageTooLarge,
        E::CorruptBatch => K::CorruptMessage,
        E::InvalidRecord => K::InvalidRecord,
        E::RequestTimedOut => K::RequestTimedOut,
        E::InvalidTopicName => K::InvalidTopicException,
        E::InvalidConfig => K::InvalidConfig,
        E::InvalidPartitionCount => K::InvalidPartitions,
        E::InvalidReplicationFactor => K::InvalidReplicationFactor,
        E::InvalidReplicaAssignment => K::InvalidReplicaAssignment,
        E::TopicAlreadyExists => K::TopicAlreadyExists,
        E::InvalidRequest => K::InvalidRequest,
        E::ControllerNotAvailable | E::NotController => K::NotController,
        E::StaleBrokerEpoch => K::StaleBrokerEpoch,
        E::DuplicateBrokerRegistration => K::DuplicateBrokerRegistration,
        E::InvalidUpdateVersion => K::InvalidUpdateVersion,
        E::IneligibleReplica => K::IneligibleReplica,
        E::FetchSessionStale => K::FetchSessionIdNotFound,
        E::StorageOffline | E::DiskFull | E::DamagedData => K::KafkaStorageError,
        E::UnknownBroker => K::BrokerIdNotRegistered,
        E::UnknownController => K::UnknownControllerId,
        E::Conflict => K::ReassignmentInProgress,
        E::Throttled => K::ThrottlingQuotaExceeded,
        E::Unavailable => K::NetworkException,
        E::UnsupportedCompression => K::UnsupportedCompressionType,
        E::Unsupported => K::UnsupportedVersion,
        E::OutOfOrderSequence => K::OutOfOrderSequenceNumber,
        E::DuplicateSequence => K::DuplicateSequenceNumber,
        E::UnknownProducerId => K::UnknownProducerId,
        E::InvalidProducerEpoch => K::InvalidProducerEpoch,
        E::ProducerFenced => K::ProducerFenced,
        E::InvalidProducerIdMapping => K::InvalidProducerIdMapping,
        E::InvalidTransactionState => K::InvalidTxnState,
        E::ConcurrentTransactions => K::ConcurrentTransactions,
        E::TransactionAbortable => K::TransactionAbortable,
        E::TransactionCoordinatorFenced => K::TransactionCoordinatorFenced,
        E::TransactionalIdNotFound => K::TransactionalIdNotFound,
        E::InvalidTransactionTimeout => K::InvalidTransactionTimeout,
        E::CoordinatorNotAvailable => K::CoordinatorNotAvailable,
        E::NotCoordinator => K::NotCoordinator,
        E::CoordinatorLoadInProgress => K::CoordinatorLoadInProgress,
        E::InvalidGroupId => K::InvalidGroupId,
        E::GroupIdNotFound => K::GroupIdNotFound,
        E::UnknownMemberId => K::UnknownMemberId,
        E::FencedMemberEpoch => K::FencedMemberEpoch,
        E::StaleMemberEpoch => K::StaleMemberEpoch,
        E::IllegalGeneration => K::IllegalGeneration,
        E::RebalanceInProgress => K::RebalanceInProgress,
        E::InconsistentGroupProtocol => K::InconsistentGroupProtocol,
        E::InvalidSessionTimeout => K::InvalidSessionTimeout,
        E::FencedInstanceId => K::FencedInstanceId,
        E::UnreleasedInstanceId => K::UnreleasedInstanceId,
        E::UnsupportedAssignor => K::UnsupportedAssignor,
        E::GroupMaxSizeReached => K::GroupMaxSizeReached,
        E::NonEmptyGroup => K::NonEmptyGroup,
        E::GroupSubscribedToTopic => K::GroupSubscribedToTopic,
        E::OffsetMetadataTooLarge => K::OffsetMetadataTooLarge,
        E::MemberIdRequired => K::MemberIdRequired,
        E::InvalidRegularExpression => K::InvalidRegularExpression,
        E::UnstableOffsetCommit => K::UnstableOffsetCommit,
    }
}

/// Of what a method of the broker answered, with its message.
pub(crate) fn of_status(status: &Status) -> (ResponseError, v1::Error) {
    let error = error_from_status(status);
    (of(code_of(&error)), error)
}

/// Of one partition.
pub(crate) fn of_partition(error: &PartitionError) -> ResponseError {
    match error {
        // Its client looks up who leads now.
        PartitionError::ShuttingDown => ResponseError::NotLeaderOrFollower,
        // A leader that was replaced meanwhile. librdkafka gives a batch up at a network error that a broker tells it of; with
        // this one it asks who leads now, and sends it again, with the sequence by which the next leader knows it.
        PartitionError::NotAcknowledged(_) if error.code() == ErrorCode::Unavailable => {
            ResponseError::NotLeaderOrFollower
        }
        PartitionError::Internal => ResponseError::InvalidTopicException,
        // A format from before record batches.
        PartitionError::Batch(BatchError::Magic { .. }) => ResponseError::InvalidRecord,
        error => of(error.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_retried_becomes_what_clients_retry() {
        for &code in ErrorCode::ALL.iter().filter(|code| code.is_retriable()) {
            let error = of(code);
            // Those by which the protocols of groups and transactions say what to do next, and those among brokers.
            let is_a_step = matches!(
                error,
                ResponseError::RebalanceInProgress
                    | ResponseError::MemberIdRequired
                    | ResponseError::ConcurrentTransactions
                    | ResponseError::StaleMemberEpoch
                    | ResponseError::UnreleasedInstanceId
                    | ResponseError::ReassignmentInProgress
                    | ResponseError::IneligibleReplica
                    | ResponseError::DuplicateBrokerRegistration
            );
            assert!(error.is_retriable() || is_a_step, "{code} becomes {error:?}");
        }
    }
}
