//! One stream as one member of a group.
//!
//! Three tasks: one polls the group's consumer and hands records out (`hand_out`), one takes the client's requests, one
//! commits, in the order asked. What partitions come and go happens within the poll; the [`session`] is what they share.

mod hand_out;
mod requests;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use requests::subscribe;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_client::{ErrorCode, GroupCommitter, PartitionId, RebalanceListener, TopicName, async_trait};
use highwater_protocol::v1;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use v1::AssignmentChangeKind as Kind;
use v1::subscribe_response::Response;

use crate::subscribe::session::Session;

pub(crate) type Answers = mpsc::Sender<Result<v1::SubscribeResponse, Status>>;

/// What the tasks of one stream share.
pub(crate) struct Shared {
    session: Mutex<Session>,
    /// Fires when there is credit.
    changed: Notify,
    released: Notify,
    /// The stream is over: the member leaves, waiting for nobody.
    closing: CancellationToken,
    /// Why, if not because the client is done.
    failure: Mutex<Option<v1::Error>>,
    answers: Answers,
    release_wait: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: v1::Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.closing.cancel();
    }

    fn failure(&self) -> Option<v1::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A client that takes no answer for so long holds its group up: the stream is closed.
    async fn tell(&self, response: Response) {
        let response = v1::SubscribeResponse { response: Some(response) };
        let sent = timeout(self.release_wait, self.answers.send(Ok(response))).await;
        if !matches!(sent, Ok(Ok(()))) {
            let message = format!("the client took no answer for {:?}, and held its group up", self.release_wait);
            self.fail(v1::Error::new(ErrorCode::RequestTimedOut, message));
        }
    }

    async fn tell_change(&self, change_id: u64, kind: Kind, of: &[(TopicName, PartitionId)], awaits_release: bool) {
        let named = |(topic, partition): &(TopicName, PartitionId)| v1::NamedPartition {
            topic: topic.to_string(),
            partition: partition.get(),
        };
        let partitions = of.iter().map(named).collect();
        let change = v1::AssignmentChange { change_id, kind: kind.into(), partitions, awaits_release };
        self.tell(Response::Change(change)).await;
    }
}

/// Tells the client of partitions that come and go.
struct Listener(Arc<Shared>);

#[async_trait]
impl RebalanceListener for Listener {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        let change_id = self.0.lock().next_change();
        self.0.tell_change(change_id, Kind::Assigned, partitions, false).await;
    }

    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        let shared = &*self.0;
        // A client that is gone is told nothing, and waited for not at all.
        if !shared.closing.is_cancelled() {
            let (change_id, awaits) = shared.lock().begin_revocation(partitions);
            shared.tell_change(change_id, Kind::Revoked, partitions, awaits).await;
            let released = async {
                while !shared.lock().is_released() {
                    shared.released.notified().await;
                }
            };
            tokio::select! {
                biased;
                () = shared.closing.cancelled() => {}
                _ = timeout(shared.release_wait, released) => {}
            }
        }
        shared.lock().remove(partitions);
    }

    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        let change_id = {
            let mut session = self.0.lock();
            session.remove(partitions);
            session.next_change()
        };
        self.0.tell_change(change_id, Kind::Lost, partitions, false).await;
    }
}
