//! Raft's calls from other controllers. What openraft would take on trust is checked here first: a message that no
//! controller can have sent must not harm this one.

use std::time::Duration;

use highwater_protocol::internal::RaftMessage;
use highwater_protocol::internal::raft_server::Raft as RaftService;
use highwater_protocol::{status_from_error, v1};
use highwater_types::ErrorCode;
use openraft::ServerState;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, VoteRequest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::election::{
    HandOverRequest, HandOverResponse, LeaderContact, PreVoteRequest, PreVoteResponse, hand_over_vote, last_log_id,
};
use super::network::Envelope;
use super::{Applied, LogId, Raft, TypeConfig};

/// Answers other controllers.
pub(crate) struct RaftCalls {
    pub me: u64,
    pub raft: Raft,
    pub applied: Applied,
    pub contact: LeaderContact,
    /// For so long after it was heard, a leader counts as alive.
    pub lease: Duration,
    /// The configured cluster id, until the cluster states its own.
    pub cluster_id: Option<String>,
}

/// Above every log position there can be.
const NOWHERE: u64 = u64::MAX - 1;

fn refuse(code: ErrorCode, message: impl Into<String>) -> Status {
    status_from_error(v1::Error::new(code, message))
}

fn invalid(message: impl Into<String>) -> Status {
    refuse(ErrorCode::InvalidRequest, message)
}

fn stopped(error: &dyn std::error::Error) -> Status {
    refuse(ErrorCode::Unavailable, format!("this controller has stopped: {error}"))
}

fn answer<A: Serialize>(body: &A) -> Result<Response<RaftMessage>, Status> {
    let payload = serde_json::to_vec(body).map_err(|error| refuse(ErrorCode::Internal, error.to_string()))?;
    Ok(Response::new(RaftMessage { payload: payload.into() }))
}

impl RaftCalls {
    fn open<Q: DeserializeOwned>(&self, request: Request<RaftMessage>) -> Result<(u64, Q), Status> {
        let envelope: Envelope<Q> = serde_json::from_slice(&request.into_inner().payload)
            .map_err(|error| invalid(format!("not a message between controllers: {error}")))?;
        if envelope.to != self.me {
            return Err(invalid(format!(
                "this is controller {}, and the message is for controller {}: its address is wrong",
                self.me, envelope.to
            )));
        }
        let image = self.applied.image();
        let known = if image.cluster_id.is_empty() { self.cluster_id.as_deref() } else { Some(&*image.cluster_id) };
        if let Some(known) = known
            && !envelope.cluster.is_empty()
            && envelope.cluster != known
        {
            return Err(invalid(format!(
                "this controller is of cluster {known}, and controller {} is of cluster {}",
                envelope.from, envelope.cluster
            )));
        }
        Ok((envelope.from, envelope.body))
    }
}

/// What openraft asserts or assumes of the entries that it is sent.
fn check_entries(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
    if !request.vote.committed {
        return Err(invalid("entries from a controller that was not elected"));
    }
    let mut previous = request.prev_log_id;
    for entry in &request.entries {
        let expected = previous.map_or(Some(0), |id: LogId| id.index.checked_add(1));
        if Some(entry.log_id.index) != expected || Some(entry.log_id) <= previous {
            let found = entry.log_id;
            return Err(invalid(format!("a log with a hole: {found} does not follow {previous:?}")));
        }
        previous = Some(entry.log_id);
    }
    if request.prev_log_id.is_some_and(|id| id.index >= NOWHERE) {
        return Err(invalid("a log position that can't be"));
    }
    Ok(())
}

#[tonic::async_trait]
impl RaftService for RaftCalls {
    async fn append_entries(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (_, request) = self.open::<AppendEntriesRequest<TypeConfig>>(request)?;
        check_entries(&request)?;
        let result = self.raft.append_entries(request).await.map_err(|error| stopped(&error))?;
        if !matches!(result, AppendEntriesResponse::HigherVote(_)) {
            self.contact.heard();
        }
        answer(&result)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (_, request) = self.open::<VoteRequest<u64>>(request)?;
        if request.vote.committed {
            return Err(invalid("a vote is asked for by a controller that claims to be elected"));
        }
        let result = self.raft.vote(request).await.map_err(|error| stopped(&error))?;
        if result.vote_granted {
            // The candidate gets the time to become the leader.
            self.contact.heard();
        }
        answer(&result)
    }

    async fn install_snapshot(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (_, request) = self.open::<InstallSnapshotRequest<TypeConfig>>(request)?;
        if !request.vote.committed {
            return Err(invalid("a snapshot from a controller that was not elected"));
        }
        // Two different entries committed at one position can't be; openraft 0.9 would install it (its issue #1892).
        let applied = self.raft.data_metrics().borrow().last_applied;
        if let (Some(applied), Some(snapshot)) = (applied, request.meta.last_log_id)
            && snapshot > applied
            && snapshot.index <= applied.index
        {
            return Err(invalid(format!("a snapshot at {snapshot} contradicts what is committed here at {applied}")));
        }
        self.contact.heard();
        let result: Result<_, InstallSnapshotError> = match self.raft.install_snapshot(request).await {
            Ok(response) => Ok(response),
            Err(RaftError::APIError(error)) => Err(error),
            Err(RaftError::Fatal(error)) => return Err(stopped(&error)),
        };
        answer(&result)
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = self.open::<PreVoteRequest>(request)?;
        let (leads, term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            // A leader of old that has just restarted has not heard of its quorum yet, nor of its successor.
            let acknowledged = metrics.millis_since_quorum_ack.unwrap_or(u64::MAX);
            let followed = u128::from(acknowledged) <= self.lease.as_millis();
            (metrics.state == ServerState::Leader && followed, metrics.current_term)
        };
        tracing::debug!(
            controller = self.me,
            candidate = from,
            leads,
            term,
            asked = request.term,
            "asked for a pre-vote"
        );
        let granted = !leads && self.contact.silence() >= self.lease && request.last_log_id >= last_log_id(&self.raft);
        answer(&PreVoteResponse { granted })
    }

    async fn hand_over(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = self.open::<HandOverRequest>(request)?;
        let vote = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            if metrics.current_leader != Some(from) || metrics.vote.leader_id.term != request.term {
                return Err(invalid(format!("controller {from} does not lead in term {}", request.term)));
            }
            if !metrics.membership_config.voter_ids().any(|id| id == request.successor) {
                return Err(invalid(format!("controller {} does not vote", request.successor)));
            }
            hand_over_vote(&request)
        };
        // openraft 0.9 has no message for this. Entries that can't follow any log are refused after their vote was taken.
        let nowhere = LogId::new(openraft::CommittedLeaderId::new(u64::MAX, request.successor), NOWHERE);
        let void = AppendEntriesRequest { vote, prev_log_id: Some(nowhere), entries: Vec::new(), leader_commit: None };
        self.raft.append_entries(void).await.map_err(|error| stopped(&error))?;
        if request.successor == self.me {
            self.raft.trigger().elect().await.map_err(|error| stopped(&error))?;
        } else {
            self.contact.heard();
        }
        answer(&HandOverResponse {})
    }
}

#[cfg(test)]
mod tests {
    use openraft::{Entry, EntryPayload, Vote};

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(term, 1), index)
    }

    fn request(prev: Option<LogId>, entries: &[LogId]) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote::new_committed(3, 1),
            prev_log_id: prev,
            entries: entries.iter().map(|id| Entry { log_id: *id, payload: EntryPayload::Blank }).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn entries_that_leave_a_hole_are_refused_as_openraft_1795_would_send_them() {
        assert!(check_entries(&request(None, &[id(1, 0), id(1, 1), id(2, 2)])).is_ok());
        assert!(check_entries(&request(Some(id(1, 4)), &[id(2, 5)])).is_ok());
        assert!(check_entries(&request(Some(id(1, 4)), &[])).is_ok());
        assert!(check_entries(&request(None, &[id(1, 7)])).is_err());
        assert!(check_entries(&request(Some(id(1, 4)), &[id(1, 6)])).is_err());
        assert!(check_entries(&request(Some(id(2, 4)), &[id(1, 5)])).is_err());
        assert!(check_entries(&request(Some(id(1, u64::MAX)), &[])).is_err());
        let mut candidate = request(None, &[]);
        candidate.vote.committed = false;
        assert!(check_entries(&candidate).is_err());
    }
}
