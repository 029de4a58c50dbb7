//! One replica's log: entries, leader epochs, and how much of it would survive a loss of power.

use highwater_record::EpochHistory;
use highwater_replication::LogEnds;
use highwater_types::{LeaderEpoch, Offset};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub epoch: LeaderEpoch,
    /// Unique over the whole run.
    pub value: u64,
}

#[derive(Debug, Clone, Default)]
pub struct ReplicaLog {
    start: usize,
    /// From offset `start` on.
    entries: Vec<Entry>,
    durable: usize,
    pub epochs: EpochHistory,
}

pub fn offset(at: usize) -> Offset {
    Offset::new(i64::try_from(at).unwrap())
}
pub fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).unwrap()
}

impl ReplicaLog {
    pub fn start(&self) -> usize {
        self.start
    }
    pub fn end(&self) -> usize {
        self.start + self.entries.len()
    }
    pub fn durable(&self) -> usize {
        self.durable
    }
    pub fn ends(&self) -> LogEnds {
        LogEnds::new(offset(self.start), offset(self.end()), offset(self.durable))
    }
    /// `None` where the log has no entry: before its start or from its end on.
    pub fn get(&self, at: usize) -> Option<Entry> {
        self.entries.get(at.checked_sub(self.start)?).copied()
    }

    pub fn read(&self, from: usize, count: usize) -> Vec<Entry> {
        self.entries.iter().skip(from - self.start).take(count).copied().collect()
    }

    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        self.epochs.assign(epoch, offset(self.end())).unwrap();
    }

    pub fn append(&mut self, entry: Entry) {
        self.epochs.assign(entry.epoch, offset(self.end())).unwrap();
        self.entries.push(entry);
    }

    /// A reign that left no record is forgotten when it ends: the next leader's log may have older epochs from here on.
    pub fn end_reign(&mut self) {
        self.epochs.truncate_from(offset(self.end()));
    }

    pub fn truncate_to(&mut self, end: usize) {
        assert!(end >= self.start && end <= self.end(), "truncation to {end}: {self:?}");
        self.entries.truncate(end - self.start);
        self.durable = self.durable.min(end);
        self.epochs.truncate_from(offset(end));
    }

    pub fn restart_at(&mut self, start: usize) {
        *self = Self { start, durable: start, ..Self::default() };
    }

    pub fn advance_start(&mut self, start: usize) {
        assert!(start >= self.start && start <= self.end(), "start moves to {start}: {self:?}");
        self.entries.drain(..start - self.start);
        self.start = start;
        self.durable = self.durable.max(start);
        self.epochs.truncate_before(offset(start));
    }

    pub fn sync(&mut self, upto: usize) {
        self.durable = self.durable.max(upto.min(self.end()));
    }

    /// The process ended, and with it the page cache from `kept` on (never what was synced).
    pub fn lose_from(&mut self, kept: usize) {
        let kept = kept.max(self.durable).min(self.end());
        self.truncate_to(kept);
    }
}
