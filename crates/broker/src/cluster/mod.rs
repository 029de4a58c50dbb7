//! The broker's link to the controllers: registration, liveness, metadata, ISR proposals and forwarded commands.
//!
//! One stream to the active controller carries the broker's signs of life out and the metadata in; every process has
//! exactly one [`ClusterLink`], and everything in the broker that depends on the cluster's state follows its image.
//!
//! Invariants:
//! - The published image only moves forward, by whole deltas; it is what the controllers committed, never a guess, and never older
//!   than what they had committed when they took the present registration: a process that starts shows nothing of the past (T48).
//! - The broker claims to have seen a version only once its partitions have applied it ([`ClusterLink::set_applied`]), so
//!   that it is unfenced with its logs open and what it can't serve reported.
//! - A process has one broker epoch for life. If the controllers gave its id to another process, it is over
//!   ([`LinkFatal`]).
//! - Losing the stream changes nothing for the broker's partitions: it finds the active controller again and goes on
//!   from the version it has, under the same epoch.

mod calls;
mod candidates;
mod convert;
mod image_watch;
mod peers;
mod proposals;
mod report;
mod session;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_metadata::{AlterPartition, AlteredPartition, ClusterImage, Endpoint, NamedEndpoint, PartitionLogEnd};
use highwater_protocol::v1;
use highwater_seams::Seams;
use highwater_types::{BrokerEpoch, BrokerId, IncarnationId, MetadataVersion, TopicPartition};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use image_watch::{ImageStep, ImageWatch};
pub use peers::Peers;

use report::Report;

/// What the link has to know and say of its broker.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    pub broker: BrokerId,
    /// Controllers to begin with; more are learned from the metadata.
    pub controllers: Vec<Endpoint>,
    pub client_endpoint: Endpoint,
    pub internal_endpoint: Endpoint,
    /// Of further front doors.
    pub listeners: Vec<NamedEndpoint>,
    pub rack: Option<String>,
    /// As the data dirs have it; `None`: they are new.
    pub cluster_id: Option<String>,
    /// The broker epoch of the clean-shutdown marker, if there was one.
    pub clean_shutdown: Option<BrokerEpoch>,
}

/// What topics get that are made without saying how many partitions and replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDefaults {
    pub partitions: u32,
    pub replication_factor: u32,
}

/// Where the link stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkStatus {
    /// `None` until first registered; never another one after.
    pub broker_epoch: Option<BrokerEpoch>,
    pub cluster_id: Option<String>,
    /// Of the controllers; `None` as long as none has said.
    pub topic_defaults: Option<TopicDefaults>,
    /// The active controller that the stream is open to.
    pub active: Option<Endpoint>,
    /// Leadership has moved away as far as it can.
    pub shutdown_complete: bool,
    pub fatal: Option<LinkFatal>,
}

/// Why the process can't be this broker (any more). It must stop, without claiming a clean shutdown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkFatal {
    #[error("another process has taken over as this broker: {0}")]
    Superseded(String),
    #[error("the cluster refuses this broker: {0}")]
    Refused(String),
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    pub sessions: AtomicU64,
    pub deltas: AtomicU64,
    pub snapshots: AtomicU64,
    /// Proposals, and the calls that carried them.
    pub proposals: AtomicU64,
    pub proposal_calls: AtomicU64,
    pub commands: AtomicU64,
}

impl LinkMetrics {
    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// What the tasks and the handles share.
struct Shared {
    config: LinkConfig,
    incarnation: IncarnationId,
    seams: Seams,
    peers: Peers,
    image: watch::Sender<Arc<ClusterImage>>,
    status: watch::Sender<LinkStatus>,
    report: Mutex<Report>,
    /// Something worth a heartbeat before its time.
    wake: Notify,
    metrics: LinkMetrics,
    cancel: CancellationToken,
}

impl Shared {
    fn image(&self) -> Arc<ClusterImage> {
        self.image.borrow().clone()
    }

    fn report<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// As the newest image has it; a process that is over counts as fenced.
    fn is_fenced(&self) -> bool {
        let (epoch, is_over) = {
            let status = self.status.borrow();
            (status.broker_epoch, status.fatal.is_some())
        };
        let image = self.image.borrow();
        is_over
            || image.broker(self.config.broker).is_none_or(|state| state.fenced || Some(state.broker_epoch) != epoch)
    }
}

/// A handle; clones share one link.
#[derive(Clone)]
pub struct ClusterLink {
    shared: Arc<Shared>,
    proposals: mpsc::UnboundedSender<Proposal>,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

/// An ISR proposal and who waits for what becomes of it.
struct Proposal {
    proposal: AlterPartition,
    /// A call with it ended without an answer: it may be on its way still, whatever a later call says.
    doubtful: bool,
    reply: oneshot::Sender<Result<AlteredPartition, v1::Error>>,
}

impl ClusterLink {
    /// Begins to look for the active controller, and stays with it until [`Self::close`]. Returns at once.
    pub fn start(config: LinkConfig, seams: Seams) -> Self {
        let incarnation = IncarnationId::from_u128(seams.entropy.next_u128().max(1));
        let shared = Arc::new(Shared {
            peers: Peers::new(Arc::clone(&seams.net)),
            incarnation,
            image: watch::Sender::new(Arc::default()),
            status: watch::Sender::new(LinkStatus { cluster_id: config.cluster_id.clone(), ..LinkStatus::default() }),
            report: Mutex::default(),
            wake: Notify::new(),
            metrics: LinkMetrics::default(),
            cancel: CancellationToken::new(),
            config,
            seams,
        });
        let (proposals, queue) = mpsc::unbounded_channel();
        let tasks = vec![
            tokio::spawn(session::keep(Arc::clone(&shared))),
            tokio::spawn(proposals::carry(Arc::clone(&shared), queue)),
        ];
        Self { shared, proposals, tasks: Arc::new(Mutex::new(tasks)) }
    }

    /// The newest image; an empty one of version 0 before the first.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.shared.image()
    }

    /// Every image from here on with what changed in it; begins with the whole of the present one, once there is one.
    /// Steps that follow each other faster than they are taken are merged.
    pub fn watch(&self) -> ImageWatch {
        ImageWatch::new(self.shared.image.subscribe(), self.shared.cancel.clone())
    }

    /// The bare stream of images.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.shared.image.subscribe()
    }

    /// Waits until there has been no active controller for `patience` on end, as far as this broker can tell.
    pub async fn adrift(&self, patience: Duration) {
        let mut status = self.status();
        loop {
            if status.wait_for(|status| status.active.is_none()).await.is_err() {
                return;
            }
            if tokio::time::timeout(patience, status.wait_for(|status| status.active.is_some())).await.is_err() {
                return;
            }
        }
    }

    /// Where the link stands, as it changes.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.shared.status.subscribe()
    }

    /// [`BrokerEpoch::NONE`] until first registered, the same ever after.
    pub fn broker_epoch(&self) -> BrokerEpoch {
        self.shared.status.borrow().broker_epoch.unwrap_or(BrokerEpoch::NONE)
    }

    /// Whether the newest image has this incarnation fenced, or does not have it.
    pub fn is_fenced(&self) -> bool {
        self.shared.is_fenced()
    }

    /// Resolves once registered, with the epoch and the cluster's id. `None`: the link ended before, by [`Self::close`] or
    /// for good ([`Self::fatal`]).
    pub async fn registered(&self) -> Option<(BrokerEpoch, String)> {
        let mut status = self.status();
        loop {
            {
                let status = status.borrow_and_update();
                if let (Some(epoch), Some(cluster_id)) = (status.broker_epoch, status.cluster_id.clone()) {
                    return Some((epoch, cluster_id));
                }
                if status.fatal.is_some() {
                    return None;
                }
            }
            tokio::select! {
                biased;
                () = self.shared.cancel.cancelled() => return None,
                changed = status.changed() => changed.ok()?,
            }
        }
    }

    /// Resolves once this incarnation is unfenced in the newest image. False: the link ended before.
    pub async fn unfenced(&self) -> bool {
        let mut images = self.subscribe();
        let mut status = self.status();
        while self.is_fenced() {
            if status.borrow_and_update().fatal.is_some() {
                return false;
            }
            let changed = tokio::select! {
                biased;
                () = self.shared.cancel.cancelled() => return false,
                changed = images.changed() => changed.is_ok(),
                changed = status.changed() => changed.is_ok(),
            };
            if !changed {
                return false;
            }
        }
        true
    }

    /// Resolves if the process can't be this broker any more; pending for ever otherwise.
    pub async fn fatal(&self) -> LinkFatal {
        let mut status = self.status();
        loop {
            if let Some(fatal) = status.borrow_and_update().fatal.clone() {
                return fatal;
            }
            if status.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The broker's partitions have applied the image of this version. Only then is it claimed, and at once: whoever gave a
    /// command waits until all brokers have.
    pub fn set_applied(&self, version: MetadataVersion) {
        if self.shared.report(|report| std::mem::replace(&mut report.applied, version) != version) {
            self.shared.wake.notify_one();
        }
    }

    /// All partitions whose data here is damaged or offline now. To be said before the version in which they are first
    /// seen is claimed with [`Self::set_applied`].
    pub fn set_unusable(&self, unusable: impl IntoIterator<Item = TopicPartition>) {
        let unusable = unusable.into_iter().collect();
        if self.shared.report(|report| std::mem::replace(&mut report.unusable, unusable) != report.unusable) {
            self.shared.wake.notify_one();
        }
    }

    /// All partitions whose log this broker once had and has no more.
    pub fn set_lost(&self, lost: impl IntoIterator<Item = TopicPartition>) {
        let lost = lost.into_iter().collect();
        if self.shared.report(|report| std::mem::replace(&mut report.lost, lost) != report.lost) {
            self.shared.wake.notify_one();
        }
    }

    /// All partitions whose log this broker can't vouch for, and which the controller takes for full copies.
    pub fn set_doubtful(&self, doubtful: impl IntoIterator<Item = TopicPartition>) {
        let doubtful = doubtful.into_iter().collect();
        if self.shared.report(|report| std::mem::replace(&mut report.doubtful, doubtful) != report.doubtful) {
            self.shared.wake.notify_one();
        }
    }

    /// Where logs end that an unclean election waits for ([`ClusterImage::awaited_log_ends`]). To be said once nothing is
    /// appended to them any more; repeated until the image shows it.
    pub fn report_log_ends(&self, ends: impl IntoIterator<Item = PartitionLogEnd>) {
        let mut any = false;
        self.shared.report(|report| {
            for end in ends {
                report.log_ends.insert(end.partition, end);
                any = true;
            }
        });
        if any {
            self.shared.wake.notify_one();
        }
    }

    /// Proposes an ISR. Calls made at the same time travel together. Repeated over losses of the controller for as long
    /// as the newest image still has the state that it was made on; then `InvalidUpdateVersion`. After an error the
    /// image says what holds.
    pub async fn alter_partition(&self, proposal: AlterPartition) -> Result<AlteredPartition, v1::Error> {
        let (reply, answer) = oneshot::channel();
        let gone = || {
            let message = "this broker is shutting down";
            v1::Error::new(highwater_types::ErrorCode::BrokerShuttingDown, message)
        };
        self.proposals.send(Proposal { proposal, doubtful: false, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Several proposals, each with its own result, in order.
    pub async fn alter_partitions(&self, proposals: Vec<AlterPartition>) -> Vec<Result<AlteredPartition, v1::Error>> {
        futures::future::join_all(proposals.into_iter().map(|proposal| self.alter_partition(proposal))).await
    }

    /// Asks to have leadership moved away; resolves once it has, as far as it can. The caller sets the deadline: without
    /// a controller this waits for one.
    pub async fn request_shutdown(&self) {
        self.shared.report(|report| report.wants_shutdown = true);
        self.shared.wake.notify_one();
        let mut status = self.status();
        while !status.borrow_and_update().shutdown_complete {
            tokio::select! {
                biased;
                () = self.shared.cancel.cancelled() => return,
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }

    /// gRPC channels to other nodes, shared by all that talk to them.
    pub fn peers(&self) -> &Peers {
        &self.shared.peers
    }

    pub fn broker(&self) -> BrokerId {
        self.shared.config.broker
    }

    pub fn metrics(&self) -> &LinkMetrics {
        &self.shared.metrics
    }

    /// Ends the stream, upon which the controller fences this broker, and every [`ImageWatch`]. To be called last.
    pub async fn close(&self) {
        self.shared.cancel.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A task that panicked has ended too.
            let _ = task.await;
        }
    }
}
