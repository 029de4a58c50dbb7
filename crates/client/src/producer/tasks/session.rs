//! Gets the sessions that an idempotent producer numbers its batches in: when the first is sent, and whenever a numbering
//! broke off.

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::v1;
use highwater_types::{ProducerEpoch, ProducerId};
use tokio::time::{Instant, sleep};

use crate::AdminError;
use crate::ask::{ask, coordinator};
use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::producer::numbering::Session;
use crate::producer::shared::Shared;

/// One round over the brokers. Then it is noted why records wait, and another begins.
const ROUND: Duration = Duration::from_secs(2);

/// Runs until the producer is done.
pub(crate) async fn keep_session(shared: Arc<Shared>) {
    let mut done = shared.done.subscribe();
    let keep = async {
        loop {
            shared.session_wanted.notified().await;
            let mut backoff = Backoff::new(shared.config.retry_backoff, shared.config.retry_backoff_max);
            while shared.lock().waits_for_session() {
                match new_session(&shared.client).await {
                    Ok(session) => {
                        tracing::debug!(id = %session.id, epoch = %session.epoch, "numbering in a new session");
                        shared.lock().set_session(session);
                    }
                    Err(error) => {
                        let message = error.to_string().into();
                        let settled = shared.lock().no_session(error.code, &message, !error.is_retriable());
                        shared.settle(settled);
                        sleep(backoff.next(&*shared.client.seams.entropy)).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        biased;
        _ = done.wait_for(|done| *done) => {}
        () = keep => {}
    }
}

async fn new_session(client: &Arc<ClientInner>) -> Result<Session, AdminError> {
    let request = v1::InitProducerIdRequest {
        transactional_id: String::new(),
        transaction_timeout_ms: 0,
        producer_id: ProducerId::NONE.get(),
        producer_epoch: ProducerEpoch::NONE.get().into(),
    };
    let send = |channel| {
        let request = request.clone();
        async move { coordinator(channel).init_producer_id(request).await }
    };
    // An id that nobody gets to know is no loss.
    let answer = ask(client, "get a producer id", Instant::now() + ROUND, send, |_| true).await?;
    Session::from_wire(answer.producer_id, answer.producer_epoch)
        .ok_or_else(|| AdminError::new("get a producer id", crate::ErrorCode::Internal, "the answer has none in it"))
}
