//! The real disk's threads: a small pool that starts a thread only when work waits and none is idle, so that an idle
//! broker has none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::DiskJob;

const STACK_BYTES: usize = 512 << 10;

/// A bounded pool of threads for work that waits for the device.
pub(super) struct DiskThreads {
    name: &'static str,
    threads_max: usize,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<DiskJob>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No job runs under this lock, so a panic can't leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.queue.pop_front() {
                drop(state);
                // A panicking job drops its answer's sender, which its caller sees as an error; the thread goes on.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.state();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl DiskThreads {
    pub(super) fn new(name: &'static str, threads_max: usize) -> Self {
        let shared = Shared { state: Mutex::default(), work: Condvar::new() };
        Self { name, threads_max, shared: Arc::new(shared) }
    }

    pub(super) fn submit(&self, job: DiskJob) {
        let mut state = self.shared.state();
        state.queue.push_back(job);
        if state.idle >= state.queue.len() {
            self.shared.work.notify_one();
        } else if state.threads < self.threads_max {
            state.threads += 1;
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new()
                .name(self.name.to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.run());
            if let Err(error) = spawned {
                state.threads -= 1;
                if state.threads == 0 {
                    // Nobody would ever run it: better here than never.
                    tracing::error!(%error, "can't start a disk thread; working inline");
                    let job = state.queue.pop_back();
                    drop(state);
                    job.into_iter().for_each(|job| job());
                }
            }
        }
    }
}

impl Drop for DiskThreads {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.work.notify_all();
    }
}
