//! What a partition says of itself.

use highwater_replication::ReplicaProgress;
use highwater_types::{LeaderEpoch, Offset};

use super::{Partition, PartitionError, Role};

/// A partition as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    pub leader_epoch: LeaderEpoch,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
    pub size_bytes: u64,
    pub replicas: Vec<ReplicaProgress>,
}

/// What one replica has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaSize {
    pub bytes: u64,
    /// Committed records that it is known to lack.
    pub lacks: u64,
}

impl Partition {
    /// Whatever its role; fails if the log can't be used.
    pub fn replica_size(&self) -> Result<ReplicaSize, PartitionError> {
        let state = self.lock();
        let log = state.log()?;
        let lacks = match &state.role {
            Role::Follower(follower) => follower.lacks(log.end_offset()),
            Role::Leader(_) | Role::None => 0,
        };
        Ok(ReplicaSize { bytes: log.size_bytes(), lacks })
    }

    /// At the leader.
    pub fn describe(&self) -> Result<PartitionDescription, PartitionError> {
        let mut state = self.lock();
        let (leader, log) = state.leading(self.env.me, LeaderEpoch::NONE)?;
        Ok(PartitionDescription {
            leader_epoch: leader.leader_epoch(),
            log_start: log.start_offset(),
            high_watermark: leader.high_watermark(),
            log_end: log.end_offset(),
            size_bytes: log.size_bytes(),
            replicas: leader.progress(),
        })
    }

    /// Whatever its role: where this replica's log starts, ends, is on disk, and how far it is known to be committed.
    pub fn positions(&self) -> Result<(highwater_replication::LogEnds, Offset), PartitionError> {
        let state = self.lock();
        Ok((super::log_ends(state.log()?), state.high_watermark()))
    }
}
