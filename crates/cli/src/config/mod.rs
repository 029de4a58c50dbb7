//! The configuration of a server: one TOML file, environment variables over it, flags over both.

mod check;
mod flags;
mod load;
mod print;
mod settings;
mod values;

use std::path::PathBuf;

use highwater_types::{BrokerId, ControllerId};

pub use flags::SettingFlags;
pub use load::load;
pub use print::print_default;
pub use values::{ByteSize, HostPort, Listeners, LogFilter, LogFormat, Role, Roles, Voters};

/// All settings; see [`settings::SETTINGS`] for what each means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub node: NodeSection,
    pub controller: ControllerSection,
    pub broker: BrokerSection,
    pub kafka: KafkaSection,
    pub limits: LimitsSection,
    pub log: LogSection,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSection {
    pub roles: Roles,
    pub worker_threads: usize,
    pub metrics_listen: Option<HostPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerSection {
    pub id: ControllerId,
    pub listen: HostPort,
    pub advertised: Option<HostPort>,
    pub voters: Voters,
    pub join: bool,
    pub data_dir: PathBuf,
    pub cluster_id: Option<String>,
    pub election_timeout_min_ms: u64,
    pub election_timeout_max_ms: u64,
    pub heartbeat_ms: u64,
    pub session_timeout_ms: u32,
    pub fence_grace_ms: u32,
    pub default_partitions: u32,
    pub default_replication_factor: u32,
    pub preferred_leader_interval_ms: u64,
    pub snapshot_interval_entries: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerSection {
    pub id: BrokerId,
    pub listen: HostPort,
    pub advertised: Option<HostPort>,
    pub rack: Option<String>,
    pub controllers: Vec<HostPort>,
    pub data_dirs: Vec<PathBuf>,
    pub replica_lag_time_max_ms: u64,
    pub cache_bytes: ByteSize,
    pub disk_reserve_bytes: ByteSize,
    pub sync_parallel_max: usize,
    pub recovery_parallel_max: usize,
    pub checkpoint_interval_ms: u64,
    pub retention_interval_ms: u64,
    pub compaction_interval_ms: u64,
    pub compaction_keys_max: usize,
    pub shutdown_timeout_ms: u64,
    pub internal_topics_replication_factor: u32,
    pub offsets_topic_partitions: u32,
    pub group_session_timeout_ms: u64,
    pub group_heartbeat_interval_ms: u64,
    pub group_initial_rebalance_delay_ms: u64,
    pub group_members_max: usize,
    pub offsets_retention_ms: u64,
    pub transaction_topic_partitions: u32,
    pub transaction_timeout_max_ms: u32,
    pub transactional_id_expiration_ms: u64,
}

/// The door of Kafka clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSection {
    pub listeners: Listeners,
    pub advertised_listeners: Listeners,
    pub auto_create_topics: bool,
    pub request_bytes_max: ByteSize,
    pub idle_ms: u64,
}

/// What clients can make a broker hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsSection {
    pub connections_max: usize,
    pub streams_per_connection_max: u32,
    pub produce_stream_bytes_max: ByteSize,
    pub produce_bytes_max: ByteSize,
    pub fetch_stream_requests_max: usize,
    pub fetch_bytes_max: ByteSize,
    pub partitions_per_request_max: usize,
    pub wait_ms_max: u32,
    pub decompressed_bytes_max: ByteSize,
    pub keepalive_ms: u64,
    pub handshake_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSection {
    pub level: LogFilter,
    pub format: LogFormat,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { roles: Roles([Role::Controller, Role::Broker].into()), worker_threads: 0, metrics_listen: None }
    }
}

impl Default for ControllerSection {
    fn default() -> Self {
        Self {
            id: ControllerId::new(1),
            listen: HostPort::new("127.0.0.1", 9093),
            advertised: None,
            voters: Voters::default(),
            join: false,
            data_dir: PathBuf::from("highwater-data/controller"),
            cluster_id: None,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
            heartbeat_ms: 50,
            session_timeout_ms: 3_000,
            fence_grace_ms: 100,
            default_partitions: 1,
            default_replication_factor: 3,
            preferred_leader_interval_ms: 60_000,
            snapshot_interval_entries: 2_000,
        }
    }
}

impl Default for BrokerSection {
    fn default() -> Self {
        Self {
            id: BrokerId::new(1),
            listen: HostPort::new("127.0.0.1", 9092),
            advertised: None,
            rack: None,
            controllers: Vec::new(),
            data_dirs: vec![PathBuf::from("highwater-data/broker")],
            replica_lag_time_max_ms: 10_000,
            cache_bytes: ByteSize(64 << 20),
            disk_reserve_bytes: ByteSize(256 << 20),
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
            offsets_retention_ms: 604_800_000,
            transaction_topic_partitions: 16,
            transaction_timeout_max_ms: 900_000,
            transactional_id_expiration_ms: 604_800_000,
        }
    }
}

impl Default for KafkaSection {
    fn default() -> Self {
        Self {
            listeners: Listeners(vec![("PLAINTEXT".to_owned(), HostPort::new("127.0.0.1", 9094))]),
            advertised_listeners: Listeners::default(),
            auto_create_topics: false,
            request_bytes_max: ByteSize(100 << 20),
            idle_ms: 600_000,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            streams_per_connection_max: 256,
            produce_stream_bytes_max: ByteSize(32 << 20),
            produce_bytes_max: ByteSize(256 << 20),
            fetch_stream_requests_max: 64,
            fetch_bytes_max: ByteSize(56 << 20),
            partitions_per_request_max: 10_000,
            wait_ms_max: 300_000,
            decompressed_bytes_max: ByteSize(64 << 20),
            keepalive_ms: 10_000,
            handshake_ms: 10_000,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: LogFilter("info".to_owned()), format: LogFormat::Text }
    }
}

impl ControllerSection {
    /// Where others reach this controller.
    pub fn endpoint(&self) -> &HostPort {
        self.advertised.as_ref().unwrap_or(&self.listen)
    }
}

impl Config {
    /// The controllers that the broker starts from.
    pub fn controllers_of_broker(&self) -> Vec<HostPort> {
        if !self.broker.controllers.is_empty() {
            return self.broker.controllers.clone();
        }
        let voters: Vec<HostPort> = self.controller.voters.0.values().cloned().collect();
        if voters.is_empty() && self.node.roles.controller() {
            return vec![self.controller.endpoint().clone()];
        }
        voters
    }
}
