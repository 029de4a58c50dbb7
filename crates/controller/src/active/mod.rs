//! The one controller that decides.
//!
//! Commands are taken from a queue, all that wait at once; each is decided on a working image by the pure code of
//! `highwater-metadata`; all their records together become one Raft entry, which states the version that it was decided
//! on; callers are answered when it is applied.
//!
//! **Invariant**: a controller decides only between a barrier of its own, committed and applied in this term (TRAPS
//! T28), and the moment it can't be sure any more that a quorum follows it (TRAPS T20). Whatever slips through is refused
//! by the version that the entry states.

mod probe;
mod queue;
mod reign;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use highwater_protocol::v1;
use highwater_seams::{Entropy, Net};
use highwater_types::{ControllerId, ErrorCode, MetadataVersion};
use openraft::ServerState;
use tokio::sync::{mpsc, watch};

pub(crate) use queue::{Decided, Heartbeat, Proposal, Proposals, SessionEvent, StorageReport};
pub(crate) use sessions::ConnectionId;

use crate::config::ControllerConfig;
use crate::raft::{Applied, Change, Metrics, Raft};
use reign::Reign;

/// Whether this controller is the active one. Each time it becomes that anew, also within a term, has its own number:
/// what was agreed on before does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Standby,
    Active { reign: u64 },
}

/// Takes over when this controller is elected, and steps aside when it is not sure of that any more.
pub(crate) struct ActiveLoop {
    pub me: ControllerId,
    pub config: Arc<ControllerConfig>,
    pub raft: Raft,
    pub applied: Applied,
    pub entropy: Arc<dyn Entropy>,
    pub net: Arc<dyn Net>,
    pub commands: mpsc::Receiver<Proposal>,
    pub events: mpsc::UnboundedReceiver<SessionEvent>,
    pub role: watch::Sender<Role>,
    /// True once this controller stops.
    pub stopping: watch::Receiver<bool>,
}

impl ActiveLoop {
    /// Until this controller stops. Whoever waits is answered.
    pub(crate) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut reign = 0;
        while !*self.stopping.borrow() {
            let leads = self.leads(&metrics.borrow_and_update());
            if let Some(term) = leads
                && self.take_over(term).await
            {
                reign += 1;
                Reign::new(&self, term).run(&mut self, Role::Active { reign }).await;
                self.role.send_replace(Role::Standby);
                continue;
            }
            tokio::select! {
                biased;
                _ = self.stopping.changed() => break,
                Some(proposal) = self.commands.recv() => {
                    let error = not_active(self.me, &metrics.borrow());
                    proposal.refuse(error);
                    // Nobody waits behind others to hear the same.
                    while let Ok(proposal) = self.commands.try_recv() {
                        proposal.refuse(not_active(self.me, &metrics.borrow()));
                    }
                }
                Some(_) = self.events.recv() => {}
                changed = metrics.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    // Metrics change with every message; what matters here may wait a moment.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        self.role.send_replace(Role::Standby);
        self.commands.close();
        while let Some(proposal) = self.commands.recv().await {
            proposal.refuse(not_active(self.me, &metrics.borrow()));
        }
    }

    /// The term in which this controller leads with a quorum that was heard lately.
    fn leads(&self, metrics: &Metrics) -> Option<u64> {
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let silence = metrics.millis_since_quorum_ack.map_or(u64::MAX, |ms| if alone { 0 } else { ms });
        let followed = alone || u128::from(silence) <= self.quorum_silence_max().as_millis();
        let leads = metrics.state == ServerState::Leader && metrics.running_state.is_ok();
        (leads && followed).then_some(metrics.current_term)
    }

    /// Twice the time after which the others elect somebody else: in between, entries state the version they expect, and
    /// nothing can be committed without a quorum.
    fn quorum_silence_max(&self) -> Duration {
        self.config.lease() * 2
    }

    /// Commits and applies an entry of this term: then all that earlier ones have decided is applied too.
    async fn take_over(&self, term: u64) -> bool {
        let barrier = Change { expected: MetadataVersion::ZERO, records: Arc::default() };
        let committed = tokio::time::timeout(self.config.lease() * 2, self.raft.client_write(barrier)).await;
        match committed {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::debug!(controller = %self.me, term, %error, "not the active controller after all");
                false
            }
            Err(_) => false,
        }
    }
}

/// The refusal that names the active controller, if it is known.
pub(crate) fn not_active(me: ControllerId, metrics: &Metrics) -> v1::Error {
    let other = metrics.current_leader.filter(|id| *id != me.get());
    let node = other.and_then(|id| metrics.membership_config.membership().get_node(&id).map(|node| (id, node.clone())));
    match node {
        Some((id, node)) => {
            let message =
                format!("controller {me} is not the active one; controller {id} is, at {}:{}", node.host, node.port);
            v1::Error::new(ErrorCode::NotController, message).with_leader(v1::LeaderHint {
                node_id: id,
                host: node.host,
                port: node.port.into(),
                leader_epoch: -1,
            })
        }
        None => {
            let message = format!("controller {me} is not the active one, and no other is known now; try again");
            v1::Error::new(ErrorCode::ControllerNotAvailable, message)
        }
    }
}
