//! What is asked of the transaction coordinator, and what it answers and wants done.

use std::collections::BTreeMap;

use highwater_record::TransactionResult;
use highwater_types::{LeaderEpoch, ProducerId, TimestampMs, TopicPartition, TransactionalId};

use super::TransactionState;
use crate::ProducerIdentity;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Makes the asker the producer of this transactional id: fences the one before, and aborts what it left open (until that
    /// is done the answer is `Completing`).
    InitProducerId {
        transactional_id: TransactionalId,
        timeout_ms: u32,
        /// What the asker has, to go on with it: refused if another one took over since. The same question asked again gets
        /// the same answer (KIP-360).
        current: Option<ProducerIdentity>,
        /// Never used before. It is taken if it is in the answer; after a failure it can't be known.
        fresh: ProducerId,
    },
    /// Adds partitions to the transaction of this epoch, which begins with the first. While one before, of the same epoch, is being
    /// completed, the answer waits for that; after 3 s it is `Completing`.
    AddPartitions {
        transactional_id: TransactionalId,
        producer: ProducerIdentity,
        partitions: Vec<TopicPartition>,
        /// Changes nothing: refused unless all are part of it.
        verify_only: bool,
    },
    /// Answered once it is decided for good. A transaction without partitions ends too. Asked again for the same result, the
    /// answer is the same.
    EndTransaction {
        transactional_id: TransactionalId,
        producer: ProducerIdentity,
        result: TransactionResult,
        /// As in `InitProducerId`: for when the epochs of the producer id are used up.
        fresh: ProducerId,
        /// The asker can't be told of another epoch: its next transaction has this one's.
        keeps_epoch: bool,
    },
    /// By who carries out [`Action::WriteMarkers`]: they are committed in these partitions, or the partitions are deleted.
    MarkersWritten {
        transactional_id: TransactionalId,
        /// As in the action.
        producer: ProducerIdentity,
        partitions: Vec<TopicPartition>,
    },
    ListTransactions,
    CountTransactions,
    DescribeTransaction {
        transactional_id: TransactionalId,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To `InitProducerId`.
    Producer(ProducerIdentity),
    PartitionsAdded,
    /// To `EndTransaction`.
    Ended {
        /// What the producer's next transaction uses.
        next: ProducerIdentity,
    },
    /// Also if there was nothing (more) to record.
    MarkersRecorded,
    Transactions(Vec<TransactionDescription>),
    /// By state.
    Counted(BTreeMap<&'static str, u64>),
    Transaction(TransactionDescription),
}

/// What is known of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionDescription {
    pub transactional_id: TransactionalId,
    pub producer: ProducerIdentity,
    pub state: TransactionState,
    pub timeout_ms: u32,
    /// `None`: no transaction is open.
    pub started_at: Option<TimestampMs>,
    /// Of the transaction that is open or being completed.
    pub partitions: Vec<TopicPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Have the end of a transaction written to these partitions, over and over until they have it, and report each by
    /// [`Request::MarkersWritten`]. Given once the result is committed, and again after each load until the transaction is
    /// complete: a partition can have its marker already. A partition that is deleted counts as done. Given up when the
    /// coordinator is fenced or unloaded.
    WriteMarkers {
        transactional_id: TransactionalId,
        /// The epoch is the one after the transaction's: with the marker the partitions refuse what comes late from it. A partition
        /// where this producer has that epoch already has the marker too, and must not take it again: the next
        /// transaction may be open there by now.
        producer: ProducerIdentity,
        result: TransactionResult,
        coordinator_epoch: LeaderEpoch,
        partitions: Vec<TopicPartition>,
        /// The epoch is the transaction's own: a partition where it is not open has the marker already. The next transaction
        /// begins once all of this one's markers are reported.
        keeps_epoch: bool,
    },
}
