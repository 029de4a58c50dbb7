//! One replica of one partition: its log, its role, and who waits for it.
//!
//! Everything here is synchronous and under one mutex: a call costs page-cache time at most, fsync and cold reads are handed
//! out as jobs to be run outside. What `highwater-replication` decides is carried out under the same lock under which it was
//! asked; whoever is to be woken is collected and woken after it.
//!
//! **Invariants**
//! - Appends happen as leader in the leader epoch of the newest view only, and all checks come before them.
//! - A waiter for an acknowledgement is completed exactly once: by the high watermark (or the disk), or given up when its
//!   records are cut, or not heard of for long after this broker stopped leading.
//! - Consumers get nothing from the high watermark on (T26).

mod append;
mod compact;
mod coordinate;
mod describe;
mod error;
mod fetch;
mod fetch_waiters;
mod follow;
mod gauges;
mod heal;
mod idle;
mod marker;
mod offsets;
mod outcomes;
mod role;
mod subscription;
mod sync;
mod wakes;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use highwater_record::EpochHistory;
use highwater_replication::{AckQueue, Effects, Follower, Leader, LogEnds, PartitionView, Proposal, ProposalOutcome};
use highwater_storage::{DataDir, FlushHandle, Flusher, Log};
use highwater_types::{BrokerId, Durability, LeaderEpoch, Offset, TopicConfig, TopicPartition};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use append::ToAppend;
pub use coordinate::{LeaderPositions, OwnAppend};
pub use describe::{PartitionDescription, ReplicaSize};
pub use error::PartitionError;
pub(crate) use fetch::ReadBounds;
pub use fetch::{FetchFrom, Near, PartitionRead, ReadRecords};
pub use fetch_waiters::FetchWaiter;
pub use follow::{Followed, ReplicaRead};
pub use marker::{EndedBy, TransactionEnd};
pub use offsets::{FoundOffset, OffsetAt};
pub(crate) use role::Assignment;
pub use subscription::{DirtySet, News, Subscription};

use crate::clock::Clock;
use crate::metrics::{BrokerMetrics, TopicCounters};
use crate::produce::AckWaiter;
use crate::transaction::verify::{Verifications, Verifier};
use fetch_waiters::FetchWaiters;
use idle::IdleProducers;
use wakes::Wakes;

/// An ISR proposal of one partition, on its way to the controller; its end comes back by
/// [`Partition::on_proposal_result`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrProposal {
    pub partition: TopicPartition,
    pub proposal: Proposal,
}

/// A change of what this broker follows.
#[derive(Clone)]
pub struct FollowChange {
    pub partition: Arc<Partition>,
    /// Whom to fetch from; `None`: nobody any more.
    pub leader: Option<BrokerId>,
}

/// What all partitions of a broker share.
pub(crate) struct PartitionEnv {
    pub me: BrokerId,
    pub clock: Clock,
    pub replica_lag_time_max: Duration,
    /// For the newest batches of a log that this broker leads.
    pub cache_bytes: usize,
    pub proposals: mpsc::UnboundedSender<IsrProposal>,
    pub following: mpsc::UnboundedSender<FollowChange>,
    /// What can't be served has changed.
    pub unusable: Notify,
    /// Set once this broker can reach the others.
    pub verifier: OnceLock<Arc<dyn Verifier>>,
    pub metrics: Arc<BrokerMetrics>,
}

/// See the module.
pub struct Partition {
    tp: TopicPartition,
    env: Arc<PartitionEnv>,
    dir: Arc<DataDir>,
    flush: OnceLock<FlushHandle>,
    batch_bytes_max: AtomicU32,
    /// Its topic is compacted.
    keys_required: AtomicBool,
    internal: AtomicBool,
    counters: Arc<TopicCounters>,
    state: Mutex<State>,
}

struct State {
    storage: Storage,
    role: Role,
    /// The newest decision of the controller; `None` before the first.
    view: Option<PartitionView>,
    config: Arc<TopicConfig>,
    /// `acks=all`.
    committing: AckQueue<AckWaiter>,
    /// Set while this broker does not lead and `committing` is not empty: when to give up.
    outcome_by: Option<Duration>,
    /// `acks=leader`: by the end of what was appended, to be on this replica's disk.
    syncing: AckQueue<AckWaiter>,
    fetching: FetchWaiters,
    /// First records of transactions, until their coordinators say that they are welcome.
    verifying: Verifications<ToAppend>,
    idle_producers: IdleProducers,
    /// Delete-records: until every in-sync replica's log starts there.
    deleting: Vec<(Offset, oneshot::Sender<()>)>,
    /// Whoever waits for the sync that is running.
    sync_ended: Vec<oneshot::Sender<()>>,
    subscriptions: Vec<Arc<Subscription>>,
    /// As leader: the high watermark up to which advances are counted.
    counted_to: Offset,
}

enum Storage {
    Open(Box<Log>),
    /// The log could not be opened.
    Unusable(Arc<str>),
    /// The partition was deleted, or the broker stops.
    Closed,
}

enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

impl Partition {
    /// With its log open, and no role yet.
    pub(crate) fn new(
        tp: TopicPartition,
        env: Arc<PartitionEnv>,
        log: Log,
        dir: Arc<DataDir>,
        flusher: &Flusher,
    ) -> Arc<Self> {
        let this = Arc::new(Self::with_storage(tp, env, dir, Storage::Open(Box::new(log))));
        let handle = flusher.handle(&this);
        // After an unclean stop what was found counts as durable only once it was synced.
        handle.request();
        // Just made: empty.
        let _ = this.flush.set(handle);
        this
    }

    /// Whose log can't be opened: it says so, and does nothing.
    pub(crate) fn unusable(tp: TopicPartition, env: Arc<PartitionEnv>, dir: Arc<DataDir>, why: &str) -> Arc<Self> {
        Arc::new(Self::with_storage(tp, env, dir, Storage::Unusable(why.into())))
    }

    fn with_storage(tp: TopicPartition, env: Arc<PartitionEnv>, dir: Arc<DataDir>, storage: Storage) -> Self {
        let config = Arc::new(TopicConfig::default());
        let counters = env.metrics.topics.of(tp.topic);
        Self {
            tp,
            env,
            dir,
            flush: OnceLock::new(),
            batch_bytes_max: AtomicU32::new(config.max_message_bytes),
            keys_required: AtomicBool::new(false),
            internal: AtomicBool::new(false),
            counters,
            state: Mutex::new(State {
                storage,
                role: Role::None,
                view: None,
                config,
                committing: AckQueue::new(),
                outcome_by: None,
                syncing: AckQueue::new(),
                fetching: FetchWaiters::default(),
                verifying: Verifications::default(),
                idle_producers: IdleProducers::default(),
                deleting: Vec::new(),
                sync_ended: Vec::new(),
                subscriptions: Vec::new(),
                counted_to: Offset::ZERO,
            }),
        }
    }

    pub fn tp(&self) -> TopicPartition {
        self.tp
    }
    pub(crate) fn counters(&self) -> &TopicCounters {
        &self.counters
    }
    pub(crate) fn dir(&self) -> &Arc<DataDir> {
        &self.dir
    }
    /// Whether coordinators alone write to it.
    pub(crate) fn is_internal(&self) -> bool {
        self.internal.load(Ordering::Relaxed)
    }
    /// Whether producers must give every record a key.
    pub(crate) fn keys_required(&self) -> bool {
        self.keys_required.load(Ordering::Relaxed)
    }
    /// Largest batch that a producer may send.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max.load(Ordering::Relaxed) as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` under the lock, and wakes after it who is to be woken.
    fn with<T>(&self, work: impl FnOnce(&mut State, &mut Wakes) -> T) -> T {
        let mut wakes = Wakes::default();
        let result = work(&mut self.lock(), &mut wakes);
        wakes.run(self);
        result
    }

    fn request_flush(&self) {
        if let Some(flush) = self.flush.get() {
            flush.request();
        }
    }

    /// From here on `subscription` is marked when something is new, until it is unsubscribed or gone.
    pub fn subscribe(&self, subscription: Arc<Subscription>) {
        self.lock().subscriptions.push(subscription);
    }

    pub fn unsubscribe(&self, subscription: &Arc<Subscription>) {
        self.lock().subscriptions.retain(|one| !Arc::ptr_eq(one, subscription));
    }

    /// Refuses what [`Partition::append`] would refuse for not leading.
    pub(crate) fn check_leads(&self, asked: LeaderEpoch) -> Result<(), PartitionError> {
        self.lock().leading(self.env.me, asked).map(|_| ())
    }

    /// The controller's answer to the last proposal, or that there was none.
    pub fn on_proposal_result(&self, proposal: &Proposal, outcome: ProposalOutcome) {
        self.with(|state, wakes| {
            let now = self.env.clock.now();
            if let Role::Leader(leader) = &mut state.role
                && leader.leader_epoch() == proposal.leader_epoch
            {
                let effects = leader.on_proposal_result(proposal.partition_epoch, outcome, now);
                state.carry_out(self, effects, wakes);
            }
        });
    }

    /// Time has passed.
    pub(crate) fn tick(&self) {
        self.with(|state, wakes| {
            let now = self.env.clock.now();
            state.give_up_late_waiters(now, wakes);
            if let Role::Leader(leader) = &mut state.role {
                let effects = leader.tick(now);
                state.carry_out(self, effects, wakes);
            }
        });
    }

    /// Whether this broker leads it.
    pub fn is_leader(&self) -> bool {
        matches!(self.lock().role, Role::Leader(_))
    }
}

impl State {
    fn log(&self) -> Result<&Log, PartitionError> {
        match &self.storage {
            Storage::Open(log) => Ok(log),
            Storage::Unusable(why) => Err(PartitionError::Unusable(why.clone())),
            Storage::Closed => Err(PartitionError::ShuttingDown),
        }
    }

    fn log_mut(&mut self) -> Result<&mut Log, PartitionError> {
        match &mut self.storage {
            Storage::Open(log) => Ok(log),
            Storage::Unusable(why) => Err(PartitionError::Unusable(why.clone())),
            Storage::Closed => Err(PartitionError::ShuttingDown),
        }
    }

    /// The leader and its log, if this broker leads and `asked` is the epoch it leads in (or not stated).
    fn leading(&mut self, me: BrokerId, asked: LeaderEpoch) -> Result<(&mut Leader, &mut Log), PartitionError> {
        // Decided before anything is borrowed for the answer.
        let current = match &self.role {
            Role::Leader(leader) => leader.leader_epoch(),
            _ => return Err(self.not_leading(me, asked)),
        };
        if asked != LeaderEpoch::NONE && asked != current {
            return Err(if asked < current {
                PartitionError::FencedLeaderEpoch { asked, current, leader: Some(me) }
            } else {
                PartitionError::UnknownLeaderEpoch { asked, current }
            });
        }
        match (&mut self.role, &mut self.storage) {
            (Role::Leader(leader), Storage::Open(log)) => Ok((leader, log)),
            (_, Storage::Unusable(why)) => Err(PartitionError::Unusable(why.clone())),
            _ => Err(PartitionError::ShuttingDown),
        }
    }

    fn not_leading(&self, me: BrokerId, asked: LeaderEpoch) -> PartitionError {
        let Some(view) = &self.view else {
            return PartitionError::NotLeader { leader: None, leader_epoch: LeaderEpoch::NONE };
        };
        let current = view.leader_epoch;
        if asked > current {
            return PartitionError::UnknownLeaderEpoch { asked, current };
        }
        match (view.leader, &self.storage) {
            (None, _) => PartitionError::NoLeader { leader_epoch: current },
            (Some(leader), Storage::Unusable(why)) if leader == me => PartitionError::Unusable(why.clone()),
            (Some(leader), _) if leader == me => PartitionError::ShuttingDown,
            (leader, _) => PartitionError::NotLeader { leader, leader_epoch: current },
        }
    }

    /// As far as this replica knows.
    fn high_watermark(&self) -> Offset {
        match (&self.role, &self.storage) {
            (Role::Leader(leader), _) => leader.high_watermark(),
            (Role::Follower(follower), _) => follower.high_watermark(),
            (Role::None, Storage::Open(log)) => log.checkpointed_hw(),
            (Role::None, _) => Offset::ZERO,
        }
    }

    fn carry_out(&mut self, partition: &Partition, effects: Effects, wakes: &mut Wakes) {
        let Effects { high_watermark, propose_isr } = effects;
        if let Some(proposal) = propose_isr {
            let proposal = IsrProposal { partition: partition.tp, proposal };
            // Without anybody to carry it, the broker is ending.
            let _ = partition.env.proposals.send(proposal);
        }
        if let Some(high_watermark) = high_watermark {
            let advanced = high_watermark.get() - self.counted_to.get();
            partition.counters.committed.add(u64::try_from(advanced).unwrap_or(0));
            self.counted_to = high_watermark;
            if let Storage::Open(log) = &mut self.storage {
                log.note_high_watermark(high_watermark);
            }
            let has_min_isr = matches!(&self.role, Role::Leader(leader) if leader.has_min_isr());
            wakes.acknowledged(self.committing.complete(high_watermark, has_min_isr));
            wakes.fetches(self.fetching.take());
            wakes.news(&self.subscriptions, News::POSITIONS);
        }
    }
}

fn log_ends(log: &Log) -> LogEnds {
    LogEnds::new(log.start_offset(), log.end_offset(), log.durable_offset())
}

/// Whether appends must be synced before they count.
fn must_sync(config: &TopicConfig) -> bool {
    config.durability == Durability::Sync
}

/// The largest epoch that is `asked` or less and where it ends, if `asked` with an end at `offset` is not a prefix of this
/// log (T2).
fn divergence_of_reader(
    epochs: &EpochHistory,
    log_end: Offset,
    asked: LeaderEpoch,
    offset: Offset,
) -> Option<highwater_replication::EpochEnd> {
    let (epoch, end) = epochs.end_of(asked, log_end)?;
    (epoch < asked || end < offset).then_some(highwater_replication::EpochEnd { epoch, end })
}
