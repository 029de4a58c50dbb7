//! The settings of a leader.

use std::time::Duration;

use highwater_types::Durability;
use highwater_types::mutation::{self, Mutation};

/// Topic and broker settings that matter to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderConfig {
    /// `min.insync.replicas`, bounded by the replication factor (`TopicConfig::min_insync_effective`, TRAPS T15).
    pub min_insync: usize,
    /// Which of a follower's positions is its acknowledgement.
    pub durability: Durability,
    /// A member of the ISR that is behind for longer leaves it.
    pub lag_time_max: Duration,
    /// Pause after a proposal that was refused or got no answer.
    pub proposal_backoff: Duration,
    /// How long after a proposal was given up it may still reach the controller: longer than the call's deadline.
    pub proposal_lifetime: Duration,
}

impl LeaderConfig {
    pub fn new(min_insync: usize, durability: Durability, lag_time_max: Duration) -> Self {
        let durability = if mutation::is_on(Mutation::AckBeforeSync) { Durability::Replicated } else { durability };
        Self {
            min_insync,
            durability,
            lag_time_max,
            proposal_backoff: Duration::from_millis(200),
            proposal_lifetime: Duration::from_secs(10),
        }
    }
}
