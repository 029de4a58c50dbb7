//! A store in memory that forgets, at a simulated crash, all that was not synced.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{MetaOp, MetaStore, StoreError, Stored};

/// For simulation and tests. A sync takes `sync_time` of `tokio::time`; [`MemStore::crash`] brings back the state of the
/// last finished one.
pub struct MemStore {
    sync_time: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    durable: Stored,
    /// Submitted and not yet synced, oldest first.
    pending: Vec<MetaOp>,
    /// How many operations were ever submitted.
    submitted: u64,
    /// Grows with each crash: a sync begun before must not count after.
    life: u64,
    broken: bool,
}

impl MemStore {
    pub fn new(sync_time: Duration) -> Self {
        Self { sync_time, state: Mutex::default() }
    }

    /// Loses what was not synced, as a power cut does. Writes under way fail. The store can be used again at once, by
    /// the next life of the process.
    pub fn crash(&self) {
        let mut state = self.lock();
        state.pending.clear();
        state.life += 1;
        state.broken = false;
    }

    /// Makes every write fail from now on, as a disk with I/O errors does; a crash ends it.
    pub fn fail_writes(&self) {
        self.lock().broken = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        state.pending.iter().cloned().for_each(|op| stored.apply(op));
        Ok(stored)
    }

    async fn write(&self, ops: Vec<MetaOp>) -> Result<(), StoreError> {
        let (life, position) = {
            let mut state = self.lock();
            if state.broken {
                return Err(StoreError::Failed("simulated I/O error".to_owned()));
            }
            state.submitted += ops.len() as u64;
            state.pending.extend(ops);
            (state.life, state.submitted)
        };
        if !self.sync_time.is_zero() {
            tokio::time::sleep(self.sync_time).await;
        }
        let mut state = self.lock();
        if state.life != life {
            return Err(StoreError::Closed);
        }
        if state.broken {
            return Err(StoreError::Failed("simulated I/O error".to_owned()));
        }
        // What was submitted up to this write, unless a later sync has taken it along already.
        let unsynced_from = state.submitted - state.pending.len() as u64;
        let count = usize::try_from(position.saturating_sub(unsynced_from)).unwrap_or(usize::MAX);
        let count = count.min(state.pending.len());
        let synced: Vec<MetaOp> = state.pending.drain(..count).collect();
        synced.into_iter().for_each(|op| state.durable.apply(op));
        Ok(())
    }

    fn write_lazily(&self, ops: Vec<MetaOp>) {
        let mut state = self.lock();
        if !state.broken {
            state.submitted += ops.len() as u64;
            state.pending.extend(ops);
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
            store.crash();
        };
        let (late, ()) = tokio::join!(late, crash);
        assert!(late.is_err(), "a write under way at the crash is not acknowledged");
        let kept: Vec<u64> = store.load().await.unwrap().log.into_keys().collect();
        assert_eq!(kept, [1, 2, 3]);
    }

    #[tokio::test]
    async fn t44_after_a_failed_write_nothing_is_accepted() {
        let store = MemStore::default();
        store.fail_writes();
        assert!(store.write(vec![entry(1)]).await.is_err());
        store.write_lazily(vec![entry(2)]);
        store.crash();
        assert!(store.load().await.unwrap().log.is_empty());
    }
}
