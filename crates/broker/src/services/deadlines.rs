//! The deadlines of one stream's requests, on one timer.

use std::collections::BTreeSet;
use std::pin::Pin;

use tokio::time::{Instant, Sleep};

/// Requests by deadline. The timer is set anew only for an earlier deadline than it is set for, so that requests which are
/// answered in time cost none.
#[derive(Default)]
pub struct Deadlines {
    by_time: BTreeSet<(Instant, u64)>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    /// `key` is due at `at`.
    pub fn add(&mut self, at: Instant, key: u64) {
        self.by_time.insert((at, key));
        match &mut self.timer {
            Some(timer) if timer.deadline() <= at => {}
            Some(timer) => timer.as_mut().reset(at),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// It is not, any more.
    pub fn remove(&mut self, at: Instant, key: u64) {
        self.by_time.remove(&(at, key));
    }

    /// The next key whose deadline has come. Pending while there is none; can be dropped and called again.
    pub async fn next(&mut self) -> u64 {
        loop {
            match self.by_time.first().copied() {
                Some((at, key)) if at <= Instant::now() => {
                    self.by_time.pop_first();
                    return key;
                }
                first => match &mut self.timer {
                    None => return std::future::pending().await,
                    Some(timer) => {
                        timer.as_mut().await;
                        // It may have been set for a request that is gone.
                        match first {
                            Some((at, _)) => timer.as_mut().reset(at),
                            None => self.timer = None,
                        }
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadlines_come_in_order_and_removed_ones_not_at_all() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadlines = Deadlines::default();
        deadlines.add(at(30), 3);
        deadlines.add(at(10), 1);
        deadlines.add(at(20), 2);
        deadlines.remove(at(10), 1);
        assert_eq!(deadlines.next().await, 2);
        assert_eq!(start.elapsed(), Duration::from_millis(20));
        assert_eq!(deadlines.next().await, 3);
        let more = tokio::time::timeout(Duration::from_secs(60), deadlines.next()).await;
        assert!(more.is_err(), "nothing is left");
        deadlines.add(Instant::now() + Duration::from_millis(5), 4);
        assert_eq!(deadlines.next().await, 4);
    }
}
