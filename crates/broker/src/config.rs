//! What a broker is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use highwater_metadata::{Endpoint, NamedEndpoint};
use highwater_types::BrokerId;

use crate::error::StartError;

/// Settings of one broker. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    pub id: BrokerId,
    pub listen_host: String,
    /// 0: any free one.
    pub listen_port: u16,
    /// Where clients and other brokers reach this one; a port of 0 stands for the one listened on. `None`: as listened.
    pub advertised: Option<(String, u16)>,
    /// Of the further front doors that [`Broker::start_with`](crate::Broker::start_with) is given; without doors, none.
    pub listeners: Vec<ListenerConfig>,
    pub rack: Option<String>,
    /// Some controllers of the cluster; the others are learned from them.
    pub controllers: Vec<(String, u16)>,
    /// Each on a disk of its own: a disk that fails takes only its partitions along.
    pub data_dirs: Vec<PathBuf>,
    /// A follower that has not caught up for so long leaves the ISR.
    pub replica_lag_time_max_ms: u64,
    /// Memory for the newest batches of all partitions together.
    pub cache_bytes: usize,
    /// Appends are refused while a data dir has less than this free (T46).
    pub disk_reserve_bytes: u64,
    /// Logs of one data dir that are fsynced side by side.
    pub sync_parallel_max: usize,
    /// Logs of one data dir that are opened (and recovered) side by side at start.
    pub recovery_parallel_max: usize,
    /// How often high watermarks and recovery points are written down.
    pub checkpoint_interval_ms: u64,
    /// How often retention looks for segments to delete.
    pub retention_interval_ms: u64,
    /// How often compaction looks for logs that are dirty enough.
    pub compaction_interval_ms: u64,
    /// Most keys that one pass of compaction has in memory, at some 50 bytes each; a log with more takes several passes.
    pub compaction_keys_max: usize,
    /// How long a stop waits for leadership to move away.
    pub shutdown_timeout_ms: u64,
    /// Replicas of the internal topics' partitions. They are not made before there are as many brokers: what is made with
    /// fewer, because clients were faster than brokers, would stay so.
    pub internal_topics_replication_factor: u32,
    /// Of the internal topics, when they are made.
    pub offsets_topic_partitions: u32,
    /// A member of a group that is silent for so long is gone, and others take its partitions.
    pub group_session_timeout_ms: u64,
    /// How often members are to be heard of.
    pub group_heartbeat_interval_ms: u64,
    /// How long the first member of a group of the classic protocol waits for others, prolonged as they come; 0: not at all.
    pub group_initial_rebalance_delay_ms: u64,
    /// Members of one group.
    pub group_members_max: usize,
    /// How long the offsets of a group without members are kept.
    pub offsets_retention_ms: u64,
    pub transaction_topic_partitions: u32,
    /// The longest timeout that a transactional producer can ask for.
    pub transaction_timeout_max_ms: u32,
    /// How long an idle transactional id is remembered.
    pub transactional_id_expiration_ms: u64,
    pub limits: Limits,
}

/// Where a further front door listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// By which clients that came in here find the same door of other brokers.
    pub name: String,
    pub host: String,
    /// 0: any free one.
    pub port: u16,
    /// Where clients reach it; a port of 0 stands for the one listened on. `None`: as listened.
    pub advertised: Option<(String, u16)>,
}

impl ListenerConfig {
    /// Where clients reach it, once it listens on `port`.
    pub(crate) fn endpoint(&self, port: u16) -> NamedEndpoint {
        NamedEndpoint { name: self.name.clone(), endpoint: advertised(&self.host, self.advertised.as_ref(), port) }
    }
}

/// What others reach that listens on `port` of `host`.
pub(crate) fn advertised(host: &str, advertised: Option<&(String, u16)>, port: u16) -> Endpoint {
    match advertised {
        Some((host, 0)) => Endpoint::new(host.clone(), port),
        Some((host, port)) => Endpoint::new(host.clone(), *port),
        None => Endpoint::new(host, port),
    }
}

/// Bounds on what clients can make a broker hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time; further ones are closed at once.
    pub connections_max: usize,
    /// Streams and calls at a time on one connection.
    pub streams_per_connection_max: u32,
    /// Bytes of produce requests received and not yet answered, on one stream. Beyond it the stream is not read.
    pub produce_stream_bytes_max: usize,
    /// The same, over all streams of the broker.
    pub produce_bytes_max: usize,
    /// Fetch requests open at a time on one stream. Beyond it the stream is not read.
    pub fetch_stream_requests_max: usize,
    /// Bound of one fetch answer, whatever the client asks for.
    pub fetch_bytes_max: usize,
    /// Partitions in one request.
    pub partitions_per_request_max: usize,
    /// How long a request may ask to wait.
    pub wait_ms_max: u32,
    /// To how much the batches of one produce request may decompress, for their check.
    pub decompressed_bytes_max: usize,
    /// A peer that does not answer a ping for so long is gone.
    pub keepalive_ms: u64,
    /// A connection that has not spoken HTTP/2 by then is closed.
    pub handshake_ms: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            id: BrokerId::new(1),
            listen_host: "127.0.0.1".to_owned(),
            listen_port: 0,
            advertised: None,
            listeners: Vec::new(),
            rack: None,
            controllers: Vec::new(),
            data_dirs: vec![PathBuf::from("data")],
            replica_lag_time_max_ms: 10_000,
            cache_bytes: 64 << 20,
            disk_reserve_bytes: 256 << 20,
            sync_parallel_max: 8,
            recovery_parallel_max: 4,
            checkpoint_interval_ms: 5_000,
            retention_interval_ms: 30_000,
            compaction_interval_ms: 15_000,
            compaction_keys_max: 1 << 20,
            shutdown_timeout_ms: 10_000,
            internal_topics_replication_factor: 3,
            offsets_topic_partitions: 16,
            group_session_timeout_ms: 10_000,
            group_heartbeat_interval_ms: 1_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_members_max: 10_000,
            offsets_retention_ms: 7 * 24 * 3600 * 1000,
            transaction_topic_partitions: 16,
            transaction_timeout_max_ms: 15 * 60 * 1000,
            transactional_id_expiration_ms: 7 * 24 * 3600 * 1000,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_per_connection_max: 256,
            produce_stream_bytes_max: 32 << 20,
            produce_bytes_max: 256 << 20,
            fetch_stream_requests_max: 64,
            fetch_bytes_max: 56 << 20,
            partitions_per_request_max: 10_000,
            wait_ms_max: 300_000,
            decompressed_bytes_max: 64 << 20,
            keepalive_ms: 10_000,
            handshake_ms: 10_000,
        }
    }
}

impl BrokerConfig {
    pub(crate) fn check(&self) -> Result<(), StartError> {
        let wrong = |message: &str| Err(StartError::Config(message.to_owned()));
        if self.data_dirs.is_empty() {
            return wrong("a broker needs at least one data dir");
        }
        let mut sorted = self.data_dirs.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.len() < self.data_dirs.len() {
            return wrong("the same data dir is named twice");
        }
        let mut names: Vec<_> = self.listeners.iter().map(|listener| listener.name.as_str()).collect();
        names.sort_unstable();
        if names.first().is_some_and(|name| name.is_empty()) || names.windows(2).any(|pair| pair[0] == pair[1]) {
            return wrong("each listener needs a name of its own");
        }
        if self.internal_topics_replication_factor == 0 {
            return wrong("an internal topic needs at least one replica");
        }
        if self.offsets_topic_partitions == 0 || self.transaction_topic_partitions == 0 {
            return wrong("an internal topic needs at least one partition");
        }
        if self.replica_lag_time_max_ms == 0 {
            return wrong("replica_lag_time_max_ms must be at least 1");
        }
        Ok(())
    }

    pub(crate) fn replica_lag_time_max(&self) -> Duration {
        Duration::from_millis(self.replica_lag_time_max_ms)
    }

    pub(crate) fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }
}
