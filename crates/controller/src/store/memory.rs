//! A store in memory that forgets, at a simulated crash, what was not synced.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{MetaOp, MetaStore, StoreError, Stored};

/// For simulation and tests. A sync takes `sync_time` of `tokio::time`; [`MemStore::crash`] brings back the state of the
/// last finished one, or of one of the writes after it.
pub struct MemStore {
    sync_time: Duration,
    state: Mutex<State>,
    stalled: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    durable: Stored,
    /// Submitted and not yet synced, oldest first; each is there wholly or not at all.
    pending: VecDeque<Vec<MetaOp>>,
    /// How many writes were ever submitted.
    submitted: u64,
    /// Grows with each crash: a sync begun before must not count after.
    life: u64,
    broken: bool,
    /// So many more writes are submitted in this life.
    writes_left: Option<u64>,
    /// It came to the one after them.
    is_over: bool,
}

impl MemStore {
    pub fn new(sync_time: Duration) -> Self {
        Self { sync_time, state: Mutex::default(), stalled: watch::Sender::new(false) }
    }

    /// Ends this life of the process. Of the writes that were not synced the first `kept` are on the disk all the same; the
    /// others are lost. Writes under way fail. The store can be used again at once, by the next life.
    pub fn crash(&self, kept: usize) {
        let mut state = self.lock();
        let kept = kept.min(state.pending.len());
        state.sync(kept);
        state.pending.clear();
        state.life += 1;
        state.broken = false;
        (state.writes_left, state.is_over) = (None, false);
    }

    /// This life of the process ends when it comes to a write after so many more: nothing is submitted from there on. Then
    /// [`MemStore::crash`] says what is left.
    pub fn end_life_after(&self, writes: u64) {
        self.lock().writes_left = Some(writes);
    }

    /// Whether it has come to that write.
    pub fn is_life_over(&self) -> bool {
        self.lock().is_over
    }

    /// How many writes a crash would endanger now.
    pub fn unsynced(&self) -> usize {
        self.lock().pending.len()
    }

    /// As a new disk: ends this life of the process, and nothing is left of what it wrote.
    pub fn wipe(&self) {
        self.crash(0);
        self.lock().durable = Stored::default();
    }

    /// Makes every write fail from now on, as a disk with I/O errors does; a crash ends it.
    pub fn fail_writes(&self) {
        self.lock().broken = true;
    }

    /// While it is stalled, no sync ends.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes the first `count` writes durable.
    fn sync(&mut self, count: usize) {
        let synced: Vec<MetaOp> = self.pending.drain(..count).flatten().collect();
        synced.into_iter().for_each(|op| self.durable.apply(op));
    }

    /// Unless this life is over.
    fn submit(&mut self, ops: Vec<MetaOp>) -> Result<(), StoreError> {
        self.is_over |= self.writes_left == Some(0);
        if self.is_over {
            return Err(StoreError::Closed);
        }
        self.writes_left = self.writes_left.map(|writes| writes - 1);
        self.submitted += 1;
        self.pending.push_back(ops);
        Ok(())
    }
}

impl Default for MemStore {
    fn default() -> Self {
        Self::new(Duration::ZERO)
    }
}

#[async_trait]
impl MetaStore for MemStore {
    async fn load(&self) -> Result<Stored, StoreError> {
        let state = self.lock();
        let mut stored = state.durable.clone();
        state.pending.iter().flatten().cloned().for_each(|op| stored.apply(op));
        Ok(stored)
    }

    async fn write(&self, ops: Vec<MetaOp>) -> Result<(), StoreError> {
        let (life, position) = {
            let mut state = self.lock();
            if state.broken {
                return Err(StoreError::Failed("simulated I/O error".to_owned()));
            }
            state.submit(ops)?;
            (state.life, state.submitted)
        };
        if !self.sync_time.is_zero() {
            tokio::time::sleep(self.sync_time).await;
        }
        // The sender is a part of this store.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        let mut state = self.lock();
        if state.life != life {
            return Err(StoreError::Closed);
        }
        if state.broken {
            return Err(StoreError::Failed("simulated I/O error".to_owned()));
        }
        // What was submitted up to this write, unless a later sync has taken it along already.
        let synced = state.submitted - state.pending.len() as u64;
        let count = usize::try_from(position.saturating_sub(synced)).unwrap_or(usize::MAX);
        let count = count.min(state.pending.len());
        state.sync(count);
        Ok(())
    }

    fn write_lazily(&self, ops: Vec<MetaOp>) {
        let mut state = self.lock();
        if !state.broken {
            // As after a failed one: what comes next says so.
            let _ = state.submit(ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::MetaKey;
    use super::*;

    fn entry(index: u64) -> MetaOp {
        MetaOp::Put(MetaKey::Log(index), Bytes::from(index.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn t45_a_crash_keeps_exactly_what_was_synced() {
        let store = MemStore::new(Duration::from_millis(5));
        store.write(vec![entry(1)]).await.unwrap();
        store.write_lazily(vec![entry(2)]);
        store.write(vec![entry(3)]).await.unwrap();
        store.write_lazily(vec![entry(4)]);
        assert_eq!(store.load().await.unwrap().log.len(), 4, "visible before it is durable");

        let late = store.write(vec![entry(5)]);
        let crash = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            store.crash(0);
        };
        let (late, ()) = tokio::join!(late, crash);
        assert!(late.is_err(), "a write under way at the crash is not acknowledged");
        let kept: Vec<u64> = store.load().await.unwrap().log.into_keys().collect();
        assert_eq!(kept, [1, 2, 3]);
    }

    #[tokio::test]
    async fn t45_a_crash_may_keep_a_prefix_of_what_was_not_synced_and_no_half_of_a_write() {
        let store = MemStore::default();
        store.write(vec![entry(1)]).await.unwrap();
        store.write_lazily(vec![entry(2), entry(3)]);
        store.write_lazily(vec![entry(4), entry(5)]);
        assert_eq!(store.unsynced(), 2);
        store.crash(1);
        let kept: Vec<u64> = store.load().await.unwrap().log.into_keys().collect();
        assert_eq!(kept, [1, 2, 3]);
        store.wipe();
        assert_eq!(store.load().await.unwrap(), Stored::default());
    }

    #[tokio::test]
    async fn t45_a_life_ends_at_the_write_that_it_is_told() {
        let store = MemStore::default();
        store.end_life_after(1);
        store.write_lazily(vec![entry(1)]);
        assert!(!store.is_life_over());
        assert!(store.write(vec![entry(2)]).await.is_err());
        assert!(store.is_life_over());
        store.crash(0);
        assert!(!store.is_life_over());
        store.write(vec![entry(3)]).await.unwrap();
        let kept: Vec<u64> = store.load().await.unwrap().log.into_keys().collect();
        assert_eq!(kept, [3], "what was submitted before is as any that was not synced");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_write_is_not_acknowledged_before_it_goes_on() {
        let store = MemStore::new(Duration::from_millis(1));
        store.stall(true);
        let write = store.write(vec![entry(1)]);
        tokio::pin!(write);
        assert!(tokio::time::timeout(Duration::from_secs(10), &mut write).await.is_err());
        store.stall(false);
        write.await.unwrap();
    }

    #[tokio::test]
    async fn t44_after_a_failed_write_nothing_is_accepted() {
        let store = MemStore::default();
        store.fail_writes();
        assert!(store.write(vec![entry(1)]).await.is_err());
        store.write_lazily(vec![entry(2)]);
        store.crash(0);
        assert!(store.load().await.unwrap().log.is_empty());
    }
}
