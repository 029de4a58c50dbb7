//! A follower of one partition in one leader epoch: what to ask, and what to do with the answers.

use highwater_record::EpochHistory;
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};

use crate::fetch::{EpochEnd, FollowerFetch, last_epoch};
use crate::view::{LogEnds, PartitionView};

/// The fetch entry that an answer is for. What throws records away is believed only while the log still ends as it did
/// then: a late or repeated answer must not cut what has been acknowledged since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub leader_epoch: LeaderEpoch,
    pub fetch_offset: Offset,
    pub last_fetched_epoch: LeaderEpoch,
}

impl From<&FollowerFetch> for Asked {
    fn from(fetch: &FollowerFetch) -> Self {
        let FollowerFetch { leader_epoch, fetch_offset, last_fetched_epoch, .. } = *fetch;
        Self { leader_epoch, fetch_offset, last_fetched_epoch }
    }
}

/// What a leader answered for one partition, without the records' bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderResponse {
    pub asked: Asked,
    pub high_watermark: Offset,
    pub log_start_offset: Offset,
    pub diverging: Option<EpochEnd>,
    /// Base offset of the first record and the offset after the last; `None`: no records.
    pub records: Option<(Offset, Offset)>,
}

/// A leader's refusal for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderError {
    pub asked: Asked,
    pub code: ErrorCode,
    /// With `OffsetOutOfRange`: what the leader's log has.
    pub valid_offsets: Option<(Offset, Offset)>,
}

/// To be carried out in the given order; if one fails, the rest must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerEffect {
    /// Cut the log, its leader epochs and whatever is derived from records (TRAPS T3).
    TruncateTo(Offset),
    /// The log starts anew at this offset, empty; the high watermark is there, too (TRAPS T5).
    RestartAt(Offset),
    /// Append the records of the response.
    Append,
    /// The leader's log starts here by now.
    AdvanceStart(Offset),
    AdoptHighWatermark(Offset),
}

/// What an error of the leader asks of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerReaction {
    /// Somebody else leads, or in another epoch: fetch again once newer metadata says so.
    WaitForMetadata,
    /// Ask again after a pause.
    RetryLater,
    /// [`FollowerEffect::RestartAt`], then ask again at once.
    RestartAt(Offset),
    /// This incarnation of the broker is over as far as the leader knows: a new session must be opened.
    NewSession,
}

/// See the module. Made when the metadata names another broker leader in a new epoch; dropped when that epoch ends.
#[derive(Debug, Clone)]
pub struct Follower {
    me: BrokerId,
    view: PartitionView,
    high_watermark: Offset,
    /// As the leader has said last: this log may end before it.
    told_high_watermark: Offset,
}

impl Follower {
    /// `high_watermark`: as this replica knew it before.
    ///
    /// Before it, the caller truncates the log to its own end: an epoch that this replica led without writing is gone then
    /// (T3). What the new leader sends next may be older.
    pub fn new(me: BrokerId, view: &PartitionView, log: LogEnds, high_watermark: Offset) -> Self {
        let high_watermark = high_watermark.clamp(log.start, log.end);
        Self { me, view: view.clone(), high_watermark, told_high_watermark: high_watermark }
    }

    pub const fn view(&self) -> &PartitionView {
        &self.view
    }
    pub const fn leader(&self) -> Option<BrokerId> {
        self.view.leader
    }
    /// Of the committed records, as far as this replica has heard.
    pub const fn high_watermark(&self) -> Offset {
        self.high_watermark
    }
    /// Below which consumers may read here: a replica outside the ISR may serve nothing (TRAPS T26, KIP-392).
    pub fn readable_below(&self) -> Option<Offset> {
        self.view.isr.contains(&self.me).then_some(self.high_watermark)
    }

    /// Whether a consumer's fetch at `offset`, beyond the end of the log here, is of a record that is committed: then this
    /// replica has yet to get it. Otherwise there is no such offset, as far as is known here (KIP-392).
    pub fn is_yet_to_come(&self, offset: Offset) -> bool {
        offset <= self.told_high_watermark
    }

    /// Committed records that a log which ends at `end` is known to lack.
    pub fn lacks(&self, end: Offset) -> u64 {
        u64::try_from(self.told_high_watermark.get() - end.get()).unwrap_or(0)
    }

    /// A newer decision in the same leader epoch; older ones change nothing (TRAPS T13).
    pub fn on_view(&mut self, view: &PartitionView) {
        if view.leader_epoch == self.view.leader_epoch && view.partition_epoch > self.view.partition_epoch {
            self.view = view.clone();
        }
    }

    /// The entry to send: where this log ends, and so the acknowledgement of all before (TRAPS T7).
    pub fn fetch(&self, broker_epoch: BrokerEpoch, log: LogEnds, epochs: &EpochHistory) -> FollowerFetch {
        FollowerFetch {
            disk_full: false,
            follower: self.me,
            broker_epoch,
            leader_epoch: self.view.leader_epoch,
            fetch_offset: log.end,
            durable_offset: log.durable.min(log.end),
            last_fetched_epoch: last_epoch(epochs, log),
            log_start_offset: log.start,
        }
    }

    /// What an answer changes; empty for one of another leader epoch. The high watermark here has moved already when this
    /// returns: if an effect fails, say so by [`Follower::on_log_failure`].
    pub fn on_response(
        &mut self,
        response: &LeaderResponse,
        log: LogEnds,
        epochs: &EpochHistory,
    ) -> Vec<FollowerEffect> {
        if response.asked.leader_epoch != self.view.leader_epoch {
            return Vec::new();
        }
        self.told_high_watermark = response.high_watermark;
        if let Some(diverging) = response.diverging {
            if !self.still_ends_so(&response.asked, log, epochs) {
                return Vec::new();
            }
            let effect = self.truncation(diverging, response.log_start_offset, log, epochs);
            self.truncate(effect, log);
            // T4: nothing else of this answer. The log may diverge still (T2), below the leader's high watermark, too.
            return vec![effect];
        }
        let mut effects = Vec::with_capacity(3);
        let mut log = log;
        if let Some((base, next)) = response.records
            && (base == log.end || base < log.end && self.still_ends_so(&response.asked, log, epochs))
            && next > log.end
        {
            // Records from anywhere else answer a fetch from before a truncation. What was asked for may lie inside a batch that
            // compaction has made of several: the log takes the part that it lacks.
            log.end = next;
            effects.push(FollowerEffect::Append);
        }
        let start = response.log_start_offset.min(log.end);
        if start > log.start {
            effects.push(FollowerEffect::AdvanceStart(start));
            log.start = start;
        }
        let high_watermark = response.high_watermark.min(log.end).max(log.start);
        if high_watermark > self.high_watermark {
            self.high_watermark = high_watermark;
            effects.push(FollowerEffect::AdoptHighWatermark(high_watermark));
        }
        effects
    }

    /// What a refusal asks for. One of another leader epoch asks for nothing but a new entry.
    pub fn on_error(&mut self, error: &LeaderError, log: LogEnds, epochs: &EpochHistory) -> FollowerReaction {
        if error.asked.leader_epoch != self.view.leader_epoch {
            return FollowerReaction::RetryLater;
        }
        match error.code {
            ErrorCode::NotLeader
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownPartition => FollowerReaction::WaitForMetadata,
            ErrorCode::OffsetOutOfRange => match error.valid_offsets {
                Some((start, _)) if self.still_ends_so(&error.asked, log, epochs) => {
                    self.truncate(FollowerEffect::RestartAt(start), log);
                    FollowerReaction::RestartAt(start)
                }
                _ => FollowerReaction::RetryLater,
            },
            ErrorCode::StaleBrokerEpoch | ErrorCode::FetchSessionStale => FollowerReaction::NewSession,
            // The leader has yet to learn of its epoch; is short of something; its disk is offline or damaged (the
            // controller moves leadership); or it goes.
            _ => FollowerReaction::RetryLater,
        }
    }

    fn still_ends_so(&self, asked: &Asked, log: LogEnds, epochs: &EpochHistory) -> bool {
        asked.fetch_offset == log.end && asked.last_fetched_epoch == last_epoch(epochs, log)
    }

    /// An effect could not be carried out: what the log really is by now.
    pub fn on_log_failure(&mut self, log: LogEnds) {
        self.high_watermark = self.high_watermark.clamp(log.start, log.end);
    }

    /// T2 (KIP-279): cut to what both logs can have in common, and ask again with the epoch that is last then.
    fn truncation(
        &self,
        diverging: EpochEnd,
        leader_start: Offset,
        log: LogEnds,
        epochs: &EpochHistory,
    ) -> FollowerEffect {
        // All that is left here may be newer than what both have: then everything is cut, but the log still starts where
        // it did. It never goes back below what it deleted, as that was committed.
        let own_end = epochs.end_of(diverging.epoch, log.end).map_or(log.start, |(_, end)| end);
        let to = own_end.min(diverging.end);
        if to >= log.start.max(leader_start) {
            FollowerEffect::TruncateTo(to)
        } else {
            // Deleted at the leader by now; or an unclean election took what was committed.
            FollowerEffect::RestartAt(leader_start)
        }
    }

    /// The high watermark goes with the log.
    fn truncate(&mut self, effect: FollowerEffect, log: LogEnds) {
        match effect {
            FollowerEffect::TruncateTo(offset) => {
                self.high_watermark = self.high_watermark.min(offset.min(log.end));
            }
            FollowerEffect::RestartAt(offset) => self.high_watermark = offset,
            _ => {}
        }
    }
}
