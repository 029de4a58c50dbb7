//! The health of one data dir, shared by everything in it: whether an I/O error took it offline (T44), and how much may
//! still be written before the reserve is touched (T46).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::watch;

/// Shared by the logs of one data dir.
pub struct DirStatus {
    offline: watch::Sender<Option<Arc<str>>>,
    /// Bytes that may be written before the reserve is touched; `i64::MAX`: no bound. Appends count it down between two
    /// looks at the file system, so that a burst can't eat the reserve.
    headroom: AtomicI64,
    /// At the last look.
    free: AtomicU64,
    total: AtomicU64,
}

impl Default for DirStatus {
    fn default() -> Self {
        Self {
            offline: watch::Sender::new(None),
            headroom: AtomicI64::new(i64::MAX),
            free: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }
}

impl DirStatus {
    /// Marks the data dir as unusable until the process starts anew. The first reason stays.
    pub fn take_offline(&self, why: &str) {
        self.offline.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                tracing::error!(why, "the data dir is offline from now on");
                *reason = Some(why.into());
            }
            first
        });
    }

    /// Why it is offline, if it is.
    pub fn offline_reason(&self) -> Option<Arc<str>> {
        self.offline.borrow().clone()
    }

    /// Changes when the data dir goes offline.
    pub fn watch_offline(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.offline.subscribe()
    }

    /// Whether new writes are to be refused for lack of space.
    pub fn is_full(&self) -> bool {
        self.headroom.load(Ordering::Relaxed) <= 0
    }

    /// Bytes that were free on the disk when it was last looked at.
    pub fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// The size of the disk, then.
    pub fn total_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub(crate) fn set_space(&self, free: u64, total: u64) {
        self.free.store(free, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn set_headroom(&self, bytes: i64) {
        self.headroom.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn spend(&self, bytes: u64) {
        if self.headroom.load(Ordering::Relaxed) != i64::MAX {
            self.headroom.fetch_sub(bytes.min(i64::MAX as u64) as i64, Ordering::Relaxed);
        }
    }
}
