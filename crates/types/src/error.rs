//! The error codes that cross process boundaries. One list for every front door; each door maps them in one place.

use serde::{Deserialize, Serialize};

/// What is known of a refused or failed request's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Nothing was written, and nothing will be.
    NotApplied,
    /// It may have been applied, or may yet be: the caller can't tell.
    Unknown,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $retriable:literal, $outcome:ident;)*) => {
        /// Why a request was refused or failed. Numbers are the wire values of `highwater.v1.ErrorCode`, never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(i32)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number,)* }

        impl ErrorCode {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub const fn number(self) -> i32 {
                self as i32
            }
            /// `None` for a number that this version does not know.
            pub const fn from_number(number: i32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
            /// Whether the same request can succeed later, perhaps at another broker, with nobody changing anything.
            pub const fn is_retriable(self) -> bool {
                match self { $(Self::$name => $retriable,)* }
            }
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

error_codes! {
    /// A bug or an unforeseen state in the server; its log says more.
    Internal = 1, false, Unknown;
    UnknownTopic = 2, false, NotApplied;
    /// The topic has no such partition, as far as the one who was asked knows: it may be behind, and partitions are only ever added.
    UnknownPartition = 3, true, NotApplied;
    /// The id belongs to no topic (any more); the name may belong to a newer topic.
    UnknownTopicId = 4, true, NotApplied;
    /// This broker does not lead the partition; the details name who does, if known.
    NotLeader = 5, true, NotApplied;
    /// The partition has no leader now.
    LeaderNotAvailable = 6, true, NotApplied;
    /// The request's leader epoch is older than the broker's.
    FencedLeaderEpoch = 7, true, NotApplied;
    /// The request's leader epoch is newer than the broker's, which has yet to learn it.
    UnknownLeaderEpoch = 8, true, NotApplied;
    /// Outside log start offset .. high watermark (or log end, for replicas); the details give the valid range.
    OffsetOutOfRange = 9, false, NotApplied;
    /// The high watermark of a new leader is not yet certain (KIP-207).
    OffsetNotAvailable = 10, true, NotApplied;
    /// Fewer in-sync replicas than `min.insync.replicas`: nothing was written.
    NotEnoughReplicas = 11, true, NotApplied;
    /// Written to the leader, then the in-sync replicas fell below `min.insync.replicas`: may still commit.
    NotEnoughReplicasAfterAppend = 12, true, Unknown;
    RecordTooLarge = 13, false, NotApplied;
    BatchTooLarge = 14, false, NotApplied;
    /// A batch's CRC, length, count, magic or structure is wrong.
    CorruptBatch = 15, false, NotApplied;
    /// A well-formed batch that breaks a rule: timestamps, control bit, compression, keys required.
    InvalidRecord = 16, false, NotApplied;
    /// Not completed within the request's timeout: may still be.
    RequestTimedOut = 17, true, Unknown;
    InvalidTopicName = 18, false, NotApplied;
    InvalidConfig = 19, false, NotApplied;
    InvalidPartitionCount = 20, false, NotApplied;
    InvalidReplicationFactor = 21, false, NotApplied;
    InvalidReplicaAssignment = 22, false, NotApplied;
    TopicAlreadyExists = 23, false, NotApplied;
    InvalidRequest = 24, false, NotApplied;
    /// The process has no active controller, or can't reach it.
    ControllerNotAvailable = 25, true, NotApplied;
    /// This controller is not the active one; the details name who is, if known.
    NotController = 26, true, NotApplied;
    /// The broker epoch is not the current one: another incarnation has taken over, or this one was fenced.
    StaleBrokerEpoch = 27, false, NotApplied;
    /// Another process is registered under the same broker id.
    DuplicateBrokerRegistration = 28, true, NotApplied;
    /// The partition epoch of an ISR proposal is not the current one (KIP-497).
    InvalidUpdateVersion = 29, false, NotApplied;
    /// A replica named in an ISR proposal is fenced, shutting down, or of another broker epoch (KIP-841, KIP-903).
    IneligibleReplica = 30, false, NotApplied;
    /// The fetch session is not known or its epoch does not match (KIP-227).
    FetchSessionStale = 31, true, NotApplied;
    /// The data dir of the partition is offline after an I/O error.
    StorageOffline = 32, true, Unknown;
    /// No space on the data dir: new writes are refused, reads go on.
    DiskFull = 33, true, NotApplied;
    /// The data asked for is damaged on this replica, and is being healed from a peer.
    DamagedData = 34, true, NotApplied;
    BrokerShuttingDown = 35, true, NotApplied;
    UnknownBroker = 36, false, NotApplied;
    UnknownController = 37, false, NotApplied;
    /// The change conflicts with one in progress.
    Conflict = 38, true, NotApplied;
    /// Refused: over a limit of this server (requests in flight, memory).
    Throttled = 39, true, NotApplied;
    /// The node could not be reached or the connection broke. Made by the client, never sent.
    Unavailable = 40, true, Unknown;
    /// The followers' or consumer's log differs from the leader's; the details say from where.
    LogTruncated = 41, false, NotApplied;
    UnsupportedCompression = 42, false, NotApplied;
    /// A request for an operation that only newer metadata allows.
    Unsupported = 43, false, NotApplied;
    /// A sequence number that does not follow the producer's last one in this partition: a batch before it is missing.
    OutOfOrderSequence = 44, false, NotApplied;
    /// A batch that was stored before, too long ago for its offset to be known: it is there, once.
    DuplicateSequence = 45, false, NotApplied;
    /// Nothing is known of this producer in this partition any more, and its sequence does not start at 0.
    UnknownProducerId = 46, false, NotApplied;
    /// A newer epoch of the same producer has written to this partition.
    InvalidProducerEpoch = 47, false, NotApplied;
    /// Another producer with the same transactional id has taken over.
    ProducerFenced = 48, false, NotApplied;
    /// The transactional id belongs to another producer id.
    InvalidProducerIdMapping = 49, false, NotApplied;
    /// The transaction is not in a state that allows this.
    InvalidTransactionState = 50, false, NotApplied;
    /// The transaction before is still being completed: try again soon.
    ConcurrentTransactions = 51, true, NotApplied;
    /// The transaction can only be aborted; the producer may go on with the next one.
    TransactionAbortable = 52, false, NotApplied;
    /// A marker of an older coordinator.
    TransactionCoordinatorFenced = 53, false, NotApplied;
    TransactionalIdNotFound = 54, false, NotApplied;
    /// Above `transaction.max.timeout.ms`, or 0.
    InvalidTransactionTimeout = 55, false, NotApplied;
    /// The coordinator's partition has no leader, or the internal topic is being made.
    CoordinatorNotAvailable = 56, true, NotApplied;
    /// This broker does not coordinate that group or transaction; ask who does.
    NotCoordinator = 57, true, NotApplied;
    /// The coordinator is reading its state back.
    CoordinatorLoadInProgress = 58, true, NotApplied;
    InvalidGroupId = 59, false, NotApplied;
    GroupIdNotFound = 60, false, NotApplied;
    /// Not a member, or not any more: join again.
    UnknownMemberId = 61, false, NotApplied;
    /// The member's epoch is not the coordinator's: give up all partitions and join again.
    FencedMemberEpoch = 62, false, NotApplied;
    /// The member's epoch is older than the coordinator's: heartbeat, then try again.
    StaleMemberEpoch = 63, true, NotApplied;
    /// The generation is not the group's current one (classic protocol).
    IllegalGeneration = 64, false, NotApplied;
    /// The group is rebalancing: join again (classic protocol).
    RebalanceInProgress = 65, true, NotApplied;
    /// The member shares no protocol with the group, or the group is of the other kind and can't be converted.
    InconsistentGroupProtocol = 66, false, NotApplied;
    /// Outside `group.min.session.timeout.ms` .. `group.max.session.timeout.ms`.
    InvalidSessionTimeout = 67, false, NotApplied;
    /// Another member has taken over this `group.instance.id`.
    FencedInstanceId = 68, false, NotApplied;
    /// The `group.instance.id` still belongs to another live member.
    UnreleasedInstanceId = 69, true, NotApplied;
    UnsupportedAssignor = 70, false, NotApplied;
    GroupMaxSizeReached = 71, false, NotApplied;
    /// The group still has members.
    NonEmptyGroup = 72, false, NotApplied;
    /// Offsets of a topic that the group is subscribed to can't be deleted.
    GroupSubscribedToTopic = 73, false, NotApplied;
    OffsetMetadataTooLarge = 74, false, NotApplied;
    /// Join again with the member id of this answer (classic protocol, KIP-394).
    MemberIdRequired = 75, true, NotApplied;
    InvalidRegularExpression = 76, false, NotApplied;
    /// An offset asked for with `require_stable` is part of an open transaction (KIP-447).
    UnstableOffsetCommit = 77, true, NotApplied;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_are_unique() {
        let mut numbers = std::collections::BTreeSet::new();
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
            assert!(numbers.insert(code.number()), "{code} shares its number");
        }
        assert_eq!(ErrorCode::from_number(0), None);
    }
}
