//! What happened in a run, in words.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Clones share the story. It outlives a run that panics.
#[derive(Clone, Default)]
pub struct Story(Arc<Mutex<Vec<(Duration, String)>>>);

impl Story {
    /// Something happens now, by the simulation's clock.
    pub fn tell(&self, what: impl Into<String>) {
        self.tell_at(turmoil::sim_elapsed().unwrap_or_default(), what);
    }

    /// For who stands outside of the simulated hosts.
    pub fn tell_at(&self, at: Duration, what: impl Into<String>) {
        self.lines().push((at, what.into()));
    }

    pub fn print(&self) {
        for (at, what) in self.lines().iter() {
            println!("{:>9.3} s  {what}", at.as_secs_f64());
        }
    }

    fn lines(&self) -> MutexGuard<'_, Vec<(Duration, String)>> {
        // A poisoned list of lines is still one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
