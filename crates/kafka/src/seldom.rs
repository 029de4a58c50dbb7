//! What strangers can bring about is logged, and not as often as they like.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(10);

/// Lets one line through now and then, and counts what it holds back.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    held_back: u64,
}

impl Seldom {
    /// `None`: not now. Otherwise how many were held back since the last time.
    pub fn may_say(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| said.elapsed() < EVERY) {
            state.held_back += 1;
            return None;
        }
        state.said = Some(Instant::now());
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_is_let_through_and_the_rest_are_counted() {
        let seldom = Seldom::default();
        assert_eq!(seldom.may_say(), Some(0));
        assert_eq!([seldom.may_say(), seldom.may_say()], [None, None]);
        tokio::time::advance(EVERY).await;
        assert_eq!(seldom.may_say(), Some(2));
        assert_eq!(seldom.may_say(), None);
    }
}
