//! `highwater server`: a controller, a broker, or both in one process.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use highwater_broker::{Broker, BrokerConfig, BrokerHandle, ExtraServices, Limits, ListenerConfig};
use highwater_controller::{Controller, ControllerConfig, ControllerHandle};
use highwater_gateway::{Gateway, GatewayLimits};
use highwater_kafka::KafkaConfig;
use highwater_seams::{Listener, Seams};
use highwater_storage::RealDisk;
use tracing::{error, info};

use super::cluster::EndSignal;
use crate::args::worker_threads;
use crate::config::{ByteSize, Config, HostPort, LogFormat, SettingFlags, load};
use crate::failure::{Failure, Outcome};
use crate::metrics_endpoint::{self, Scrape};

/// How long a shutdown in good order may take.
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);

/// Run a controller, a broker, or both.
///
/// Settings come from the file, environment variables over it, flags over both; `highwater config print-default` lists
/// them all. SIGTERM or SIGINT ends it in good order: leadership moves away first, data is flushed, exit code 0. A
/// second signal ends it at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater server --config /etc/highwater.toml
  highwater server                     # both roles in one process, data in ./highwater-data
  HIGHWATER_BROKER_ID=2 highwater server -c h.toml --broker-listen 0.0.0.0:9092 --broker-advertised b2:9092")]
pub struct Server {
    /// The configuration file.
    #[arg(long, short = 'c', env = "HIGHWATER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// End at once when standard input closes: for a process that must not outlive the one that started it.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Server {
    pub fn run(self) -> Outcome {
        let config = load(self.config.as_deref(), &self.settings).map_err(Failure::usage)?;
        if self.end_with_stdin {
            std::thread::spawn(end_with_stdin);
        }
        start_logging(&config);
        raise_open_files();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(worker_threads(config.node.worker_threads))
            .thread_name("highwater")
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("can't start the runtime: {error}")))?;
        let outcome = runtime.block_on(serve(config));
        // What still runs after a shutdown has nothing left to do.
        runtime.shutdown_background();
        outcome
    }
}

async fn serve(config: Config) -> Outcome {
    let started = Instant::now();
    let mut end = EndSignal::new()?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let seams = Seams::real();
    // First: a port that is taken is said before anything is opened.
    let for_scrapers = match &config.node.metrics_listen {
        Some(at) => Some((listen_for_scrapers(&seams, at).await?, at)),
        None => None,
    };
    let controller = match config.node.roles.controller() {
        true => Some(start_controller(&config, seams.clone()).await?),
        false => None,
    };
    let broker = match config.node.roles.broker() {
        true => Some(start_broker(&config, seams.clone()).await?),
        false => None,
    };
    let metrics = for_scrapers.map(|(listener, at)| {
        info!(host = at.host, port = listener.port(), "metrics");
        let scrape = Scrape {
            broker: broker.as_ref().map(BrokerHandle::scrape),
            controller: controller.as_ref().map(ControllerHandle::scrape),
        };
        tokio::spawn(metrics_endpoint::serve(listener, scrape))
    });
    let announce = async {
        if let Some(broker) = &broker
            && broker.ready().await
        {
            info!(broker = %config.broker.id, port = broker.port(), after_ms = millis(started), "serving");
        }
        std::future::pending().await
    };
    let why = tokio::select! {
        biased;
        () = end.wait() => None,
        why = broken(broker.as_ref(), controller.as_ref()) => Some(why),
        () = announce => None,
    };
    info!("shutting down");
    let stopping = Instant::now();
    let shutdown = async {
        // The broker first: it needs a controller to move its leadership away.
        if let Some(broker) = broker {
            broker.shutdown().await;
        }
        if let Some(controller) = controller {
            controller.shutdown().await;
        }
    };
    tokio::select! {
        biased;
        () = end.wait() => return Err(Failure::failed("ended by a second signal, before the shutdown was done")),
        ended = tokio::time::timeout(SHUTDOWN_MAX, shutdown) => {
            if ended.is_err() {
                return Err(Failure::failed(format!("the shutdown was not done after {SHUTDOWN_MAX:?}")));
            }
        }
    }
    info!(after_ms = millis(stopping), "ended in good order");
    if let Some(metrics) = metrics {
        metrics.abort();
    }
    match why {
        None => Ok(()),
        Some(why) => {
            error!("{why}");
            Err(Failure::failed(why))
        }
    }
}

async fn listen_for_scrapers(seams: &Seams, at: &HostPort) -> Outcome<Box<dyn Listener>> {
    let bound = seams.net.bind(&at.host, at.port).await;
    bound.map_err(|error| Failure::failed(format!("node.metrics_listen: can't listen on {at}: {error}")))
}

/// Why the process can't go on, once it can't.
async fn broken(broker: Option<&BrokerHandle>, controller: Option<&ControllerHandle>) -> String {
    let broker = async {
        match broker {
            Some(broker) => broker.fatal().await.to_string(),
            None => std::future::pending().await,
        }
    };
    let controller = async {
        match controller {
            Some(controller) => controller.failed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        why = broker => why,
        why = controller => why,
    }
}

async fn start_controller(config: &Config, seams: Seams) -> Outcome<ControllerHandle> {
    let it = &config.controller;
    let mut voters = it.voters.0.iter().map(|(id, at)| (*id, at.pair())).collect::<BTreeMap<_, _>>();
    if voters.is_empty() && !it.join {
        voters.insert(it.id, it.endpoint().pair());
    }
    let controller = ControllerConfig {
        id: it.id,
        listen_host: it.listen.host.clone(),
        listen_port: it.listen.port,
        advertised: it.endpoint().pair(),
        initial_voters: voters,
        join: it.join,
        data_dir: it.data_dir.clone(),
        cluster_id: it.cluster_id.clone(),
        election_timeout_min_ms: it.election_timeout_min_ms,
        election_timeout_max_ms: it.election_timeout_max_ms,
        heartbeat_ms: it.heartbeat_ms,
        session_timeout_ms: it.session_timeout_ms,
        fence_grace_ms: it.fence_grace_ms,
        default_partitions: it.default_partitions,
        default_replication_factor: it.default_replication_factor,
        preferred_leader_interval_ms: it.preferred_leader_interval_ms,
        snapshot_interval_entries: it.snapshot_interval_entries,
        ..ControllerConfig::default()
    };
    let failed = |error| Failure::failed(format!("controller {} can't start: {error}", it.id));
    let store = Controller::open_store(&controller).map_err(failed)?;
    Controller::start(controller, seams, store).await.map_err(failed)
}

async fn start_broker(config: &Config, seams: Seams) -> Outcome<BrokerHandle> {
    let (it, limits) = (&config.broker, &config.limits);
    let memory = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    let broker = BrokerConfig {
        id: it.id,
        listen_host: it.listen.host.clone(),
        listen_port: it.listen.port,
        advertised: it.advertised.as_ref().map(HostPort::pair),
        listeners: kafka_listeners(config),
        rack: it.rack.clone(),
        controllers: config.controllers_of_broker().iter().map(HostPort::pair).collect(),
        data_dirs: it.data_dirs.clone(),
        replica_lag_time_max_ms: it.replica_lag_time_max_ms,
        cache_bytes: memory(it.cache_bytes),
        disk_reserve_bytes: it.disk_reserve_bytes.0,
        sync_parallel_max: it.sync_parallel_max,
        recovery_parallel_max: it.recovery_parallel_max,
        checkpoint_interval_ms: it.checkpoint_interval_ms,
        retention_interval_ms: it.retention_interval_ms,
        compaction_interval_ms: it.compaction_interval_ms,
        compaction_keys_max: it.compaction_keys_max,
        shutdown_timeout_ms: it.shutdown_timeout_ms,
        internal_topics_replication_factor: it.internal_topics_replication_factor,
        offsets_topic_partitions: it.offsets_topic_partitions,
        group_session_timeout_ms: it.group_session_timeout_ms,
        group_heartbeat_interval_ms: it.group_heartbeat_interval_ms,
        group_initial_rebalance_delay_ms: it.group_initial_rebalance_delay_ms,
        group_members_max: it.group_members_max,
        offsets_retention_ms: it.offsets_retention_ms,
        transaction_topic_partitions: it.transaction_topic_partitions,
        transaction_timeout_max_ms: it.transaction_timeout_max_ms,
        transactional_id_expiration_ms: it.transactional_id_expiration_ms,
        limits: Limits {
            connections_max: limits.connections_max,
            streams_per_connection_max: limits.streams_per_connection_max,
            produce_stream_bytes_max: memory(limits.produce_stream_bytes_max),
            produce_bytes_max: memory(limits.produce_bytes_max),
            fetch_stream_requests_max: limits.fetch_stream_requests_max,
            fetch_bytes_max: memory(limits.fetch_bytes_max),
            partitions_per_request_max: limits.partitions_per_request_max,
            wait_ms_max: limits.wait_ms_max,
            decompressed_bytes_max: memory(limits.decompressed_bytes_max),
            keepalive_ms: limits.keepalive_ms,
            handshake_ms: limits.handshake_ms,
        },
    };
    let failed = |error| Failure::failed(format!("broker {} can't start: {error}", it.id));
    let kafka = KafkaConfig {
        auto_create_topics: config.kafka.auto_create_topics,
        request_bytes_max: memory(config.kafka.request_bytes_max),
        idle: Duration::from_millis(config.kafka.idle_ms),
    };
    let doors = thin_clients(&it.listen.host, seams.clone())
        .with_door(move |api, listeners| highwater_kafka::serve(kafka, api, listeners));
    Broker::start_with(broker, seams, Arc::new(RealDisk::default()), doors).await.map_err(failed)
}

fn kafka_listeners(config: &Config) -> Vec<ListenerConfig> {
    let listener = |(name, at): &(String, HostPort)| ListenerConfig {
        name: name.clone(),
        host: at.host.clone(),
        port: at.port,
        advertised: config.kafka.advertised_listeners.get(name).map(HostPort::pair),
    };
    config.kafka.listeners.0.iter().map(listener).collect()
}

/// The door of thin clients, which is a client of the broker that it is in.
fn thin_clients(listen_host: &str, seams: Seams) -> ExtraServices {
    let host = match listen_host {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" | "[::]" => "[::1]".to_owned(),
        host => host.to_owned(),
    };
    ExtraServices::new(&[highwater_gateway::SERVICE_NAME], move |routes, broker| {
        let bootstrap = format!("{host}:{}", broker.port);
        Gateway::new(bootstrap, GatewayLimits::default(), seams, broker.ending).mount(routes)
    })
}

/// Ends the process when standard input closes, which it does when its parent dies, by whatever cause.
fn end_with_stdin() {
    let mut stdin = std::io::stdin().lock();
    let mut scratch = [0; 64];
    loop {
        match stdin.read(&mut scratch) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => std::process::exit(1),
            Ok(_) => {}
        }
    }
}

fn start_logging(config: &Config) {
    // The libraries below say much at their "info" that is none to whoever runs a server; directives go over this.
    let level = &config.log.level.0;
    let quiet = ["openraft", "sled", "h2", "hyper", "tower", "tonic"].map(|target| format!("{target}=warn")).join(",");
    let directives = if level.contains('=') { level.clone() } else { format!("{level},{quiet}") };
    let filter = tracing_subscriber::EnvFilter::new(directives);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

/// Each partition has several files open: allow as many as the system lets us.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it fails, the limit stays what it was, which is a setting of the system's.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
