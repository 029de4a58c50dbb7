//! When to elect: openraft's own timer is switched off, and this one drives it.
//!
//! It adds what openraft 0.9 lacks. **Pre-vote** (Raft dissertation, 9.6; KIP-996; TRAPS T20): before a term is begun, a
//! quorum must agree that the leader is silent, so that a controller which was cut off disturbs nobody when it returns.
//! **A new random timeout each round**, from a seedable source. **Handing over**: a leader that stops voids its lease and
//! names a successor, instead of leaving the others to wait.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use highwater_seams::Entropy;
use openraft::{Membership, ServerState};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::network::Peers;
use super::{ControllerNode, LogId, Metrics, Raft, Vote};

/// When a leader was last heard.
#[derive(Clone)]
pub(crate) struct LeaderContact(Arc<Mutex<Instant>>);

impl LeaderContact {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
    pub(crate) fn heard(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
    /// For how long there was silence.
    pub(crate) fn silence(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PreVoteRequest {
    /// In which the leader fell silent.
    pub term: u64,
    pub last_log_id: Option<LogId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PreVoteResponse {
    pub granted: bool,
}

/// From a leader that stops. It has committed nothing after it sent the first of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandOverRequest {
    /// The leader's own term.
    pub term: u64,
    pub successor: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandOverResponse {}

pub(crate) struct Elections {
    pub me: u64,
    pub raft: Raft,
    pub peers: Arc<Peers>,
    pub contact: LeaderContact,
    pub entropy: Arc<dyn Entropy>,
    /// Silence is counted as a dead leader after a time chosen between these. openraft's lease is as long as the shorter
    /// one, so that a vote asked for after it is not refused for the lease's sake.
    pub timeout_min: Duration,
    pub timeout_max: Duration,
    pub check_interval: Duration,
    /// Bounds a round of pre-votes.
    pub call_timeout: Duration,
}

impl Elections {
    /// Until the task is aborted.
    pub(crate) async fn run(self) {
        let metrics = self.raft.metrics();
        let mut timeout = self.timeout();
        let mut not_before = Instant::now();
        loop {
            tokio::time::sleep(self.check_interval).await;
            let now = metrics.borrow().clone();
            if now.running_state.is_err() {
                return;
            }
            let membership = now.membership_config.membership();
            let voters: BTreeSet<u64> = membership.voter_ids().collect();
            if now.state == ServerState::Leader || !voters.contains(&self.me) || Instant::now() < not_before {
                continue;
            }
            let alone = voters.len() == 1;
            if !alone && self.contact.silence() < timeout {
                continue;
            }
            if alone || self.pre_vote(&now, membership).await {
                // A failure is fatal, and seen above.
                let _ = self.raft.trigger().elect().await;
                // If nothing comes of it, the next round is at another time than that of the others.
                timeout = self.timeout();
                not_before = Instant::now() + self.call_timeout + timeout.saturating_sub(self.timeout_min);
            } else {
                // Somebody may have heard the leader a heartbeat later than this one.
                let pause = self.entropy.below(self.check_interval.as_millis() as u64 + 1);
                not_before = Instant::now() + Duration::from_millis(pause);
            }
        }
    }

    fn timeout(&self) -> Duration {
        let span = self.timeout_max.saturating_sub(self.timeout_min).as_millis() as u64;
        self.timeout_min + Duration::from_millis(self.entropy.below(span.max(1)))
    }

    async fn pre_vote(&self, now: &Metrics, membership: &Membership<u64, ControllerNode>) -> bool {
        let mut granted = BTreeSet::from([self.me]);
        let request = PreVoteRequest { term: now.current_term, last_log_id: last_log_id(&self.raft) };
        tracing::debug!(controller = self.me, term = now.current_term, "the leader is silent; asking for pre-votes");
        let peers = membership.voter_ids().filter(|id| *id != self.me);
        let mut asked: FuturesUnordered<_> = peers
            .filter_map(|id| membership.get_node(&id).map(|node| (id, node.clone())))
            .map(|(id, node)| {
                let (peers, request) = (Arc::clone(&self.peers), request.clone());
                let deadline = self.call_timeout;
                async move { (id, peers.pre_vote(id, &node, request, deadline).await) }
            })
            .collect();
        while !is_quorum(membership, &granted) {
            match asked.next().await {
                Some((id, Ok(PreVoteResponse { granted: true }))) => {
                    granted.insert(id);
                }
                Some(_) => {}
                None => return false,
            }
        }
        true
    }
}

pub(crate) fn last_log_id(raft: &Raft) -> Option<LogId> {
    raft.data_metrics().borrow().last_log
}

fn is_quorum(membership: &Membership<u64, ControllerNode>, granted: &BTreeSet<u64>) -> bool {
    // In a joint configuration, of each of the two.
    membership.get_joint_config().iter().all(|voters| voters.intersection(granted).count() * 2 > voters.len())
}

/// The vote that ends the lease of the leader of `request`, on whoever accepts it. It is given to the successor, in the
/// term after the leader's; the successor then asks for votes in the term after that one, as in any election. So handing
/// over changes when an election happens, and nothing of what makes it safe.
pub(crate) fn hand_over_vote(request: &HandOverRequest) -> Vote {
    Vote::new(request.term.saturating_add(1), request.successor)
}

/// Tells the other voters that this leader stops, the best-informed one last: it elects itself. Returns whether somebody
/// agreed to.
pub(crate) async fn hand_over(me: u64, raft: &Raft, peers: &Peers, deadline: Duration) -> bool {
    let now = raft.metrics().borrow().clone();
    if now.state != ServerState::Leader {
        return false;
    }
    let membership = now.membership_config.membership();
    let progress = now.replication.unwrap_or_default();
    let mut others: Vec<u64> = membership.voter_ids().filter(|id| *id != me).collect();
    others.sort_by_key(|id| std::cmp::Reverse((progress.get(id).copied().flatten(), std::cmp::Reverse(*id))));
    let Some(&successor) = others.first() else { return false };
    let request = HandOverRequest { term: now.current_term, successor };
    let call = async |id: u64| {
        let Some(node) = membership.get_node(&id) else { return false };
        let answer: Result<HandOverResponse, _> = peers.hand_over(id, node, request.clone(), deadline).await;
        answer.is_ok()
    };
    let told = futures::future::join_all(others[1..].iter().map(|id| call(*id))).await;
    let taken = call(successor).await;
    tracing::info!(controller = me, successor, taken, told = told.len(), "handed the active role over");
    taken
}
