//! Who votes, changed at run time: a new controller learns first and votes once it has caught up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{Command, Endpoint};
use highwater_protocol::v1;
use highwater_types::{ControllerId, ErrorCode};
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::Mutex;

use crate::active::{Proposals, not_active};
use crate::raft::{ControllerNode, Raft};

/// Time for a new controller to catch up, and for one change to be committed.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(30);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A controller this close to the end of the log has caught up.
const LAG_MAX: u64 = 50;

#[derive(Clone)]
pub(crate) struct Membership {
    me: ControllerId,
    raft: Raft,
    proposals: Proposals,
    /// One change at a time.
    changing: Arc<Mutex<()>>,
}

type Result<T> = std::result::Result<T, v1::Error>;

fn error(code: ErrorCode, message: impl Into<String>) -> v1::Error {
    v1::Error::new(code, message)
}

impl Membership {
    pub(crate) fn new(me: ControllerId, raft: Raft, proposals: Proposals) -> Self {
        Self { me, raft, proposals, changing: Arc::default() }
    }

    /// Makes `controller`, which runs at `endpoint` and waits to join, a voter. Again for a voter: nothing.
    pub(crate) async fn add(&self, controller: ControllerId, endpoint: Endpoint) -> Result<()> {
        let _one = self.changing.try_lock().map_err(|_| busy())?;
        let id = controller.get();
        let node = ControllerNode { host: endpoint.host.clone(), port: endpoint.port };
        let known = self.nodes();
        if let Some((other, _)) = known.iter().find(|(other, (at, _))| **other != id && *at == node) {
            return Err(error(ErrorCode::Conflict, format!("controller {other} is at {endpoint} already")));
        }
        match known.get(&id) {
            Some((at, true)) if *at == node => {}
            Some((at, true)) => {
                let message = format!("controller {id} votes already, at {}:{}; remove it first", at.host, at.port);
                return Err(error(ErrorCode::Conflict, message));
            }
            learner => {
                if learner.is_some_and(|(at, _)| *at != node) {
                    self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
                }
                self.change(ChangeMembers::AddNodes(BTreeMap::from([(id, node)]))).await?;
                if let Err(late) = self.caught_up(id, &endpoint).await {
                    // As it was: a voter that is not there would cost the quorum.
                    self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
                    return Err(late);
                }
                self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await?;
            }
        }
        self.proposals.submit(Command::AddController { controller, endpoint }, CHANGE_TIMEOUT).await.map(drop)
    }

    /// Takes `controller` out of the quorum; it can be stopped then.
    pub(crate) async fn remove(&self, controller: ControllerId) -> Result<()> {
        let _one = self.changing.try_lock().map_err(|_| busy())?;
        let id = controller.get();
        let known = self.nodes();
        let bookkeeping = self.proposals.submit(Command::RemoveController { controller }, CHANGE_TIMEOUT);
        match known.get(&id) {
            None => {
                // Whoever hears this may wipe its disk: a removal that is not committed may yet come to nothing.
                self.is_committed().await?;
                Err(error(ErrorCode::UnknownController, format!("there is no controller {id}")))
            }
            Some((_, false)) => self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await,
            Some((_, true)) if known.values().filter(|(_, votes)| *votes).count() == 1 => {
                Err(error(ErrorCode::InvalidRequest, format!("controller {id} is the last one and can't be removed")))
            }
            Some((_, true)) => {
                let remove = self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id])));
                if controller == self.me {
                    // It can decide nothing once it is out.
                    bookkeeping.await?;
                    remove.await
                } else {
                    remove.await?;
                    match bookkeeping.await {
                        // A former run had got this far.
                        Err(e) if e.code() == v1::ErrorCode::UnknownController => Ok(()),
                        done => done.map(drop),
                    }
                }
            }
        }
    }

    /// Every member, its endpoint, and whether it votes.
    fn nodes(&self) -> BTreeMap<u64, (ControllerNode, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        membership.nodes().map(|(id, node)| (*id, (node.clone(), voters.contains(id)))).collect()
    }

    /// Waits until all that this controller's log said of the members when it became active is committed.
    async fn is_committed(&self) -> Result<()> {
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(_))) => Err(not_active(self.me, &self.raft.metrics().borrow())),
            Ok(Err(RaftError::Fatal(reason))) => Err(error(ErrorCode::Internal, reason.to_string())),
            Err(_) => Err(error(ErrorCode::RequestTimedOut, format!("no quorum agreed within {CHANGE_TIMEOUT:?}"))),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, ControllerNode>) -> Result<()> {
        let what = format!("{change:?}");
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(not_active(self.me, &self.raft.metrics().borrow()))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(reason)))) => {
                Err(error(ErrorCode::Conflict, format!("the quorum can't be changed now: {reason}")))
            }
            Ok(Err(RaftError::Fatal(reason))) => Err(error(ErrorCode::Internal, reason.to_string())),
            Err(_) => {
                let message =
                    format!("no quorum agreed within {CHANGE_TIMEOUT:?}; the change may still happen: {what}");
                Err(error(ErrorCode::RequestTimedOut, message))
            }
        }
    }

    async fn caught_up(&self, id: u64, endpoint: &Endpoint) -> Result<()> {
        let mut metrics = self.raft.metrics();
        let caught_up = metrics.wait_for(|metrics| {
            let last = metrics.last_log_index.unwrap_or(0);
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
            matched.is_some_and(|matched| matched.index + LAG_MAX >= last)
        });
        match tokio::time::timeout(CATCH_UP_TIMEOUT, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(not_active(self.me, &self.raft.metrics().borrow())),
            Err(_) => {
                let message = format!(
                    "controller {id} did not catch up within {CATCH_UP_TIMEOUT:?}: is it running at {endpoint}, and was \
                     it started to join?"
                );
                Err(error(ErrorCode::InvalidRequest, message))
            }
        }
    }
}

fn busy() -> v1::Error {
    error(ErrorCode::Conflict, "another change of the controllers is in progress; try again when it is done")
}
