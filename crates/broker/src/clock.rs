//! The two times of a broker: elapsed time for everything that waits, and the wall clock for records.

use std::sync::Arc;
use std::time::Duration;

use highwater_seams::WallClock;
use highwater_types::TimestampMs;
use tokio::time::Instant;

/// Cheap to clone. Elapsed time counts from the broker's start.
#[derive(Clone)]
pub struct Clock {
    start: Instant,
    wall: Arc<dyn WallClock>,
}

impl Clock {
    pub(crate) fn new(wall: Arc<dyn WallClock>) -> Self {
        Self { start: Instant::now(), wall }
    }

    /// Since the broker's start.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// The instant that [`Clock::now`] gives as `at`.
    pub fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// On the wall clock: for records and retention only.
    pub fn timestamp(&self) -> TimestampMs {
        TimestampMs::new(self.wall.now_ms())
    }
}
