//! What a replica knows of its partition and of its own log.

use highwater_types::{BrokerId, LeaderEpoch, Offset, PartitionEpoch};

/// A partition's state as the controller last told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub elr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// The leader was elected uncleanly and has yet to say that it has recovered (KIP-704).
    pub recovering: bool,
}

/// The ends of a replica's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnds {
    /// The first offset there is.
    pub start: Offset,
    /// The offset after the last record.
    pub end: Offset,
    /// Everything below is on the disk; never above `end`.
    pub durable: Offset,
}
