//! One term of one active controller.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use highwater_metadata::{ClusterImage, Command, Endpoint, decide};
use highwater_protocol::v1;
use highwater_types::{BrokerId, ControllerId, ErrorCode};
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::{Instant, MissedTickBehavior};

use super::probe::Probes;
use super::queue::{Decided, Heartbeat, Proposal, SessionEvent, StorageReport, outcome_unknown};
use super::sessions::Sessions;
use super::{ActiveLoop, Role, not_active};
use crate::raft::Change;

/// Commands taken into one entry.
const COMMANDS_PER_ENTRY_MAX: usize = 512;
/// Records after which an entry is full; one command may still go beyond.
const RECORDS_PER_ENTRY_MAX: usize = 4096;

pub(super) struct Reign {
    term: u64,
    /// The image as it is once all that was committed is applied.
    image: Arc<ClusterImage>,
    sessions: Sessions,
    probes: Probes,
    /// Ours, waiting for the next entry.
    own: Vec<Proposal>,
    /// When this loop last came round.
    awake: Instant,
}

/// This controller is not the active one any more, or can't be sure.
struct Over;

impl Reign {
    pub(super) fn new(controller: &ActiveLoop, term: u64) -> Self {
        let image = controller.applied.image();
        let config = &controller.config;
        let grace = Duration::from_millis(config.fence_grace_ms.into());
        let now = Instant::now();
        let sessions = Sessions::begin(&image, config.session_timeout(), grace, now);
        let probes = Probes::begin(&image, &controller.net, grace);
        Self { term, image, sessions, probes, own: Vec::new(), awake: now }
    }

    /// Until this controller steps aside or stops.
    pub(super) async fn run(mut self, controller: &mut ActiveLoop, role: Role) {
        tracing::info!(controller = %controller.me, term = self.term, "now the active controller");
        if self.reign(controller, role).await.is_err() {
            tracing::info!(controller = %controller.me, term = self.term, "not the active controller any more");
        }
        for own in self.own {
            own.refuse(v1::Error::new(ErrorCode::NotController, "the term is over"));
        }
    }

    async fn reign(&mut self, controller: &mut ActiveLoop, role: Role) -> Result<(), Over> {
        self.found(controller).await?;
        controller.role.send_replace(role);
        let mut metrics = controller.raft.metrics();
        let mut stopping = controller.stopping.clone();
        let awake_interval = controller.config.session_timeout() / 8;
        let mut heartbeat = tokio::time::interval(awake_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let preferred = Duration::from_millis(controller.config.preferred_leader_interval_ms);
        let mut preferred_at = (!preferred.is_zero()).then(|| Instant::now() + preferred);
        loop {
            if *stopping.borrow() {
                return Ok(());
            }
            if controller.leads(&metrics.borrow_and_update()) != Some(self.term) {
                return Err(Over);
            }
            let mut taken = Vec::new();
            tokio::select! {
                biased;
                _ = stopping.changed() => return Ok(()),
                // Before deadlines: a sign of life that waits here was in time.
                Some(event) = controller.events.recv() => {
                    self.woke(awake_interval * 4);
                    self.event(event);
                    while let Ok(event) = controller.events.try_recv() {
                        self.event(event);
                    }
                }
                Some(proposal) = controller.commands.recv() => taken.push(proposal),
                (broker, epoch) = self.probes.next_refused() => self.sessions.refused(broker, epoch, Instant::now()),
                () = until(self.sessions.next_deadline()) => {
                    self.woke(awake_interval * 4);
                    self.expire();
                }
                () = until(preferred_at) => {
                    preferred_at = Some(Instant::now() + preferred);
                    self.prefer();
                }
                // So that a pause of this process is noticed.
                _ = heartbeat.tick() => self.woke(awake_interval * 4),
                changed = metrics.changed() => changed.map_err(|_| Over)?,
            }
            self.decide(controller, taken).await?;
        }
    }

    /// What a cluster needs before anything else: its id, and the controllers that brokers can turn to.
    async fn found(&mut self, controller: &mut ActiveLoop) -> Result<(), Over> {
        if self.image.cluster_id.is_empty() {
            let cluster_id = controller.config.cluster_id.clone();
            self.own.push(Proposal::internal(Command::CreateCluster { cluster_id }));
        }
        let membership = controller.raft.metrics().borrow().membership_config.clone();
        let membership = membership.membership();
        let voters: BTreeSet<ControllerId> = membership.voter_ids().map(ControllerId::new).collect();
        for id in &voters {
            let Some(node) = membership.get_node(&id.get()) else { continue };
            let endpoint = Endpoint::new(node.host.clone(), node.port);
            if self.image.controllers.get(id).is_none_or(|known| known.endpoint != endpoint) {
                self.own.push(Proposal::internal(Command::AddController { controller: *id, endpoint }));
            }
        }
        for id in self.image.controllers.keys().filter(|id| !voters.contains(id)) {
            self.own.push(Proposal::internal(Command::RemoveController { controller: *id }));
        }
        self.decide(controller, Vec::new()).await
    }

    fn propose(&mut self, command: Command) {
        self.own.push(Proposal::internal(command));
    }

    fn event(&mut self, event: SessionEvent) {
        let now = Instant::now();
        match event {
            SessionEvent::Opened { broker, broker_epoch, connection, version } => {
                self.sessions.opened(broker, broker_epoch, connection, version, now);
            }
            SessionEvent::Heartbeat { broker, connection, heartbeat } => {
                if self.sessions.heard(broker, connection, now) {
                    self.heartbeat(broker, heartbeat);
                }
            }
            SessionEvent::Closed { broker, connection } => self.sessions.closed(broker, connection, now),
        }
    }

    fn heartbeat(&mut self, broker: BrokerId, heartbeat: Heartbeat) {
        let Some(broker_epoch) = self.sessions.broker_epoch(broker) else { return };
        let Some(state) = self.image.broker(broker).filter(|state| state.broker_epoch == broker_epoch).cloned() else {
            return;
        };
        let Heartbeat { metadata_version, wants_shutdown, log_ends, storage } = heartbeat;
        // Before it may lead again.
        if self.sessions.note_storage(broker, &storage) {
            let StorageReport { unusable, lost, doubtful } = storage;
            tracing::info!(%broker, ?unusable, ?lost, ?doubtful, "what a broker's disks can't serve or vouch for");
            self.propose(Command::ReportUnusable { broker, broker_epoch, unusable, lost, doubtful });
        }
        if state.fenced && !wants_shutdown && self.sessions.has_caught_up(broker, metadata_version) {
            self.propose(Command::UnfenceBroker { broker, broker_epoch });
        }
        if !log_ends.is_empty() {
            self.propose(Command::ReportLogEnds { broker, broker_epoch, ends: log_ends });
        }
        // Again and again until it is complete: replicas that come into sync meanwhile can take over.
        if wants_shutdown && !(state.shutting_down && self.image.controlled_shutdown_is_complete(broker)) {
            self.propose(Command::BeginControlledShutdown { broker, broker_epoch });
        }
    }

    /// What this controller did not hear because it did not run itself says nothing of the brokers.
    fn woke(&mut self, pause_max: Duration) {
        let now = Instant::now();
        let pause = now.duration_since(self.awake);
        if pause > pause_max {
            tracing::warn!(?pause, "this controller did not run for a while");
            self.sessions.pardon(now);
        }
        self.awake = now;
    }

    /// Fences the brokers whose time is up.
    fn expire(&mut self) {
        let now = Instant::now();
        let seen = self.image.version.plus(1);
        for (broker, broker_epoch) in self.sessions.expire(seen, now) {
            if self.image.broker(broker).is_some_and(|b| b.broker_epoch == broker_epoch && !b.fenced) {
                tracing::info!(%broker, %broker_epoch, "the broker is gone or silent; fencing it");
                self.propose(Command::FenceBroker { broker, broker_epoch });
            }
        }
    }

    /// Leadership goes back to preferred leaders that are in sync again.
    fn prefer(&mut self) {
        let image = &self.image;
        let strayed = image.partitions().any(|(_, state)| {
            let Some(first) = state.replicas.first() else { return false };
            state.leader != Some(*first) && state.isr.contains(first) && image.is_active(*first)
        });
        if strayed {
            self.propose(Command::ElectPreferred { topics: BTreeSet::new() });
        }
    }

    /// Takes what waits, decides it, commits it as one entry, and answers.
    async fn decide(&mut self, controller: &mut ActiveLoop, taken: Vec<Proposal>) -> Result<(), Over> {
        self.awake = Instant::now();
        let mut waiting: Vec<Proposal> = self.own.drain(..).chain(taken).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let mut image = ClusterImage::clone(&self.image);
        let mut records = Vec::new();
        let mut decided: Vec<(Proposal, Result<Decided, v1::Error>)> = Vec::new();
        let mut next = 0;
        loop {
            for proposal in waiting.drain(..) {
                let seed = controller.entropy.next_u64();
                let result = decide(&image, &proposal.command, seed)
                    .map_err(|error| v1::Error::new(error.code(), error.to_string()));
                let result = result.and_then(|decision| {
                    if let Err(error) = image.replay_all(&decision.records) {
                        tracing::error!(%error, command = ?proposal.command, "a decision does not fit its own image");
                        // Whole or not at all; what was decided before it stands.
                        image = ClusterImage::clone(&self.image);
                        let _ = image.replay_all(&records);
                        return Err(v1::Error::new(ErrorCode::Internal, error.to_string()));
                    }
                    records.extend(decision.records);
                    Ok(Decided { response: decision.response, version: image.version })
                });
                decided.push((proposal, result));
            }
            next += 1;
            if next >= COMMANDS_PER_ENTRY_MAX || records.len() >= RECORDS_PER_ENTRY_MAX {
                break;
            }
            match controller.commands.try_recv() {
                Ok(proposal) => waiting.push(proposal),
                Err(_) => break,
            }
        }
        let committed = if records.is_empty() { Ok(()) } else { self.commit(controller, records, image).await };
        match committed {
            Ok(()) => {
                decided.into_iter().for_each(|(proposal, result)| proposal.answer(result));
                Ok(())
            }
            Err(error) => {
                // Also those that were refused: it may have been for the sake of a command that is not committed.
                decided.into_iter().for_each(|(proposal, _)| proposal.refuse(error.clone()));
                if error.code() == v1::ErrorCode::Conflict { Ok(()) } else { Err(Over) }
            }
        }
    }

    /// Commits `records`, decided on the present image, and makes `image`, their effect, the present one.
    async fn commit(
        &mut self,
        controller: &ActiveLoop,
        records: Vec<highwater_metadata::Record>,
        image: ClusterImage,
    ) -> Result<(), v1::Error> {
        let change = Change { expected: self.image.version, records: Arc::new(records) };
        let timeout = controller.config.commit_timeout();
        let deposed = async {
            let mut metrics = controller.raft.metrics();
            // Not for a quorum that is silent: it may come back within the timeout.
            let leads = |m: &crate::raft::Metrics| {
                m.state == openraft::ServerState::Leader && m.current_term == self.term && m.running_state.is_ok()
            };
            let _ = metrics.wait_for(|m| !leads(m)).await;
        };
        let written = tokio::select! {
            biased;
            written = tokio::time::timeout(timeout, controller.raft.client_write(change)) => written,
            () = deposed => return Err(outcome_unknown("another controller took over meanwhile")),
        };
        match written {
            Ok(Ok(response)) if response.data.accepted && response.data.version == image.version => {
                self.image = Arc::new(image);
                Ok(())
            }
            Ok(Ok(response)) => {
                tracing::warn!(version = %response.data.version, "decided on an old image; nothing was changed");
                self.image = controller.applied.image();
                self.sessions.forget_storage();
                Err(v1::Error::new(ErrorCode::Conflict, "the metadata changed meanwhile; try again"))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(not_active(controller.me, &controller.raft.metrics().borrow()))
            }
            Ok(Err(error)) => Err(outcome_unknown(&error.to_string())),
            Err(_) => Err(outcome_unknown(&format!("no quorum of controllers answered within {timeout:?}"))),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
