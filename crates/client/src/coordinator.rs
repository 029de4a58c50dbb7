//! Who coordinates a group or a transactional id: found by asking any broker, remembered, and found again when it has
//! moved.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_protocol::v1;
use highwater_types::{BrokerId, ErrorCode, Outcome};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic::{Response, Status};
use v1::coordinator_client::CoordinatorClient;

use crate::AdminError;
use crate::ask::{ask, ask_once, coordinator};
use crate::backoff::Backoff;
use crate::client::ClientInner;

pub(crate) struct Coordinator {
    client: Arc<ClientInner>,
    kind: v1::CoordinatorKind,
    key: String,
    known: Mutex<Option<BrokerId>>,
}

impl Coordinator {
    pub fn of_group(client: &Arc<ClientInner>, group: &str) -> Self {
        Self::new(client, v1::CoordinatorKind::Group, group)
    }

    pub fn of_transactions(client: &Arc<ClientInner>, transactional_id: &str) -> Self {
        Self::new(client, v1::CoordinatorKind::Transaction, transactional_id)
    }

    fn new(client: &Arc<ClientInner>, kind: v1::CoordinatorKind, key: &str) -> Self {
        Self { client: Arc::clone(client), kind, key: key.to_owned(), known: Mutex::new(None) }
    }

    /// Asks it once. An answer that it is another's task, or none, makes the next call look for it again.
    pub async fn call_once<T, F, Fut>(&self, what: &str, deadline: Instant, send: F) -> Result<T, AdminError>
    where
        F: FnOnce(CoordinatorClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let broker = self.find(what, deadline).await?;
        let Some(channel) = self.client.channel(broker) else {
            self.forget();
            let why = format!("the address of its coordinator, broker {broker}, is not known yet");
            return Err(AdminError::new(what, ErrorCode::CoordinatorNotAvailable, why));
        };
        let answer = ask_once(what, broker, deadline, send(coordinator(channel))).await;
        if let Err(error) = &answer
            && moves_on(error.code)
        {
            self.forget();
        }
        answer
    }

    /// Asks it until it answers, `may_repeat` forbids it, or time is up. The last answer is returned; where what became of an
    /// attempt before is unknown, so is what became of all, whatever the last one was told.
    pub async fn call<T, F, Fut>(
        &self,
        what: &str,
        deadline: Instant,
        may_repeat: impl Fn(&AdminError) -> bool,
        send: F,
    ) -> Result<T, AdminError>
    where
        F: Fn(CoordinatorClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(500));
        let mut outcome = Outcome::NotApplied;
        loop {
            let mut error = match self.call_once(what, deadline, &send).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.outcome == Outcome::Unknown {
                outcome = Outcome::Unknown;
            }
            error.outcome = outcome;
            let mut pause = backoff.next(&*self.client.seams.entropy);
            if error.code == ErrorCode::ConcurrentTransactions {
                // The transaction before ends within some milliseconds.
                pause /= 5;
            }
            if !error.is_retriable() || !may_repeat(&error) || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    async fn find(&self, what: &str, deadline: Instant) -> Result<BrokerId, AdminError> {
        if let Some(known) = *self.known() {
            return Ok(known);
        }
        let request = v1::FindCoordinatorRequest { kind: self.kind.into(), key: self.key.clone() };
        let send = |channel| {
            let request = request.clone();
            async move { coordinator(channel).find_coordinator(request).await }
        };
        let found = ask(&self.client, what, deadline, send, |_| true).await?;
        let broker = BrokerId::new(found.broker_id);
        *self.known() = Some(broker);
        Ok(broker)
    }

    fn forget(&self) {
        *self.known() = None;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<BrokerId>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers after which another broker may be the one to ask.
fn moves_on(code: ErrorCode) -> bool {
    use ErrorCode as E;
    matches!(
        code,
        E::NotCoordinator | E::CoordinatorNotAvailable | E::Unavailable | E::RequestTimedOut | E::BrokerShuttingDown
    )
}
