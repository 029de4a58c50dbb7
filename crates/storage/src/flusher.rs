//! Group commit: one flusher for each data dir syncs the logs that ask for it. While a log's sync runs, its appends gather;
//! the next sync covers all of them.
//!
//! **Invariants**: one log has one sync at a time; different logs sync side by side, up to a bound. After the first failure
//! nothing is retried: the log and its data dir end there (T44). Only tokio tasks, so that a simulation stays
//! deterministic.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use highwater_metrics::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::log::SyncJob;

/// What a flusher syncs: a log in its owner's lock.
pub trait Flushable: Send + Sync + 'static {
    /// Locks the log and calls [`crate::Log::begin_sync`].
    fn begin_sync(&self) -> Option<SyncJob>;
    /// Locks the log, calls [`crate::Log::finish_sync`] or [`crate::Log::fail_sync`], and wakes who waits.
    fn finish_sync(&self, job: SyncJob, result: io::Result<()>);
}

struct Entry {
    target: Weak<dyn Flushable>,
    /// A request is on its way: no need for another.
    queued: AtomicBool,
}

/// A log's line to its flusher; cheap to clone and to call.
#[derive(Clone)]
pub struct FlushHandle {
    entry: Arc<Entry>,
    requests: mpsc::UnboundedSender<Request>,
}

enum Request {
    Sync(Arc<Entry>),
    Stop,
}

impl FlushHandle {
    /// Asks for a sync of everything that was appended before the call. Many calls cost one sync.
    pub fn request(&self) {
        if !self.entry.queued.swap(true, Ordering::AcqRel) {
            // Without a flusher any more the process is ending.
            let _ = self.requests.send(Request::Sync(self.entry.clone()));
        }
    }
}

/// The handle of one data dir's flusher task.
pub struct Flusher {
    requests: mpsc::UnboundedSender<Request>,
    sync_took: Arc<Histogram>,
    task: JoinHandle<()>,
}

impl Flusher {
    /// Starts the task on the present tokio runtime, which syncs up to `parallel_max` logs at a time.
    pub fn spawn(parallel_max: usize) -> Self {
        let (requests, incoming) = mpsc::unbounded_channel();
        let sync_took = Arc::new(Histogram::default());
        let task = tokio::spawn(run(incoming, parallel_max.max(1), Arc::clone(&sync_took)));
        Self { requests, sync_took, task }
    }

    /// How long each sync of a log took.
    pub fn sync_took(&self) -> &Arc<Histogram> {
        &self.sync_took
    }

    /// A line for one log. It does not keep `target` alive.
    pub fn handle(&self, target: &Arc<impl Flushable>) -> FlushHandle {
        let target: Arc<dyn Flushable> = target.clone();
        self.handle_of(&target)
    }

    /// As [`Flusher::handle`].
    pub fn handle_of(&self, target: &Arc<dyn Flushable>) -> FlushHandle {
        let entry = Entry { target: Arc::downgrade(target), queued: AtomicBool::new(false) };
        FlushHandle { entry: Arc::new(entry), requests: self.requests.clone() }
    }

    /// Asks for one sync, without a lasting line. Prefer [`Flusher::handle`] where it is called often.
    pub fn request(&self, target: Arc<dyn Flushable>) {
        self.handle_of(&target).request();
    }

    /// Ends the task when what was asked for has begun and what runs has finished.
    pub async fn shutdown(self) {
        let _ = self.requests.send(Request::Stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the flusher ended badly");
        }
    }
}

/// Identifies a log among those that are syncing.
type Key = usize;

type Finished = (Key, Arc<dyn Flushable>, SyncJob, io::Result<()>);

async fn sync_one(key: Key, target: Arc<dyn Flushable>, job: SyncJob, took: Arc<Histogram>) -> Finished {
    let began = Instant::now();
    let result = job.run().await;
    took.record(began.elapsed());
    (key, target, job, result)
}

async fn run(mut requests: mpsc::UnboundedReceiver<Request>, parallel_max: usize, took: Arc<Histogram>) {
    let mut running: FuturesUnordered<BoxFuture<'static, Finished>> = FuturesUnordered::new();
    // Logs that sync now, and whether they are to sync again.
    let mut syncing: BTreeMap<Key, bool> = BTreeMap::new();
    let mut waiting: VecDeque<Arc<dyn Flushable>> = VecDeque::new();
    let key_of = |target: &Arc<dyn Flushable>| Arc::as_ptr(target).cast::<()>().addr();
    loop {
        tokio::select! {
            biased;
            Some((key, target, job, result)) = running.next(), if !running.is_empty() => {
                let failed = result.is_err();
                target.finish_sync(job, result);
                let again = syncing.remove(&key).unwrap_or(false);
                if again && !failed {
                    waiting.push_back(target);
                }
            }
            request = requests.recv() => {
                let Some(Request::Sync(entry)) = request else { break };
                // Before the sync begins: an append after this asks anew.
                entry.queued.store(false, Ordering::Release);
                let Some(target) = entry.target.upgrade() else { continue };
                match syncing.get_mut(&key_of(&target)) {
                    Some(again) => *again = true,
                    None => waiting.push_back(target),
                }
            }
        }
        while running.len() < parallel_max {
            let Some(target) = waiting.pop_front() else { break };
            let key = key_of(&target);
            if let Some(again) = syncing.get_mut(&key) {
                *again = true;
            } else if let Some(job) = target.begin_sync() {
                syncing.insert(key, false);
                running.push(sync_one(key, target, job, Arc::clone(&took)).boxed());
            }
        }
    }
    for target in waiting {
        if let (false, Some(job)) = (syncing.contains_key(&key_of(&target)), target.begin_sync()) {
            syncing.insert(key_of(&target), false);
            running.push(sync_one(key_of(&target), target, job, Arc::clone(&took)).boxed());
        }
    }
    while let Some((_, target, job, result)) = running.next().await {
        target.finish_sync(job, result);
    }
}

#[cfg(test)]
mod tests;
