//! What a replica knows of its partition: the controller's decision, and its own log.

use highwater_types::{BrokerId, LeaderEpoch, Offset, PartitionEpoch};

/// The controller's decision about one partition, at one partition epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): outside the ISR, yet with every committed record.
    pub elr: Vec<BrokerId>,
    /// Replicas whose disk can't serve the partition, by what they say: they can't join the ISR.
    pub unusable: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// The leader came from an unclean election and has yet to say that it is ready for others to join.
    pub recovering: bool,
}

/// The positions of one replica's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnds {
    /// First offset still there.
    pub start: Offset,
    /// Offset that the next record gets (LEO).
    pub end: Offset,
    /// Everything below is on this replica's disk. At most `end`.
    pub durable: Offset,
}

impl LogEnds {
    pub const fn new(start: Offset, end: Offset, durable: Offset) -> Self {
        Self { start, end, durable }
    }
    pub const fn is_empty(&self) -> bool {
        self.start.get() >= self.end.get()
    }
}
