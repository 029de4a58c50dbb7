//! Error codes of the broker as the Kafka protocol has them: the one mapping of this door.

use highwater_broker::partition::PartitionError;
use highwater_protocol::{code_of, error_from_status, v1};
use highwater_record::BatchError;
use highwater_types::ErrorCode;
use kafka_protocol::error::ResponseError;
use tonic::Status;

/// No error.
pub(crate) const NONE: i16 = 0;

/// Who answers by his office. Clients look elsewhere for each, or ask again, at other errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The coordinator of a group or a transaction.
    Coordinator,
    /// The leader of a partition.
    Leader,
    /// The controller: administration.
    Controller,
}

/// The protocol's error for `code`. A retriable code becomes one that clients retry.
pub(crate) fn of(by: By, code: ErrorCode) -> ResponseError {
    use ErrorCode as E;
    use ResponseError as K;
    match (by, code) {
        // Whatever keeps it from its work: clients look it up, and ask again. At others librdkafka aborts a transaction, or is fatal.
        (
            By::Coordinator,
            E::Unavailable
            | E::ControllerNotAvailable
            | E::NotController
            | E::StaleBrokerEpoch
            | E::BrokerShuttingDown
            | E::NotLeader
            | E::LeaderNotAvailable
            | E::FencedLeaderEpoch
            | E::UnknownLeaderEpoch
            | E::NotEnoughReplicas
            | E::NotEnoughReplicasAfterAppend
            | E::RequestTimedOut
            | E::StorageOffline
            | E::DiskFull
            | E::DamagedData,
        ) => K::CoordinatorNotAvailable,
        // A leader that was replaced meanwhile. librdkafka gives a batch up at a network error that a broker tells it of; with this
        // one it asks who leads now, and sends it again, with the sequence by which the next leader knows it.
        (By::Leader, E::Unavailable | E::BrokerShuttingDown) => K::NotLeaderOrFollower,
        (By::Controller, E::BrokerShuttingDown) => K::NotController,
        (_, code) => plain(code),
    }
}

/// Where it matters to nobody who answers.
fn plain(code: ErrorCode) -> ResponseError {
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
        // It may have been done, or be done yet.
        E::Unavailable => K::RequestTimedOut,
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
pub(crate) fn of_status(by: By, status: &Status) -> (ResponseError, v1::Error) {
    let error = error_from_status(status);
    (of(by, code_of(&error)), error)
}

/// Of one partition.
pub(crate) fn of_partition(error: &PartitionError) -> ResponseError {
    match error {
        PartitionError::Internal => ResponseError::InvalidTopicException,
        // A format from before record batches.
        PartitionError::Batch(BatchError::Magic { .. }) => ResponseError::InvalidRecord,
        // Nothing was written. Producers know no errors of coordinators as those of leaders; at this one all send again.
        PartitionError::Coordinator(error) if code_of(error).is_retriable() => ResponseError::NotEnoughReplicas,
        error => of(By::Leader, error.code()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those by which the protocols of groups and transactions say what to do next.
    const STEPS: [ResponseError; 5] = [
        ResponseError::RebalanceInProgress,
        ResponseError::MemberIdRequired,
        ResponseError::ConcurrentTransactions,
        ResponseError::StaleMemberEpoch,
        ResponseError::UnreleasedInstanceId,
    ];
    /// Those among brokers.
    const INTERNAL: [ResponseError; 3] = [
        ResponseError::ReassignmentInProgress,
        ResponseError::IneligibleReplica,
        ResponseError::DuplicateBrokerRegistration,
    ];

    fn retriable() -> impl Iterator<Item = ErrorCode> {
        ErrorCode::ALL.iter().copied().filter(|code| code.is_retriable())
    }

    #[test]
    fn what_can_be_retried_becomes_what_clients_retry() {
        for by in [By::Coordinator, By::Leader, By::Controller] {
            for code in retriable() {
                let error = of(by, code);
                let is_a_step = STEPS.contains(&error) || INTERNAL.contains(&error);
                assert!(error.is_retriable() || is_a_step, "{code} becomes {error:?}, told by the {by:?}");
                assert_ne!(error, ResponseError::NetworkException, "librdkafka gives up at it");
            }
        }
    }

    #[test]
    fn a_coordinator_that_can_t_work_now_says_so_in_its_own_words() {
        use ResponseError as K;
        let own = [
            K::CoordinatorNotAvailable,
            K::NotCoordinator,
            K::CoordinatorLoadInProgress,
            K::UnstableOffsetCommit,
            // Of one partition of the request.
            K::UnknownTopicOrPartition,
            K::UnknownTopicId,
        ];
        // What no coordinator's method answers.
        let elsewhere = [K::OffsetNotAvailable, K::FetchSessionIdNotFound, K::ThrottlingQuotaExceeded];
        for code in retriable() {
            let error = of(By::Coordinator, code);
            let known = [&own[..], &STEPS, &INTERNAL, &elsewhere].concat();
            assert!(known.contains(&error), "{code} becomes {error:?}");
        }
    }

    #[test]
    fn producers_send_again_what_could_not_be_verified_now() {
        for code in retriable() {
            let error = PartitionError::Coordinator(v1::Error::new(code, "scripted"));
            assert_eq!(of_partition(&error), ResponseError::NotEnoughReplicas, "{code}");
        }
        let over = PartitionError::Coordinator(v1::Error::new(ErrorCode::InvalidTransactionState, "scripted"));
        assert_eq!(of_partition(&over), ResponseError::InvalidTxnState);
    }
}
