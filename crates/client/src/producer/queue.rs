//! What waits to be sent to one partition.
//!
//! Invariant: at most one request in flight holds batches of a partition, and failed ones go back to the front. So a
//! partition keeps its order over retries, whatever happens to the requests of others. Batches queue up meanwhile, and
//! the next request takes as many as fit.

use std::collections::VecDeque;
use std::sync::Arc;

use highwater_types::{BrokerId, LeaderEpoch, PartitionId};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::producer::batch::Batch;

pub(crate) struct PartitionQueue {
    pub id: PartitionId,
    pub leader: Option<BrokerId>,
    pub epoch: LeaderEpoch,
    /// Closed batches, to be retried or not sent yet, in order.
    pub ready: VecDeque<Batch>,
    /// Takes more records; newer than all in `ready`.
    pub open: Option<Batch>,
    pub in_flight: bool,
    /// After a failure, nothing goes before this.
    pub retry_at: Option<Instant>,
    pub backoff: Backoff,
    /// Why the last attempt failed.
    pub last_failure: Option<Arc<str>>,
    /// Size of the last batch sent: about the size of the next.
    pub batch_bytes_hint: usize,
}

/// Which batches may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub now: Instant,
    /// Open batches younger than this wait for more records...
    pub linger: std::time::Duration,
    /// ...unless their id is below this.
    pub hurry_below: u64,
}

impl Due {
    /// When the open batch may go; `None`: now.
    fn open_at(&self, batch: &Batch) -> Option<Instant> {
        let at = batch.created + self.linger;
        if at <= self.now || batch.id < self.hurry_below { None } else { Some(at) }
    }
}

impl PartitionQueue {
    pub fn new(id: PartitionId, backoff: Backoff) -> Self {
        Self {
            id,
            leader: None,
            epoch: LeaderEpoch::NONE,
            ready: VecDeque::new(),
            open: None,
            in_flight: false,
            retry_at: None,
            backoff,
            last_failure: None,
            batch_bytes_hint: 4096,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.open.is_none()
    }

    pub fn queued_bytes(&self) -> usize {
        self.ready.iter().chain(&self.open).map(Batch::size).sum()
    }

    /// Closes the open batch.
    pub fn close(&mut self) {
        if let Some(batch) = self.open.take() {
            self.batch_bytes_hint = batch.size();
            self.ready.push_back(batch);
        }
    }

    /// When something of it may go; `Some(now or earlier)` for at once, `None` for never without a further event.
    pub fn due_at(&self, due: &Due) -> Option<Instant> {
        if self.in_flight {
            return None;
        }
        let at = match (&self.open, self.ready.is_empty()) {
            (_, false) => due.now,
            (Some(open), true) => due.open_at(open).unwrap_or(due.now),
            (None, true) => return None,
        };
        Some(self.retry_at.map_or(at, |retry| retry.max(at)))
    }

    /// Takes what may go now: at least one batch, then as many as fit into `bytes`.
    pub fn take(&mut self, due: &Due, bytes: usize) -> Vec<Batch> {
        if self.open.as_ref().is_some_and(|open| due.open_at(open).is_none()) {
            self.close();
        }
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some(next) = self.ready.front() {
            sum += next.size();
            if !taken.is_empty() && sum > bytes {
                break;
            }
            taken.extend(self.ready.pop_front());
        }
        self.in_flight = !taken.is_empty();
        taken
    }

    /// Takes the batches whose time is up.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Batch> {
        let mut expired = Vec::new();
        while self.ready.front().is_some_and(|batch| batch.deadline <= now) {
            expired.extend(self.ready.pop_front());
        }
        if self.ready.is_empty() && self.open.as_ref().is_some_and(|batch| batch.deadline <= now) {
            expired.extend(self.open.take());
        }
        expired
    }

    pub fn first_deadline(&self) -> Option<Instant> {
        self.ready.front().or(self.open.as_ref()).map(|batch| batch.deadline)
    }
}
