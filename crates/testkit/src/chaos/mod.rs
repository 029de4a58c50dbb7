//! Chaos: a cluster of real processes under load, of which a seed breaks one thing after the other, and several at once; what
//! clients did and saw is held against the promises, and how long they had to wait is reported.
//!
//! A run is a row of rounds, each with its own seed, topics and history, so that it takes no more memory the longer it goes on,
//! and a round that fails can be played again by itself. Which faults come when follows from the seed alone; what
//! they meet does not: processes run as the kernel lets them.

mod availability;
mod driver;
mod fault;
mod load;
mod report;
mod schedule;
mod subject;
mod verdict;
mod watcher;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use highwater_client::{AdminError, Client, ConnectError};
use highwater_seams::{Entropy as _, OsEntropy};
use tokio::sync::watch;

pub use availability::{Impact, OfKind, Stalls};
pub use driver::Struck;
pub use fault::{Fault, FaultKind, Target, parse_kinds};
pub use report::{Counts, Report, Round};
pub use schedule::{Episode, Ground, Schedule};
pub use subject::Subject;
pub use verdict::Finding;

use crate::history::{Event, History};
use crate::local_cluster::{ClusterError, LocalClusterConfig, NodeId, SmallDisk};
use driver::Driver;
use load::{Load, Topics, until};
use watcher::Watcher;

/// What brokers keep free on their disks in a cluster of [`cluster_config`].
pub const DISK_RESERVE_BYTES: u64 = 4 << 20;
/// Before the first fault, for the load to run in.
const RUN_IN: Duration = Duration::from_secs(1);
/// How long a new load may take until every partition has acknowledged something.
const START_MAX: Duration = Duration::from_secs(60);
/// How long it may take to read everything back.
const READ_MAX: Duration = Duration::from_secs(120);

/// One round.
#[derive(Debug, Clone)]
pub struct RoundConfig {
    pub seed: u64,
    /// How long things break.
    pub length: Duration,
    pub kinds: BTreeSet<FaultKind>,
    /// Of each topic.
    pub partitions: u32,
    /// How long the cluster may take to be whole again once nothing is broken any more.
    pub heals_within: Duration,
}

/// Why a run can't go on. What the cluster does wrong is no error, but a [`Finding`].
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("the cluster can't be reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("the topics of a round can't be made: {0}")]
    Topic(AdminError),
    #[error("the disk of {broker} can't be filled or freed: {source}")]
    Disk { broker: NodeId, source: io::Error },
}

/// What a cluster of our own must be like for faults of these kinds: reached through proxies, and its last broker with a disk
/// that can be filled, which `disk_bytes` must be enough for. Where the process may not mount one, that kind is taken out of
/// `kinds`, and where nothing tells who connects, those of the network are; the second value says so.
pub fn cluster_config(
    config: LocalClusterConfig,
    kinds: &mut BTreeSet<FaultKind>,
    disk_bytes: u64,
) -> (LocalClusterConfig, Vec<String>) {
    let mut config = config.setting("broker.disk_reserve_bytes", DISK_RESERVE_BYTES);
    let mut without = Vec::new();
    if kinds.iter().any(|kind| kind.is_of_disk()) {
        if SmallDisk::is_possible() {
            config.small_disks.insert(NodeId::broker(config.brokers), disk_bytes);
        } else {
            kinds.retain(|kind| !kind.is_of_disk());
            without.push("disk-full is left out: this process may not mount a file system (root may)".to_owned());
        }
    }
    if kinds.iter().any(|kind| kind.is_of_network()) {
        if crate::proxy::Network::knows_origins() {
            config.proxied = true;
        } else {
            kinds.retain(|kind| !kind.is_of_network());
            without
                .push("faults of the network are left out: there is no /proc/net/tcp to tell who connects".to_owned());
        }
    }
    (config, without)
}

/// Plays one round: load, faults, healing, and the check of it all. When told to stop it goes straight to the end of the faults.
pub async fn round(
    subject: &mut Subject,
    config: &RoundConfig,
    stop: &mut watch::Receiver<bool>,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Round, ChaosError> {
    let bootstrap = subject.bootstrap();
    let client = Client::builder().bootstrap([&bootstrap]).connect_timeout(START_MAX).build().await?;
    let brokers = subject.nodes().iter().filter(|node| node.is_broker()).count();
    let stamp = format!("{}-{:08x}", config.seed, OsEntropy.next_u64() >> 32);
    let topics = Topics::new(&stamp, config.partitions);
    topics.create(&client, u32::try_from(brokers).unwrap_or(u32::MAX)).await?;
    let ground = Ground {
        nodes: subject.nodes(),
        partitions: config.partitions,
        small_disks: subject.nodes().into_iter().filter(|node| subject.disk(*node).is_some()).collect(),
        disk_reserve_bytes: DISK_RESERVE_BYTES,
    };
    let schedule = Schedule::draw(config.seed, &ground, &config.kinds, RUN_IN, config.length);

    let history = History::new();
    let load = Load::start(&client, &bootstrap, &history, &topics, config.seed);
    let mut watcher = Watcher::new(&client, &history, &topics);
    let mut findings = Vec::new();
    if until(START_MAX, async || watcher.all_written_since(Duration::ZERO)).await.is_none() {
        let what =
            format!("before any fault, not every partition of {} acknowledged within {START_MAX:?}", topics.events);
        findings.push(Finding::liveness(history.now(), what));
    }
    let began = history.now();
    let driver = Driver::new(subject, &client, &topics.events, &history, &schedule, say);
    let (struck, found) = driver.run(config.length, stop).await?;
    findings.extend(found);

    let healed_at = history.now();
    history.record(Event::Healed);
    let whole_after = until(config.heals_within, async || watcher.is_whole_since(healed_at).await).await;
    let ended = history.now();
    if whole_after.is_none() {
        let what =
            format!("{:?} after the last fault: {}", config.heals_within, watcher.missing_since(healed_at).await);
        findings.push(Finding::liveness(ended, what));
    }
    findings.extend(load.stop(async || watcher.group_reads_all(config.heals_within).await).await);
    let checked = verdict::of(&client, &history, &topics, READ_MAX).await;
    findings.extend(checked.findings);
    topics.delete(&client).await;

    let events = history.events();
    let availability = availability::Availability::of(&events, &topics.events, topics.partitions, began, ended);
    let path = if findings.is_empty() { None } else { leave(&history, config.seed) };
    Ok(Round {
        seed: config.seed,
        seconds: (ended - began).as_secs_f64(),
        impacts: availability.impacts(&struck),
        stalls: availability.stalls(),
        stall_overall: availability.stall_overall(),
        whole_after: whole_after.map(|it| it.as_secs_f64()),
        counts: checked.counts,
        findings,
        history: path,
    })
}

/// Where the history of a round with findings is.
fn leave(history: &History, seed: u64) -> Option<PathBuf> {
    let path = std::env::temp_dir().join(format!("highwater-chaos-{seed}-{}.jsonl", std::process::id()));
    match std::fs::write(&path, history.to_json_lines()) {
        Ok(()) => Some(path),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the history was not written");
            None
        }
    }
}
