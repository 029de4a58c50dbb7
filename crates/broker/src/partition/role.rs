//! What the controller decided: leading, following, or neither.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use highwater_metadata::PartitionLogEnd;
use highwater_replication::{AliveBrokers, Follower, Leader, LeaderConfig, PartitionView, last_epoch};
use highwater_storage::{AppendError, LogConfig};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, TopicConfig};

use super::{FollowChange, News, Partition, Role, State, Storage, Wakes, log_ends};

/// Few read from a follower, and the page cache has what they read. What it was sent would keep whole network buffers in
/// memory.
const FOLLOWER_CACHE_BYTES: usize = 0;

/// A decision about one partition, with the configuration and the brokers of the same image (T16).
pub(crate) struct Assignment {
    pub view: PartitionView,
    pub config: Arc<TopicConfig>,
    /// Of a topic of the cluster's own, which coordinators alone write to.
    pub internal: bool,
    /// Unfenced brokers that are not shutting down, in their newest incarnations.
    pub alive: AliveBrokers,
}

impl Partition {
    /// Takes the controller's newest decision. Decisions come in the order of metadata versions.
    pub(crate) fn assign(self: &Arc<Self>, assignment: &Assignment) {
        self.internal.store(assignment.internal, Ordering::Relaxed);
        self.batch_bytes_max.store(assignment.config.max_message_bytes, Ordering::Relaxed);
        self.keys_required.store(assignment.config.cleanup_policy.compacts(), Ordering::Relaxed);
        self.with(|state, wakes| state.assign(self, assignment, wakes));
    }

    /// The partition is deleted here, or the broker stops taking part: everybody who waits is told, and nothing is served any
    /// more. The log stays open if it is yet to be closed in order.
    pub(crate) fn retire(self: &Arc<Self>, delete: bool) {
        self.with(|state, wakes| {
            state.end_role(self, wakes);
            state.give_up_waiters(wakes);
            state.view = None;
            if delete {
                state.storage = Storage::Closed;
            }
            wakes.news(&state.subscriptions, News::ROLE);
        });
    }

    /// Where this replica's log ends, for an unclean election: certain only while it follows nobody and leads nothing.
    pub(crate) fn log_end_to_report(&self) -> Option<PartitionLogEnd> {
        let state = self.lock();
        match (&state.role, &state.storage) {
            (Role::None, Storage::Open(log)) => Some(PartitionLogEnd {
                partition: self.tp,
                last_epoch: last_epoch(log.epochs(), log_ends(log)),
                log_end_offset: log.end_offset(),
            }),
            _ => None,
        }
    }
}

impl State {
    fn assign(&mut self, partition: &Arc<Partition>, assignment: &Assignment, wakes: &mut Wakes) {
        let Assignment { view, config, alive, .. } = assignment;
        if self.config != *config {
            self.config = Arc::clone(config);
            if let Storage::Open(log) = &mut self.storage {
                let changed = log.config().clone().with_topic(config);
                log.update_config(changed);
                if self.must_sync() {
                    // What was appended under another durability counts once it is on disk.
                    wakes.flush();
                }
            }
        }
        let leader_config = LeaderConfig::new(
            config.min_insync_effective(view.replicas.len()),
            config.durability,
            partition.env.replica_lag_time_max,
        );
        if let (Some(before), true) = (&self.view, view.leader == Some(partition.env.me)) {
            partition.env.metrics.isr_changed(&before.isr, &view.isr);
        }
        self.view = Some(view.clone());
        match (view.leader, &mut self.role) {
            (Some(id), Role::Leader(leader))
                if id == partition.env.me && leader.leader_epoch() == view.leader_epoch =>
            {
                let effects = leader.on_view(view, leader_config, alive, partition.env.clock.now());
                self.carry_out(partition, effects, wakes);
                self.finish_deletes();
            }
            (Some(id), _) if id == partition.env.me => self.lead(partition, view, leader_config, alive, wakes),
            (Some(_), Role::Follower(follower)) if follower.view().leader_epoch == view.leader_epoch => {
                follower.on_view(view);
                if follower.readable_below().is_none() {
                    // T25: who waits here has to read elsewhere.
                    wakes.fetches(self.fetching.take());
                }
            }
            (Some(leader), _) => self.follow(partition, leader, view, wakes),
            (None, Role::None) => {}
            (None, _) => {
                tracing::debug!(partition = %partition.tp, epoch = %view.leader_epoch, "no leader");
                self.end_role(partition, wakes);
                wakes.news(&self.subscriptions, News::ROLE);
            }
        }
    }

    fn lead(
        &mut self,
        partition: &Arc<Partition>,
        view: &PartitionView,
        config: LeaderConfig,
        alive: &AliveBrokers,
        wakes: &mut Wakes,
    ) {
        let high_watermark = self.high_watermark();
        self.end_role(partition, wakes);
        wakes.news(&self.subscriptions, News::ROLE);
        self.set_cache_bytes(partition.env.cache_bytes);
        let Storage::Open(log) = &mut self.storage else { return };
        match log.begin_epoch(view.leader_epoch) {
            // Without space the epoch is written down by the first append, which is where it starts in any case.
            Ok(()) | Err(AppendError::DiskFull) => {}
            Err(error) => {
                tracing::error!(partition = %partition.tp, epoch = %view.leader_epoch, %error, "can't lead");
                return wakes.unusable();
            }
        }
        wakes.flush();
        let ends = log_ends(log);
        let env = &partition.env;
        let (leader, effects) = Leader::new(env.me, view, config, ends, high_watermark, alive, env.clock.now());
        tracing::debug!(partition = %partition.tp, epoch = %view.leader_epoch, end = %ends.end, "leading");
        self.role = Role::Leader(Box::new(leader));
        self.counted_to = high_watermark;
        env.metrics.leaderships.inc();
        self.carry_out(partition, effects, wakes);
    }

    fn follow(&mut self, partition: &Arc<Partition>, leader: BrokerId, view: &PartitionView, wakes: &mut Wakes) {
        let high_watermark = self.high_watermark();
        self.end_role(partition, wakes);
        wakes.news(&self.subscriptions, News::ROLE);
        let Storage::Open(log) = &mut self.storage else { return };
        // T3: an epoch that this replica led without writing is over; the new leader may send records of older ones.
        let by_high_watermark = mutation::is_on(Mutation::TruncateByHighWatermark);
        if let Err(error) = log.truncate_to(if by_high_watermark { high_watermark } else { log.end_offset() }) {
            tracing::error!(partition = %partition.tp, epoch = %view.leader_epoch, %error, "can't follow");
            return wakes.unusable();
        }
        let follower = Follower::new(partition.env.me, view, log_ends(log), high_watermark);
        tracing::debug!(partition = %partition.tp, epoch = %view.leader_epoch, %leader, "following");
        self.role = Role::Follower(Box::new(follower));
        let change = FollowChange { partition: Arc::clone(partition), leader: Some(leader) };
        // Without anybody to fetch, the broker is ending.
        let _ = partition.env.following.send(change);
    }

    fn set_cache_bytes(&mut self, cache_bytes: usize) {
        if let Storage::Open(log) = &mut self.storage {
            let config = LogConfig { cache_bytes, ..log.config().clone() };
            log.update_config(config);
        }
    }

    /// Who reads from the present role is told that it is over.
    fn end_role(&mut self, partition: &Arc<Partition>, wakes: &mut Wakes) {
        let high_watermark = self.high_watermark();
        self.leave_waiters_behind(partition, wakes);
        match std::mem::replace(&mut self.role, Role::None) {
            Role::Follower(_) => {
                let change = FollowChange { partition: Arc::clone(partition), leader: None };
                let _ = partition.env.following.send(change);
            }
            Role::Leader(_) | Role::None => {}
        }
        self.set_cache_bytes(FOLLOWER_CACHE_BYTES);
        if let Storage::Open(log) = &mut self.storage {
            log.note_high_watermark(high_watermark);
        }
    }
}
