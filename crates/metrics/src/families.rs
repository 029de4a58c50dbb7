//! The names of everything that a node measures: `docs/metrics.md` has the same list, in words.

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from the start of the process.
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Samples of one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// Names of the labels of each sample.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! families {
    ($($konst:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub static $konst: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        /// All there are.
        pub static ALL: &[&Family] = &[$(&$konst),*];
    };
}

families! {
    // The data path of a broker.
    TOPIC_BYTES_IN: Counter "highwater_topic_bytes_in_total" ["topic"]
        "Bytes of record batches that producers had appended, at the leader.";
    TOPIC_RECORDS_IN: Counter "highwater_topic_records_in_total" ["topic"]
        "Records that producers had appended, at the leader.";
    TOPIC_BYTES_OUT: Counter "highwater_topic_bytes_out_total" ["topic"]
        "Bytes of record batches sent to consumers.";
    TOPIC_RECORDS_OUT: Counter "highwater_topic_records_out_total" ["topic"]
        "Records in the batches sent to consumers.";
    TOPIC_COMMITTED: Counter "highwater_topic_committed_offsets_total" ["topic"]
        "How far high watermarks have advanced, at the leader, in offsets.";
    TOPIC_LOG_BYTES: Gauge "highwater_topic_log_bytes" ["topic"]
        "Size of the logs of this broker's replicas.";
    PRODUCE_SECONDS: Histogram "highwater_produce_request_seconds" []
        "From a produce request's arrival to its answer.";
    FETCH_SECONDS: Histogram "highwater_fetch_request_seconds" []
        "From a consumer's fetch request to its answer, with the time it asked to wait for records.";
    REQUESTS_REFUSED: Counter "highwater_requests_refused_total" ["api", "reason"]
        "Partitions of produce and fetch requests, or whole requests, that were answered with an error.";
    PRODUCE_THROTTLED: Counter "highwater_produce_throttled_total" []
        "Produce requests that had to wait because limits.produce_bytes_max was reached.";
    PRODUCE_PENDING_BYTES: Gauge "highwater_produce_pending_bytes" []
        "Produce requests received and not answered yet.";
    CONNECTIONS: Gauge "highwater_connections" [] "Open connections of clients and other nodes to the broker.";
    CONNECTIONS_ACCEPTED: Counter "highwater_connections_accepted_total" [] "Connections taken by the broker.";
    CONNECTIONS_REFUSED: Counter "highwater_connections_refused_total" []
        "Connections closed at once because limits.connections_max was reached.";
    KAFKA_REQUESTS: Counter "highwater_kafka_requests_total" ["api"] "Requests of Kafka clients, by API.";
    KAFKA_ERRORS: Counter "highwater_kafka_errors_total" ["api", "error"]
        "Errors that Kafka clients were told of, by API: one for each part of an answer, as of a partition.";
    KAFKA_CONNECTIONS: Gauge "highwater_kafka_connections" ["listener"]
        "Open connections of Kafka clients; highwater_connections has them too.";
    KAFKA_CLOSED: Counter "highwater_kafka_connections_closed_total" ["reason"]
        "Connections of Kafka clients that the broker closed.";

    // Replication.
    PARTITIONS: Gauge "highwater_partitions" [] "Partitions with a replica on this broker.";
    PARTITIONS_LED: Gauge "highwater_partitions_led" [] "Partitions that this broker leads.";
    UNDER_REPLICATED: Gauge "highwater_partitions_under_replicated" []
        "Partitions led here with fewer in-sync replicas than replicas.";
    UNDER_MIN_ISR: Gauge "highwater_partitions_under_min_isr" []
        "Partitions led here with fewer in-sync replicas than min.insync.replicas: acks=all is refused.";
    UNUSABLE: Gauge "highwater_partitions_unusable" []
        "Replicas here that can't be served: their disk failed or their log is damaged.";
    ISR_SHRINKS: Counter "highwater_isr_shrinks_total" []
        "How often a partition led here lost in-sync replicas.";
    ISR_EXPANSIONS: Counter "highwater_isr_expansions_total" []
        "How often a partition led here gained in-sync replicas.";
    LEADERSHIPS: Counter "highwater_leaderships_begun_total" [] "How often this broker began to lead a partition.";
    LAG_RECORDS: Gauge "highwater_follower_lag_records_max" []
        "Offsets that the furthest behind of the followers of partitions led here is behind; all of the log for one that has not fetched yet.";
    LAG_SECONDS: Gauge "highwater_follower_lag_seconds_max" []
        "Longest time that a follower of a partition led here has not had all of the log.";
    REPLICA_BYTES_IN: Counter "highwater_replica_bytes_in_total" []
        "Bytes of record batches that this broker appended as follower.";
    REPLICA_BYTES_OUT: Counter "highwater_replica_bytes_out_total" []
        "Bytes of record batches that this broker sent to followers.";

    // Disks.
    FSYNC_SECONDS: Histogram "highwater_fsync_seconds" ["dir"] "Group commits of a log: how long its fsync took.";
    DISK_FREE_BYTES: Gauge "highwater_disk_free_bytes" ["dir"] "Free space of a data dir's disk, looked up every second.";
    DISK_FULL: Gauge "highwater_disk_full" ["dir"]
        "1 while less than broker.disk_reserve_bytes is free: appends are refused.";
    DISK_OFFLINE: Gauge "highwater_disk_offline" ["dir"]
        "1 once an I/O error took the data dir offline, until the process starts anew.";
    COMPACTIONS: Counter "highwater_compactions_total" ["result"] "Passes of log compaction.";
    COMPACTION_READ_BYTES: Counter "highwater_compaction_read_bytes_total" [] "Log bytes that compaction replaced.";
    COMPACTION_WRITTEN_BYTES: Counter "highwater_compaction_written_bytes_total" []
        "Log bytes that compaction put in their place.";

    // Coordinators.
    COORDINATORS: Gauge "highwater_coordinator_partitions" ["topic"]
        "Partitions of an internal topic whose coordinator is here and loaded.";
    GROUPS: Gauge "highwater_groups" ["state"] "Consumer groups coordinated here.";
    GROUP_MEMBERS: Gauge "highwater_group_members" [] "Members of the consumer groups coordinated here.";
    GROUP_EPOCHS: Gauge "highwater_group_epochs" []
        "Epochs or generations of the groups coordinated here, added up: each rebalance adds 1.";
    TRANSACTIONS: Gauge "highwater_transactions" ["state"] "Transactional ids coordinated here.";
    TRANSACTIONS_ENDED: Counter "highwater_transactions_ended_total" ["result"]
        "Transactions that the coordinators here brought to their end, markers and all.";

    // A broker in its cluster.
    BROKER_REGISTERED: Gauge "highwater_broker_registered" [] "1 once this broker is registered with the controllers.";
    BROKER_FENCED: Gauge "highwater_broker_fenced" []
        "1 while this broker, by its own newest metadata, may not lead: starting, silent or shutting down.";
    METADATA_VERSION: Gauge "highwater_metadata_version" [] "Version of the metadata that the broker's partitions have taken.";

    // Controllers.
    CONTROLLER_ACTIVE: Gauge "highwater_controller_active" []
        "1 on the active controller. The sum over all controllers must be 1.";
    RAFT_TERM: Gauge "highwater_raft_term" [] "Raft term of this controller; each election is a new one.";
    RAFT_LOG_INDEX: Gauge "highwater_raft_log_index" [] "Last index of this controller's Raft log.";
    RAFT_APPLIED_INDEX: Gauge "highwater_raft_applied_index" []
        "Last committed index that this controller has applied.";
    CONTROLLER_METADATA_VERSION: Gauge "highwater_controller_metadata_version" []
        "Version of the metadata that this controller has applied.";
    CLUSTER_BROKERS: Gauge "highwater_cluster_brokers" ["state"] "Registered brokers, as this controller knows them.";
    CLUSTER_TOPICS: Gauge "highwater_cluster_topics" [] "Topics, as this controller knows them.";
    CLUSTER_PARTITIONS: Gauge "highwater_cluster_partitions" [] "Partitions, as this controller knows them.";
    CLUSTER_OFFLINE: Gauge "highwater_cluster_partitions_offline" []
        "Partitions without a leader, as this controller knows them.";
    CLUSTER_UNDER_REPLICATED: Gauge "highwater_cluster_partitions_under_replicated" []
        "Partitions with fewer in-sync replicas than replicas, as this controller knows them.";

    // The process.
    BUILD_INFO: Gauge "highwater_build_info" ["version"] "Always 1; the version is in the label.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "Processor time, user and system.";
    PROCESS_MEMORY: Gauge "process_resident_memory_bytes" [] "Resident memory.";
    PROCESS_FDS: Gauge "process_open_fds" [] "Open file descriptors.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_plain_and_end_as_their_kind_and_unit_ask() {
        let mut seen = std::collections::BTreeSet::new();
        for family in ALL {
            let name = family.name;
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(!family.help.is_empty() && !family.help.contains(['\n', '\\']), "{name}");
            assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
            assert!(family.kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
        }
    }
}
