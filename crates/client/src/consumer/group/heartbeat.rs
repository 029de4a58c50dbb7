//! The member's task: sends the heartbeats that the membership asks for, and leaves the group in the end.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::v1;
use tokio::time::{Instant, sleep_until, timeout};

use crate::consumer::group::membership::Next;
use crate::consumer::group::shared::GroupShared;

/// How long a heartbeat may take before it is tried again, perhaps elsewhere; at most, for the session must not end meanwhile.
const ATTEMPT_WAIT: Duration = Duration::from_secs(5);
/// How long leaving may take when nobody waits for it.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// Runs until the consumer is gone.
pub(crate) async fn heartbeat(group: Arc<GroupShared>) {
    let mut done = group.done.subscribe();
    let mut image = group.client.watch_image();
    loop {
        let next = group.lock().next(Instant::now(), group.silent_since());
        group.tell_news();
        let wait = match next {
            Next::Send(request) => {
                let what = format!("heartbeat of group {:?}", group.config.group_id);
                let send = |mut client: v1::coordinator_client::CoordinatorClient<_>| async move {
                    client.group_heartbeat(*request).await
                };
                let session = group.lock().session_timeout();
                let patience = session.map_or(ATTEMPT_WAIT, |session| ATTEMPT_WAIT.min(session / 2));
                let asking = group.coordinator.call_once(&what, Instant::now() + patience, send);
                tokio::pin!(asking);
                let answer = loop {
                    let holds_until = group.lock().holds_until();
                    let lapses = async {
                        match holds_until {
                            Some(until) => sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        _ = done.wait_for(|done| *done) => break None,
                        answer = &mut asking => break Some(answer),
                        () = lapses => {
                            // Only to see that it has; nothing more is sent while this is on its way.
                            let _ = group.lock().next(Instant::now(), group.silent_since());
                            group.tell_news();
                        }
                    }
                };
                let Some(answer) = answer else { break };
                {
                    let mut membership = group.lock();
                    match &answer {
                        Ok(answer) => membership.answered(answer, Instant::now()),
                        Err(error) => {
                            tracing::debug!(group = group.config.group_id, %error, "heartbeat failed");
                            membership.failed(error.code, &error.message, Instant::now());
                        }
                    }
                    group.epoch.send_replace(membership.epoch().get());
                }
                continue;
            }
            Next::Wait(at) => Some(at),
            Next::Rest => None,
        };
        let timer = sleep_until(wait.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
        tokio::select! {
            biased;
            _ = done.wait_for(|done| *done) => break,
            () = group.wake.notified() => {}
            // A topic may be known only now that was assigned before.
            _ = image.changed() => {}
            () = timer => {}
        }
    }
    // If it does not arrive, the session times out.
    let _ = timeout(LEAVE_WAIT, leave(&group)).await;
}

/// Leaves the group, if it is a member.
pub(crate) async fn leave(group: &GroupShared) {
    let Some(request) = group.lock().leave() else { return };
    let what = format!("leave group {:?}", group.config.group_id);
    let send = |mut client: v1::coordinator_client::CoordinatorClient<_>| {
        let request = v1::GroupHeartbeatRequest { number: group.lock().next_number(), ..request.clone() };
        async move { client.group_heartbeat(request).await }
    };
    if let Err(error) = group.coordinator.call(&what, Instant::now() + LEAVE_WAIT, |_| true, send).await {
        tracing::debug!(group = group.config.group_id, %error, "leaving failed; the session will time out");
    }
}
