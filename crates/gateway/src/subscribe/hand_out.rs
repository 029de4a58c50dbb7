//! The task that owns the group's consumer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use highwater_client::{ConsumeError, GroupConsumer};
use highwater_protocol::v1;
use tokio::time::timeout;
use v1::subscribe_response::Response;

use crate::error::{IntoError as _, ending, status};
use crate::state::State;
use crate::subscribe::Shared;
use crate::subscribe::session::Slot;

const POLL_WAIT: Duration = Duration::from_millis(500);
/// How long the group may wait to be attended to while there is no credit.
const ATTEND_WAIT: Duration = Duration::from_millis(200);
/// For the group to hear that its member leaves; without it, the session timeout tells.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// Hands records out until the stream is over, then leaves the group.
pub(super) async fn hand_out(state: Arc<State>, shared: Arc<Shared>, mut consumer: GroupConsumer) {
    let ended = tokio::select! {
        biased;
        () = state.ending.cancelled() => Err(ending()),
        () = shared.closing.cancelled() => shared.failure().map_or(Ok(()), Err),
        () = shared.answers.closed() => Ok(()),
        error = poll_on(&state, &shared, &mut consumer) => Err(error),
    };
    shared.closing.cancel();
    let left = timeout(LEAVE_WAIT, consumer.close()).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::debug!("a member of a thin client may not have left its group in order");
    }
    if let Err(error) = ended {
        // The client may be gone, or not be reading: then there is nobody to tell.
        let _ = timeout(LEAVE_WAIT, shared.answers.send(Err(status(error)))).await;
    }
}

/// Ends with what ends the stream.
async fn poll_on(state: &State, shared: &Shared, consumer: &mut GroupConsumer) -> v1::Error {
    let mut paused = BTreeSet::new();
    loop {
        loop {
            let delivery = shared.lock().deliver(state.limits.response_bytes);
            let Some(delivery) = delivery else { break };
            let response = v1::SubscribeResponse { response: Some(Response::Delivery(delivery)) };
            // Nobody polls meanwhile: a client that does not read for long loses its membership.
            if shared.answers.send(Ok(response)).await.is_err() {
                return ending();
            }
        }
        // Without credit nothing more is read, but the group is still attended to.
        let is_waiting = shared.lock().is_waiting();
        pause(consumer, &mut paused, is_waiting);
        // A poll is never dropped here: it may be telling the client of partitions that come and go.
        let wait = if is_waiting {
            // Elapsed or not, the look below says whether there is credit.
            let _ = timeout(ATTEND_WAIT, shared.changed.notified()).await;
            Duration::ZERO
        } else {
            POLL_WAIT
        };
        if shared.lock().can_deliver() {
            continue;
        }
        let polled = consumer.poll(wait).await;
        match polled {
            Ok(records) => shared.lock().keep(records),
            // It goes on by itself.
            Err(ConsumeError::Unavailable { .. }) => {}
            Err(error) => return error.into_error(),
        }
    }
}

/// Pauses all partitions, or resumes those that were paused.
fn pause(consumer: &mut GroupConsumer, paused: &mut BTreeSet<Slot>, is_waiting: bool) {
    if is_waiting {
        for (topic, partition) in consumer.assignment() {
            if !paused.contains(&(topic.clone(), partition)) && consumer.pause(topic.as_str(), partition).is_ok() {
                paused.insert((topic, partition));
            }
        }
    } else {
        for (topic, partition) in std::mem::take(paused) {
            // It may have been given up meanwhile.
            let _ = consumer.resume(topic.as_str(), partition);
        }
    }
}
