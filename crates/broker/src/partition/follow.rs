//! Replication through this partition: what followers fetch from it as leader, and what it does with its leader's answers
//! as follower.

use highwater_record::Batch;
use highwater_replication::{EpochEnd, FollowerEffect, FollowerFetch, FollowerReaction, LeaderError, LeaderResponse};
use highwater_storage::ReadError;
use highwater_types::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset};

use super::{News, Partition, PartitionError, ReadRecords, Role, State, Storage, Wakes, log_ends};

/// What a leader has for a follower.
pub struct ReplicaRead {
    pub leader_epoch: LeaderEpoch,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Where the leader's log ends: more is there if the records end before it.
    pub log_end: Offset,
    /// Set: the logs diverge, nothing was acknowledged, and there are no records.
    pub diverging: Option<EpochEnd>,
    pub records: ReadRecords,
}

/// What taking a leader's answer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Records were appended. If not although some came, they answered a question that is not the present one.
    pub appended: bool,
    /// The log was cut: what to ask next has changed.
    pub truncated: bool,
    pub log_end: Offset,
}

impl Partition {
    /// A follower's entry: acknowledges, and reads from its fetch offset up to the log's end if `max_bytes` is not 0.
    pub fn replica_fetch(
        &self,
        fetch: &FollowerFetch,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReplicaRead, PartitionError> {
        self.with(|state, wakes| {
            // The epoch is checked by the leader, who tells the follower more precisely.
            let (leader, log) = match state.leading(self.env.me, LeaderEpoch::NONE) {
                Ok(found) => found,
                Err(_) => return Err(state.not_leading(self.env.me, fetch.leader_epoch)),
            };
            let outcome = leader.on_fetch(fetch, self.env.clock.now(), log.epochs())?;
            let (leader_epoch, log_start, log_end) = (leader.leader_epoch(), log.start_offset(), log.end_offset());
            let records = if outcome.diverging.is_some() || max_bytes == 0 {
                Ok(ReadRecords::None)
            } else {
                log.read(fetch.fetch_offset, log_end, max_bytes, at_least_one).map(ReadRecords::new)
            };
            state.carry_out(self, outcome.effects, wakes);
            state.finish_deletes();
            let high_watermark = state.high_watermark();
            let records = records.map_err(|error| match error {
                ReadError::Damaged(range) => PartitionError::Damaged(range),
                error => error.into(),
            })?;
            let diverging = outcome.diverging;
            Ok(ReplicaRead { leader_epoch, high_watermark, log_start, log_end, diverging, records })
        })
    }

    /// Reads up to the log's end for a follower whose entry was taken before; what it acknowledges is not looked at again.
    pub fn replica_read(
        &self,
        fetch: &FollowerFetch,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<ReplicaRead, PartitionError> {
        let mut state = self.lock();
        // T25: a long poll is of its leader epoch.
        let (leader, log) = state.leading(self.env.me, fetch.leader_epoch)?;
        let log_end = log.end_offset();
        let records = match log.read(fetch.fetch_offset, log_end, max_bytes, at_least_one) {
            Ok(plan) => ReadRecords::new(plan),
            Err(ReadError::Damaged(range)) => return Err(PartitionError::Damaged(range)),
            Err(error) => return Err(error.into()),
        };
        Ok(ReplicaRead {
            leader_epoch: leader.leader_epoch(),
            high_watermark: leader.high_watermark(),
            log_start: log.start_offset(),
            log_end,
            diverging: None,
            records,
        })
    }

    /// Reads the log as it is, whoever leads and whatever is committed.
    #[cfg(test)]
    pub(crate) fn read_log(&self, from: Offset, max_bytes: usize) -> Result<highwater_storage::ReadPlan, ReadError> {
        match &self.lock().storage {
            Storage::Open(log) => log.read(from, log.end_offset(), max_bytes, true),
            _ => Err(ReadError::Gone),
        }
    }

    /// The positions that followers are told of between records; `None` if this broker does not lead in `epoch`.
    pub fn replica_positions(&self, epoch: LeaderEpoch) -> Option<(Offset, Offset)> {
        match &*self.lock() {
            State { role: Role::Leader(leader), storage: Storage::Open(log), .. } if leader.leader_epoch() == epoch => {
                Some((leader.high_watermark(), log.start_offset()))
            }
            _ => None,
        }
    }

    /// The stream of a follower broke.
    pub fn on_replica_session_closed(&self, follower: BrokerId) {
        self.with(|state, wakes| {
            if let Role::Leader(leader) = &mut state.role {
                let effects = leader.on_session_closed(follower, self.env.clock.now());
                state.carry_out(self, effects, wakes);
            }
        });
    }

    /// What to ask the leader: the entry, and who leads. `None` while this broker follows nobody.
    pub fn follower_fetch(&self, broker_epoch: BrokerEpoch) -> Option<(BrokerId, FollowerFetch)> {
        match &*self.lock() {
            State { role: Role::Follower(follower), storage: Storage::Open(log), .. } => {
                let mut fetch = follower.fetch(broker_epoch, log_ends(log), log.epochs());
                // The leader counts on it: no crash may bring back what it is told to be gone.
                fetch.log_start_offset = log.durable_start_offset();
                follower.leader().map(|leader| (leader, fetch))
            }
            _ => None,
        }
    }

    /// Takes a leader's answer. `batches` are the records that came with it, whole and checked.
    pub fn on_leader_response(&self, response: &LeaderResponse, batches: &[Batch]) -> Result<Followed, PartitionError> {
        self.with(|state, wakes| {
            let (follower, log) = match (&mut state.role, &mut state.storage) {
                (Role::Follower(follower), Storage::Open(log)) => (follower, log),
                _ => return Err(state.not_leading(self.env.me, response.asked.leader_epoch)),
            };
            let effects = follower.on_response(response, log_ends(log), log.epochs());
            let followed = state.follow_effects(&effects, batches, wakes)?;
            if followed.appended {
                let bytes = batches.iter().map(|batch| batch.bytes().len() as u64).sum();
                self.env.metrics.replica_bytes_in.add(bytes);
            }
            Ok(followed)
        })
    }

    /// Takes a leader's error for this partition.
    pub fn on_leader_error(&self, error: &LeaderError) -> Result<FollowerReaction, PartitionError> {
        self.with(|state, wakes| {
            let (follower, log) = match (&mut state.role, &mut state.storage) {
                (Role::Follower(follower), Storage::Open(log)) => (follower, log),
                _ => return Ok(FollowerReaction::WaitForMetadata),
            };
            let reaction = follower.on_error(error, log_ends(log), log.epochs());
            if let FollowerReaction::RestartAt(offset) = reaction {
                tracing::warn!(partition = %self.tp, %offset, end = %log.end_offset(), "starting the log anew");
                state.follow_effects(&[FollowerEffect::RestartAt(offset)], &[], wakes)?;
            }
            Ok(reaction)
        })
    }
}

impl State {
    /// In order (T4); the first that fails ends it.
    fn follow_effects(
        &mut self,
        effects: &[FollowerEffect],
        batches: &[Batch],
        wakes: &mut Wakes,
    ) -> Result<Followed, PartitionError> {
        let must_sync = self.must_sync();
        let Storage::Open(log) = &mut self.storage else { return Err(PartitionError::ShuttingDown) };
        let mut followed = Followed { appended: false, truncated: false, log_end: log.end_offset() };
        let (mut adopted, mut start_moved) = (None, false);
        for effect in effects {
            let done = match *effect {
                FollowerEffect::TruncateTo(offset) => {
                    followed.truncated = true;
                    tracing::info!(partition = %log.partition(), %offset, end = %log.end_offset(), "truncating");
                    log.truncate_to(offset).map_err(PartitionError::from)
                }
                FollowerEffect::RestartAt(offset) => {
                    followed.truncated = true;
                    log.restart_at(offset).map_err(PartitionError::from)
                }
                FollowerEffect::Append => {
                    followed.appended = true;
                    wakes.news(&self.subscriptions, News::LOG_END);
                    log.append_follower(batches).map(|_| ()).map_err(PartitionError::from)
                }
                FollowerEffect::AdvanceStart(offset) => {
                    start_moved = true;
                    log.advance_start(offset).map_err(PartitionError::from)
                }
                FollowerEffect::AdoptHighWatermark(offset) => {
                    log.note_high_watermark(offset);
                    adopted = Some(offset);
                    Ok(())
                }
            };
            if let Err(error) = done {
                let ends = log_ends(log);
                if let Role::Follower(follower) = &mut self.role {
                    follower.on_log_failure(ends);
                }
                if !matches!(error.code(), ErrorCode::DiskFull) {
                    wakes.unusable();
                }
                if followed.truncated {
                    self.give_up_waiters(wakes);
                }
                return Err(error);
            }
        }
        followed.log_end = log.end_offset();
        if followed.truncated {
            self.give_up_waiters(wakes);
        }
        if let Some(high_watermark) = adopted {
            self.heard_of_high_watermark(high_watermark, wakes);
        }
        if followed.truncated || start_moved || (followed.appended && must_sync) {
            wakes.flush();
        }
        Ok(followed)
    }
}
