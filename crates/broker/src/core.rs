//! What the services and the tasks of one broker share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::error::Fatal;
use crate::partitions::Partitions;

/// One permit of a budget stands for so many bytes.
const PERMIT_BYTES: usize = 1 << 10;
/// For cold reads under way, over all streams.
const READ_BUDGET_BYTES: usize = 128 << 20;

/// See the module.
pub struct Core {
    pub config: BrokerConfig,
    pub clock: Clock,
    pub partitions: Arc<Partitions>,
    /// Bytes of produce requests received and not answered.
    pub produce_budget: Budget,
    /// Bytes of records being read from files.
    pub read_budget: Budget,
    /// Streams of readers so far.
    pub fetch_streams: AtomicU64,
    /// Room for connections, over all doors.
    pub(crate) connections: Arc<Semaphore>,
    /// The broker stops: streams end as soon as what they owe is answered.
    pub stopping: CancellationToken,
    fatal: watch::Sender<Option<Fatal>>,
}

impl Core {
    pub(crate) fn new(config: BrokerConfig, clock: Clock, partitions: Arc<Partitions>) -> Arc<Self> {
        let produce_budget = Budget::new(config.limits.produce_bytes_max);
        let read_budget = Budget::new(READ_BUDGET_BYTES);
        let (stopping, fatal) = (CancellationToken::new(), watch::Sender::new(None));
        let fetch_streams = AtomicU64::new(0);
        let connections = Arc::new(Semaphore::new(config.limits.connections_max));
        Arc::new(Self {
            config,
            clock,
            partitions,
            produce_budget,
            read_budget,
            fetch_streams,
            connections,
            stopping,
            fatal,
        })
    }

    /// The broker can't go on. The first reason stays.
    pub(crate) fn end_with(&self, why: Fatal) {
        self.fatal.send_if_modified(|fatal| {
            let is_first = fatal.is_none();
            if is_first {
                tracing::error!(%why, "the broker has to end");
                *fatal = Some(why);
            }
            is_first
        });
    }

    /// Resolves when the broker can't go on.
    pub(crate) async fn fatal(&self) -> Fatal {
        let mut fatal = self.fatal.subscribe();
        loop {
            if let Some(why) = fatal.borrow_and_update().clone() {
                return why;
            }
            if fatal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A bound on bytes. Clones share it.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    max: u32,
    overdraft: Arc<Semaphore>,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        let max = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self { permits: Arc::new(Semaphore::new(max as usize)), max, overdraft: Arc::new(Semaphore::new(1)) }
    }

    /// What `bytes` take: at least something, and never more than all, so that a large one passes alone.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX).min(self.max)
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        (self.max as usize).saturating_sub(self.permits.available_permits()) * PERMIT_BYTES
    }

    /// The share of `bytes`, if there is room now.
    pub fn try_acquire(&self, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(self.cost(bytes)).ok()
    }

    /// What makes the share of `had` bytes that of `bytes`, if there is room now.
    pub fn try_grow(&self, had: usize, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_many_owned(self.growth(had, bytes)).ok()
    }

    /// The same, in its turn. Those that wait for more may wait for each other: see [`overdraft`](Self::overdraft).
    pub async fn grow(&self, had: usize, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_many_owned(self.growth(had, bytes)).await.ok()
    }

    fn growth(&self, had: usize, bytes: usize) -> u32 {
        let cost = |bytes| if bytes == 0 { 0 } else { self.cost(bytes) };
        cost(bytes).saturating_sub(cost(had))
    }

    /// For one at a time, which needs no room as long as it holds this, so that it can end and give back what it has.
    pub async fn overdraft(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.overdraft).acquire_owned().await.ok()
    }

    /// Waits its turn.
    pub async fn acquire(&self, bytes: usize) -> Option<tokio::sync::OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.permits).acquire_many_owned(self.cost(bytes)).await.ok()
    }
}
