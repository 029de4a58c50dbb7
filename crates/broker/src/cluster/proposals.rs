//! Carries ISR proposals to the active controller, as many as wait in one call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::ClusterImage;
use highwater_protocol::internal::AlterPartitionsRequest;
use highwater_protocol::{PartitionKey, code_of, v1};
use highwater_replication::{ProposalOutcome, isr_error_outcome};
use highwater_types::mutation::{self, Mutation};
use highwater_types::{BrokerId, ErrorCode};
use tokio::sync::mpsc;

use super::{LinkMetrics, Proposal, Shared, calls, convert};

/// Proposals in one call.
const BATCH_MAX: usize = 2000;
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Until the link is closed.
pub(super) async fn carry(shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Proposal>) {
    let cancel = shared.cancel.clone();
    let mut batch: Vec<Proposal> = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            received = queue.recv_many(&mut batch, BATCH_MAX), if batch.is_empty() => {
                if received == 0 {
                    return;
                }
            }
            () = std::future::ready(()), if !batch.is_empty() => {}
        }
        // What came meanwhile rides along, also with what is tried again.
        while batch.len() < BATCH_MAX {
            let Ok(more) = queue.try_recv() else { break };
            batch.push(more);
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = carry_batch(&shared, &mut batch) => {}
        }
    }
}

/// One call; leaves in `batch` what is to be tried again.
async fn carry_batch(shared: &Shared, batch: &mut Vec<Proposal>) {
    drop_obsolete(&shared.image(), shared.config.broker, batch);
    let Some(broker_epoch) = shared.status.borrow().broker_epoch else {
        return tokio::time::sleep(RETRY_PAUSE).await;
    };
    if batch.is_empty() {
        return;
    }
    let request = AlterPartitionsRequest {
        broker_id: shared.config.broker.get(),
        broker_epoch: broker_epoch.get(),
        partitions: batch.iter().map(|waiting| convert::proposal(&waiting.proposal)).collect(),
    };
    let ask = |mut client: calls::Client| {
        let request = request.clone();
        async move { client.alter_partitions(request).await }
    };
    let result = shared.call(CALL_TIMEOUT, ask).await;
    LinkMetrics::add(&shared.metrics.proposal_calls, 1);
    match result {
        Ok(response) => {
            LinkMetrics::add(&shared.metrics.proposals, batch.len());
            let mut results = BTreeMap::new();
            for result in response.partitions {
                if let Some(tp) = result.partition.as_ref().and_then(|tp| tp.topic_partition().ok()) {
                    results.insert(tp, convert::altered(result));
                }
            }
            for waiting in batch.drain(..) {
                let missing = || {
                    let message = "the controller's answer leaves the partition out";
                    Err(v1::Error::new(ErrorCode::Internal, message))
                };
                let result = results.get(&waiting.proposal.partition).cloned().unwrap_or_else(missing);
                let result = result.map_err(|error| in_doubt(waiting.doubtful, error));
                // Whoever has given up waiting needs no answer.
                let _ = waiting.reply.send(result);
            }
        }
        // Compare-and-set: to ask again can do no harm, but from now on a refusal proves nothing.
        Err(error) if may_pass(&error) => {
            if error.outcome_unknown {
                batch.iter_mut().for_each(|waiting| waiting.doubtful = true);
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(error) => {
            tracing::warn!(code = %code_of(&error), message = error.message, "ISR proposals were refused");
            for waiting in batch.drain(..) {
                let _ = waiting.reply.send(Err(in_doubt(waiting.doubtful, error.clone())));
            }
        }
    }
}

/// A refusal for what the partition epoch does not show (a member was fenced) says nothing of an earlier attempt that is
/// still on its way: the leader must go on counting the members that it proposed (T11).
fn in_doubt(doubtful: bool, error: v1::Error) -> v1::Error {
    if doubtful && isr_error_outcome(code_of(&error)) == ProposalOutcome::Refused {
        let message = format!("an earlier attempt got no answer and may yet be carried out; then: {}", error.message);
        return v1::Error::new(ErrorCode::RequestTimedOut, message);
    }
    error
}

fn may_pass(error: &v1::Error) -> bool {
    matches!(
        code_of(error),
        ErrorCode::NotController
            | ErrorCode::ControllerNotAvailable
            | ErrorCode::Unavailable
            | ErrorCode::RequestTimedOut
            | ErrorCode::Throttled
    )
}

/// Answers those whose partition has moved on, by the newest image.
fn drop_obsolete(image: &ClusterImage, me: BrokerId, batch: &mut Vec<Proposal>) {
    let holds = |waiting: &Proposal| {
        if mutation::is_on(Mutation::IsrNotCompared) {
            return true;
        }
        let proposal = &waiting.proposal;
        image.partition(proposal.partition).is_some_and(|state| {
            state.leader == Some(me)
                && state.leader_epoch <= proposal.leader_epoch
                && state.partition_epoch <= proposal.partition_epoch
        })
    };
    for waiting in batch.extract_if(.., |waiting| !holds(waiting) || waiting.reply.is_closed()) {
        let message = "the partition has changed since the proposal was made";
        let _ = waiting.reply.send(Err(v1::Error::new(ErrorCode::InvalidUpdateVersion, message)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t11_a_refusal_after_an_attempt_without_answer_is_no_certainty() {
        let refusal = || v1::Error::new(ErrorCode::IneligibleReplica, "broker 2 is fenced");
        assert_eq!(code_of(&in_doubt(false, refusal())), ErrorCode::IneligibleReplica);
        let doubted = in_doubt(true, refusal());
        assert!(doubted.outcome_unknown && doubted.message.contains("broker 2 is fenced"));
        // What the partition epoch does show is certain: no attempt on that epoch can be taken any more.
        let stale = v1::Error::new(ErrorCode::InvalidUpdateVersion, "newer");
        assert_eq!(code_of(&in_doubt(true, stale)), ErrorCode::InvalidUpdateVersion);
    }
}
