//! What a follower asks and acknowledges, and whether its log is a prefix of the leader's.

use highwater_record::EpochHistory;
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerEpoch, BrokerId, LeaderEpoch, Offset};

use crate::error::FetchError;
use crate::leader::Effects;
use crate::view::LogEnds;

/// One partition's entry of a follower's fetch request: the only acknowledgement there is (TRAPS T7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFetch {
    pub follower: BrokerId,
    /// The incarnation that asks (KIP-903).
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    /// The follower's log end offset.
    pub fetch_offset: Offset,
    /// The follower's log is on its disk below this.
    pub durable_offset: Offset,
    /// Leader epoch of the follower's last record; `NONE` for an empty log.
    pub last_fetched_epoch: LeaderEpoch,
    pub log_start_offset: Offset,
    /// It had no space for what it was sent last (TRAPS T46).
    pub disk_full: bool,
}

/// A leader epoch and the offset at which it ends in the leader's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end: Offset,
}

/// What a leader makes of a fetch entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOutcome {
    /// Set: the logs diverge, nothing was acknowledged, and the follower gets this in place of records.
    pub diverging: Option<EpochEnd>,
    pub effects: Effects,
}

/// The epoch of the last record; `NONE` for an empty log. Not the history's latest, which may have no record yet.
pub fn last_epoch(epochs: &EpochHistory, log: LogEnds) -> LeaderEpoch {
    if log.is_empty() {
        return LeaderEpoch::NONE;
    }
    epochs.epoch_at(Offset::new(log.end.get() - 1)).unwrap_or(LeaderEpoch::NONE)
}

/// Whether a log with `fetch.fetch_offset` as end and `fetch.last_fetched_epoch` as its last epoch is a prefix of this
/// one (KIP-595): `Ok(None)` if so; else the largest epoch not greater and its end (TRAPS T2), to which to truncate.
pub(crate) fn divergence(
    fetch: &FollowerFetch,
    epochs: &EpochHistory,
    log: LogEnds,
) -> Result<Option<EpochEnd>, FetchError> {
    let out_of_range = || {
        let FollowerFetch { follower, fetch_offset: asked, .. } = *fetch;
        Err(FetchError::OffsetOutOfRange { follower, asked, start: log.start, end: log.end })
    };
    if fetch.fetch_offset < log.start {
        return out_of_range();
    }
    if fetch.last_fetched_epoch == LeaderEpoch::NONE {
        return if fetch.fetch_offset > log.end { out_of_range() } else { Ok(None) };
    }
    if mutation::is_on(Mutation::SkipDivergenceCheck)
        || (mutation::is_on(Mutation::TruncateByHighWatermark) && fetch.fetch_offset <= log.end)
    {
        return Ok(None);
    }
    match epochs.end_of(fetch.last_fetched_epoch, log.end) {
        Some((epoch, end)) if epoch < fetch.last_fetched_epoch || end < fetch.fetch_offset => {
            Ok(Some(EpochEnd { epoch, end }))
        }
        Some(_) => Ok(None),
        // All that the leader still has is of later epochs than the follower's last record: nothing in common.
        None => out_of_range(),
    }
}
