//! What waits to be sent to one partition.
//!
//! Invariant: at most one request in flight holds batches of a partition, and failed ones go back to the front. So a
//! partition keeps its order over retries, whatever happens to the requests of others. Batches queue up meanwhile, and
//! the next request takes as many as fit; numbered ones, as many as the leader would know again (`numbering`). A batch
//! that may be in the log goes alone, so that the answer is about it and no other.

use std::collections::VecDeque;

use highwater_types::{BrokerId, LeaderEpoch, PartitionId};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::producer::batch::Batch;
use crate::producer::failure::LastFailure;
use crate::producer::numbering::{Mode, Numbering, Session};

/// Numbered batches of a partition in one request: a leader knows a producer's last five again (T29).
const NUMBERED_MAX: usize = 5;

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
    pub last_failure: Option<LastFailure>,
    pub numbering: Numbering,
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
            numbering: Numbering::default(),
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

    /// Whether what goes next has a number, or can be given one. Batches without one begin in `current`.
    pub fn can_number(&mut self, current: Option<Session>) -> bool {
        if let Some(session) = current {
            self.numbering.adopt(session);
        }
        self.numbering.session().is_some() || self.ready.front().is_some_and(|batch| batch.number.is_some())
    }

    /// Takes what may go now: at least one batch, then as many as fit into `bytes`.
    pub fn take(&mut self, due: &Due, bytes: usize, mode: Mode) -> Vec<Batch> {
        if self.open.as_ref().is_some_and(|open| due.open_at(open).is_none()) {
            self.close();
        }
        let mut taken = Vec::new();
        let mut sum = 0;
        while let Some(next) = self.ready.front_mut() {
            sum += next.size();
            if !taken.is_empty() && sum > bytes {
                break;
            }
            let alone = mode != Mode::Plain && next.maybe_applied;
            if mode != Mode::Plain {
                if taken.len() == NUMBERED_MAX || (alone && !taken.is_empty()) {
                    break;
                }
                next.number = next.number.or_else(|| self.numbering.next(next.records));
                if next.number.is_none() {
                    break;
                }
            }
            taken.extend(self.ready.pop_front());
            if alone {
                break;
            }
        }
        self.in_flight = !taken.is_empty();
        taken
    }

    /// A batch, not in the queue any more, has failed for good. Those behind it are not to wait for its number. Returns
    /// the session whose numbering is in doubt now.
    pub fn gave_up(&mut self, batch: &Batch) -> Option<Session> {
        let number = batch.number?;
        if batch.maybe_applied {
            self.leave(number.session);
            return Some(number.session);
        }
        self.numbering.rewind(number);
        self.unnumber();
        None
    }

    /// Goes on in another session with what is surely not in the log. The rest is resolved in its own, or never.
    pub fn leave(&mut self, session: Session) {
        self.numbering.leave(session);
        self.unnumber();
    }

    fn unnumber(&mut self) {
        for batch in self.ready.iter_mut().filter(|batch| !batch.maybe_applied) {
            if let Some(number) = batch.number.take() {
                self.numbering.rewind(number);
            }
        }
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
