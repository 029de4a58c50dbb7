//! The table of all settings of a server: one row gives a setting's key in the file, its flag, its environment
//! variable, its default, what is allowed and what it does. The file's parser, the flags, `config print-default` and
//! the documentation all come from it, so that they can't disagree.

use std::sync::LazyLock;

use super::Config;
use super::values::{Raw, SettingValue};

/// One row.
pub struct Setting {
    pub section: &'static str,
    pub key: &'static str,
    /// What it does and what is allowed, in sentences.
    pub help: &'static str,
    /// What stands for the value in help texts.
    pub placeholder: &'static str,
    get: fn(&Config) -> Raw,
    set: fn(&mut Config, &Raw) -> Result<(), String>,
}

impl Setting {
    /// `section.key`, as messages name it.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
    pub fn get(&self, config: &Config) -> Raw {
        (self.get)(config)
    }
    pub fn set(&self, config: &mut Config, raw: &Raw) -> Result<(), String> {
        (self.set)(config, raw)
    }
}

/// How a setting is named outside of the file.
pub struct SettingNames {
    pub flag: String,
    pub env: String,
}

/// The names of each row of [`SETTINGS`], in its order.
pub static SETTING_NAMES: LazyLock<Vec<SettingNames>> = LazyLock::new(|| {
    let names = |setting: &Setting| {
        let joined = format!("{}-{}", setting.section, setting.key);
        SettingNames {
            flag: joined.replace('_', "-"),
            env: format!("HIGHWATER_{}", joined.replace('-', "_").to_uppercase()),
        }
    };
    SETTINGS.iter().map(names).collect()
});

/// The sections of the file, in order, with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("node", "What this process is."),
    ("controller", "The controller: a member of the Raft quorum that decides who leads. Used if node.roles has it."),
    ("broker", "The broker: keeps partitions and serves clients. Used if node.roles has it."),
    ("kafka", "The broker's door for Kafka clients."),
    ("limits", "Bounds on what clients can make a broker hold."),
    ("log", "What the process says on standard error."),
];

macro_rules! settings {
    ($([$section:ident] { $($key:ident: $placeholder:literal, $help:literal;)* })*) => {
        /// All settings, section by section.
        pub const SETTINGS: &[Setting] = &[$($(
            Setting {
                section: stringify!($section),
                key: stringify!($key),
                help: $help,
                placeholder: $placeholder,
                get: |config| config.$section.$key.to_raw(),
                set: |config, raw| {
                    config.$section.$key = SettingValue::from_raw(raw)?;
                    Ok(())
                },
            },
        )*)*];
    };
}

settings! {
    [node] {
        roles: "ROLES",
            "controller, broker or both. Small clusters run both in each process; large ones keep controllers apart.";
        worker_threads: "COUNT",
            "Threads that run the server's tasks; 0: one for each processor.";
        metrics_listen: "HOST:PORT",
            "Where GET /metrics answers in Prometheus' text format, and GET /healthz that the process runs. Plain HTTP, open \
             to who can reach it. Empty: nowhere.";
    }
    [controller] {
        id: "ID",
            "The number of this controller, unique among controllers, never given to another data folder.";
        listen: "HOST:PORT",
            "Where it listens. Port 0 takes a free one, which only a cluster of one process can use.";
        advertised: "HOST:PORT",
            "Where others reach it; needed where listen is 0.0.0.0. Empty: as listen.";
        voters: "ID@HOST:PORT,...",
            "The controllers that a new cluster starts with (1, 3 or 5), the same list on each. Used at the first start \
             only; later ones are added with `highwater cluster add-controller`. Empty: this controller alone.";
        join: "BOOL",
            "true on a controller that is to be added to a running cluster: it waits until it is.";
        data_dir: "PATH",
            "The folder of its vote, log and metadata. It must outlive the process, and be on a disk of its own if that \
             can be.";
        cluster_id: "TEXT",
            "The identity of the cluster, checked at every meeting of two nodes. Empty: chosen by the first active \
             controller.";
        election_timeout_min_ms: "MS",
            "The least time without a word from the active controller before another stands for election.";
        election_timeout_max_ms: "MS",
            "The most time for the same; the real one is drawn between the two.";
        heartbeat_ms: "MS",
            "How often the active controller tells the others that it is there; at most half of the least election \
             timeout.";
        session_timeout_ms: "MS",
            "A broker that has been silent for so long is fenced. (One whose connection closes is fenced after \
             fence_grace_ms.)";
        fence_grace_ms: "MS",
            "How long after its connection closed a broker may come back before it is fenced.";
        default_partitions: "COUNT",
            "Partitions of a topic created without saying how many.";
        default_replication_factor: "COUNT",
            "Replicas of a topic created without saying how many.";
        preferred_leader_interval_ms: "MS",
            "How often leadership is moved back to the preferred (first) replicas that are in sync; 0: only on command.";
        snapshot_interval_entries: "COUNT",
            "Entries of the Raft log from one snapshot of the metadata to the next.";
    }
    [broker] {
        id: "ID",
            "The number of this broker, unique among brokers, never given to another data folder.";
        listen: "HOST:PORT",
            "Where it listens, for clients and for other brokers. 0.0.0.0:PORT for every address of the machine.";
        advertised: "HOST:PORT",
            "Where clients and other brokers reach it; needed where listen is 0.0.0.0. Empty: as listen.";
        rack: "TEXT",
            "The rack or zone it stands in: replicas of a partition are spread over racks. Empty: not known.";
        controllers: "HOST:PORT,...",
            "Some controllers of the cluster; the others are learned from them. Empty: controller.voters, or the \
             controller in this process.";
        data_dirs: "PATH,...",
            "The folders of its logs, each on a disk of its own: a disk that fails takes only its partitions along.";
        replica_lag_time_max_ms: "MS",
            "A follower that has not caught up for so long leaves the in-sync replicas.";
        cache_bytes: "BYTES",
            "Memory for the newest batches of all partitions, which followers and tailing consumers read without \
             touching files.";
        disk_reserve_bytes: "BYTES",
            "Appends are refused while a data folder's disk has less than this free; reads and deletes go on.";
        sync_parallel_max: "COUNT",
            "Logs of one data folder that are fsynced side by side.";
        recovery_parallel_max: "COUNT",
            "Logs of one data folder that are opened, and recovered after an unclean stop, side by side.";
        checkpoint_interval_ms: "MS",
            "How often high watermarks and recovery points are written down.";
        retention_interval_ms: "MS",
            "How often retention looks for segments to delete.";
        compaction_interval_ms: "MS",
            "How often compaction looks for logs that are dirty enough.";
        compaction_keys_max: "COUNT",
            "Most keys that one pass of compaction has in memory, at some 50 bytes each.";
        shutdown_timeout_ms: "MS",
            "How long a stop waits for leadership to move away.";
        internal_topics_replication_factor: "COUNT",
            "Replicas of __consumer_offsets and __transaction_state, which are made at their first use, once there are as many brokers. Set it to 1 on a single broker.";
        offsets_topic_partitions: "COUNT",
            "Partitions of __consumer_offsets, which groups and their offsets are spread over. Used when the topic is made.";
        group_session_timeout_ms: "MS",
            "A member of a consumer group that is not heard of for so long is gone, and others take its partitions.";
        group_heartbeat_interval_ms: "MS",
            "How often members of consumer groups are to be heard of.";
        group_initial_rebalance_delay_ms: "MS",
            "How long the first member of a group of the classic protocol waits for others, prolonged as they come; 0: not \
             at all.";
        group_members_max: "COUNT",
            "Most members of one consumer group.";
        offsets_retention_ms: "MS",
            "How long the offsets of a group without members are kept, and what publishers with an id have published is known.";
        transaction_topic_partitions: "COUNT",
            "Partitions of __transaction_state, which transactional ids are spread over. Used when the topic is made.";
        transaction_timeout_max_ms: "MS",
            "The longest timeout that a transactional producer can ask for; an open transaction holds up readers of committed records.";
        transactional_id_expiration_ms: "MS",
            "How long a transactional id that is not used is remembered.";
    }
    [kafka] {
        listeners: "NAME://HOST:PORT,...",
            "Where the broker listens for Kafka clients. Several by name, as in \
             INTERNAL://0.0.0.0:9094,EXTERNAL://0.0.0.0:19094: a client that came in on one is told of the brokers' addresses \
             of the same name. Empty: nowhere.";
        advertised_listeners: "NAME://HOST:PORT,...",
            "Where Kafka clients reach these listeners; needed for those on 0.0.0.0. A listener that is not named: as it \
             listens.";
        auto_create_topics: "BOOL",
            "Whether a Kafka client's question about a topic that is not there makes it, with the controller's default \
             numbers of partitions and replicas. A misspelt name makes a topic then.";
        request_bytes_max: "BYTES",
            "The largest request of a Kafka client; a connection that announces a larger one is closed.";
        idle_ms: "MS",
            "How long nothing may come or go on a connection of a Kafka client before it is closed \
             (Kafka's connections.max.idle.ms).";
    }
    [limits] {
        connections_max: "COUNT",
            "Connections at a time; further ones are closed at once.";
        streams_per_connection_max: "COUNT",
            "Streams and calls at a time on one connection.";
        produce_stream_bytes_max: "BYTES",
            "Produce requests received and not yet answered, on one stream; beyond it the stream waits.";
        produce_bytes_max: "BYTES",
            "The same, over all streams of the broker.";
        fetch_stream_requests_max: "COUNT",
            "Fetch requests open at a time on one stream; beyond it the stream waits.";
        fetch_bytes_max: "BYTES",
            "The largest fetch answer, whatever is asked for.";
        partitions_per_request_max: "COUNT",
            "Partitions in one request.";
        wait_ms_max: "MS",
            "How long a request may ask to wait.";
        decompressed_bytes_max: "BYTES",
            "To how much the batches of one produce request may decompress, for their check.";
        keepalive_ms: "MS",
            "A peer that does not answer a ping for so long is gone.";
        handshake_ms: "MS",
            "A connection that has not spoken HTTP/2 by then is closed.";
    }
    [log] {
        level: "LEVEL",
            "error, warn, info, debug or trace; or directives, as in \"info,highwater_broker=debug\".";
        format: "FORMAT",
            "text (for people) or json (one object a line).";
    }
}
