//! The Replication service: a follower's stream in, a session's answers out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::{Ready, ready};
use highwater_types::BrokerId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use super::session;
use crate::core::Core;
use crate::services::data::messages;
use crate::services::gather;

/// Answers made and not yet taken by the connection.
const ANSWERS_AHEAD: usize = 1;

/// Routes the method itself, because tonic's own server copies every payload that it sends.
#[derive(Clone)]
pub(crate) struct ReplicationService {
    core: Arc<Core>,
    tasks: TaskTracker,
    sessions: Arc<Sessions>,
}

impl ReplicationService {
    /// Each session is a task of `tasks`.
    pub(crate) fn new(core: Arc<Core>, tasks: TaskTracker) -> Self {
        Self { core, tasks, sessions: Arc::default() }
    }
}

impl NamedService for ReplicationService {
    const NAME: &'static str = "highwater.internal.v1.Replication";
}

impl Service<http::Request<Body>> for ReplicationService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != "/highwater.internal.v1.Replication/Replicate" {
            let status = Status::unimplemented("the Replication service has no such method");
            return ready(Ok(status.into_http()));
        }
        let (answers, taken) = mpsc::channel(ANSWERS_AHEAD);
        // A task of its own: acknowledgements are taken also while an answer waits for the network.
        self.tasks.spawn(session::run(Arc::clone(&self.core), Arc::clone(&self.sessions), messages(request), answers));
        ready(Ok(gather::response(ReceiverStream::new(taken))))
    }
}

/// The newest session of each follower. An older one is ended by a newer: its stream may be dead without anybody having
/// noticed yet.
#[derive(Default)]
pub(super) struct Sessions {
    newest: Mutex<BTreeMap<BrokerId, (u64, CancellationToken)>>,
}

/// A session's place among those of its follower.
pub(super) struct Place {
    follower: BrokerId,
    number: u64,
    pub(super) superseded: CancellationToken,
}

impl Sessions {
    pub(super) fn enter(&self, follower: BrokerId) -> Place {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let superseded = CancellationToken::new();
        let number = newest.get(&follower).map_or(0, |(number, _)| number + 1);
        if let Some((_, older)) = newest.insert(follower, (number, superseded.clone())) {
            older.cancel();
        }
        Place { follower, number, superseded }
    }

    /// Whether the follower has no session any more.
    pub(super) fn leave(&self, place: &Place) -> bool {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // Its number stays, so that the next one has another.
        newest.get(&place.follower).is_some_and(|(number, _)| *number == place.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t27_a_newer_session_ends_the_older_and_only_the_newest_s_end_counts() {
        let sessions = Sessions::default();
        let follower = BrokerId::new(2);
        let first = sessions.enter(follower);
        let other = sessions.enter(BrokerId::new(3));
        let second = sessions.enter(follower);
        assert!(first.superseded.is_cancelled() && !second.superseded.is_cancelled());
        assert!(!sessions.leave(&first));
        assert!(sessions.leave(&second) && sessions.leave(&other));
    }
}
