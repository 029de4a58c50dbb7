//! What a controller is told at its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use highwater_types::ControllerId;

use crate::error::StartError;

/// Settings of one controller. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    pub id: ControllerId,
    pub listen_host: String,
    /// 0: any free one.
    pub listen_port: u16,
    /// Where brokers and other controllers reach this one. A port of 0 stands for the one listened on.
    pub advertised: (String, u16),
    /// The voters of a new cluster, this controller among them. Ignored once there is a log.
    pub initial_voters: BTreeMap<ControllerId, (String, u16)>,
    /// Take no part in founding a cluster: wait to be added to one that exists.
    pub join: bool,
    /// Holds the metadata store; see [`crate::Controller::open_store`].
    pub data_dir: PathBuf,
    /// The cluster this controller must be of. `None`: whichever it finds, or a new one.
    pub cluster_id: Option<String>,
    /// openraft's own range. A leader that is silent for `election_timeout_max_ms` is presumed dead; each controller
    /// waits up to the difference of the two longer, by chance, so that not all try at once.
    pub election_timeout_min_ms: u64,
    pub election_timeout_max_ms: u64,
    /// Between heartbeats of the Raft leader.
    pub heartbeat_ms: u64,
    /// A broker that is silent for so long is fenced.
    pub session_timeout_ms: u32,
    /// A broker whose stream closed has so long to come back before it is fenced.
    pub fence_grace_ms: u32,
    /// Of topics created without stating it.
    pub default_partitions: u32,
    pub default_replication_factor: u32,
    /// How often leadership is moved back to preferred leaders; 0: never.
    pub preferred_leader_interval_ms: u64,
    /// Raft entries from one snapshot to the next.
    pub snapshot_interval_entries: u64,
    /// Records that a broker is sent at a time; one more at least.
    pub delta_bytes_max: usize,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            id: ControllerId::new(1),
            listen_host: "127.0.0.1".to_owned(),
            listen_port: 0,
            advertised: ("127.0.0.1".to_owned(), 0),
            initial_voters: BTreeMap::new(),
            join: false,
            data_dir: PathBuf::from("data"),
            cluster_id: None,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            heartbeat_ms: 50,
            session_timeout_ms: 3000,
            fence_grace_ms: 100,
            default_partitions: 1,
            default_replication_factor: 3,
            preferred_leader_interval_ms: 60_000,
            snapshot_interval_entries: 2000,
            // The stream's flow control then has something to hold on to.
            delta_bytes_max: 1 << 20,
        }
    }
}

impl ControllerConfig {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |message: String| Err(StartError::Config(message));
        if !self.join && !self.initial_voters.contains_key(&self.id) {
            return wrong(format!(
                "controller {} is not among the initial voters; add it there, or set join to wait to be added",
                self.id
            ));
        }
        if self.heartbeat_ms == 0
            || self.heartbeat_ms >= self.election_timeout_min_ms
            || self.election_timeout_min_ms >= self.election_timeout_max_ms
        {
            return wrong(format!(
                "heartbeat ({} ms) < shortest election timeout ({} ms) < longest election timeout ({} ms) must hold",
                self.heartbeat_ms, self.election_timeout_min_ms, self.election_timeout_max_ms
            ));
        }
        if self.session_timeout_ms < 100 {
            return wrong(format!(
                "a session timeout of {} ms is too short; 100 is the least",
                self.session_timeout_ms
            ));
        }
        Ok(())
    }

    pub(crate) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms.into())
    }

    /// What brokers are told to keep to.
    pub(crate) fn broker_heartbeat_ms(&self) -> u32 {
        (self.session_timeout_ms / 6).max(20)
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.election_timeout_max_ms)
    }

    /// A proposal that is not committed by then has lost its quorum.
    pub(crate) fn commit_timeout(&self) -> Duration {
        (self.lease() * 4).max(Duration::from_secs(2))
    }
}
