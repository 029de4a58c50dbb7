//! What a partition is measured by.

use std::time::Duration;

use super::{Partition, Role, Storage};

/// As it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartitionGauges {
    pub is_unusable: bool,
    pub size_bytes: u64,
    /// `None`: this broker does not lead it.
    pub led: Option<LedGauges>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedGauges {
    pub is_under_replicated: bool,
    pub is_under_min_isr: bool,
    /// Of the follower that is furthest behind, in offsets.
    pub lag_records: u64,
    /// The longest that a follower has not had everything; of one that was never seen to: none.
    pub lag: Duration,
}

impl Partition {
    pub(crate) fn gauges(&self) -> PartitionGauges {
        let is_unusable = self.unusable_because().is_some();
        let state = self.lock();
        let Storage::Open(log) = &state.storage else {
            return PartitionGauges { is_unusable, ..PartitionGauges::default() };
        };
        let led = match &state.role {
            Role::Leader(leader) => {
                let progress = leader.progress();
                let behind = |end: highwater_types::Offset| log.end_offset().get() - end.get();
                let lags = progress.iter().map(|one| behind(one.log_end.unwrap_or(log.start_offset())));
                Some(LedGauges {
                    is_under_replicated: leader.isr().len() < leader.view().replicas.len(),
                    is_under_min_isr: !leader.has_min_isr(),
                    lag_records: lags.max().and_then(|lag| u64::try_from(lag).ok()).unwrap_or(0),
                    lag: progress.iter().filter_map(|one| one.behind_for).max().unwrap_or_default(),
                })
            }
            _ => None,
        };
        PartitionGauges { is_unusable, size_bytes: log.size_bytes(), led }
    }
}
