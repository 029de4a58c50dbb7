//! `highwater quickstart`: shows on this machine, in a few seconds, that a cluster keeps what it promises.
//!
//! A cluster of real processes takes real input; half way the leader of a partition is killed and later started again;
//! then everything is read back and checked. Any broken promise is exit code 4.

mod group;
mod input;
mod stream;
mod summary;
mod transaction;
mod verify;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use highwater_client::{BrokerId, Client, NewTopic};
use highwater_testkit::{History, LocalCluster, LocalClusterConfig};

use super::cluster::{EndSignal, print_cluster, this_binary};
use crate::args::{block_on, parse_seconds};
use crate::failure::{Failure, Outcome};
use crate::output::{line, thousands};

use input::Input;

pub const PARTITIONS: u32 = 6;
const NODES: u32 = 3;
/// How long any single step of the cluster's may take before the quick start gives up on it.
const STEP_MAX: Duration = Duration::from_secs(20);

/// Start a cluster on this machine, stream real data through it, kill a leader on the way, verify that nothing is lost.
///
/// Three controllers and three brokers run as processes of their own, in a temporary folder. The topic has 6 partitions
/// of 3 replicas each, and a record counts as written once at least 2 of them have it on disk. Half way through the
/// stream, the leader of partition 0 is killed (kill -9); later it is started again. Then all is read back: every
/// acknowledged record must be there, unchanged, and in order by key. Then a group of three processes shares the
/// partitions and reads the stream again, one of them is killed, and the others take over from what it committed; and a
/// transaction over all partitions is aborted, another committed. Exit code 0 says that all of this held, 4 that it did not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater quickstart
  highwater quickstart --keep                                # leaves the cluster up, to play with
  highwater quickstart --input events.jsonl --key user_id")]
pub struct Quickstart {
    /// A text or JSON-lines file, each line of which is a record; otherwise the 27,004 flights that left New York in
    /// January 2013, which come with this program.
    #[arg(long, short = 'i', value_name = "FILE")]
    input: Option<PathBuf>,
    /// The field of each JSON line to take for its key: records of one key stay in order. [default for the flights:
    /// tailnum, the aircraft]
    #[arg(long, short = 'k', value_name = "FIELD")]
    key: Option<String>,
    /// Leave the cluster up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Stretch the stream over so many seconds, so that there is something to watch.
    #[arg(long, default_value = "5", value_parser = parse_seconds, value_name = "SECONDS")]
    stream_seconds: Duration,
}

/// What the run knows of its cluster.
struct Stage {
    cluster: LocalCluster,
    client: Client,
    topic: String,
    history: History,
    began: Instant,
}

impl Quickstart {
    pub fn run(self) -> Outcome {
        block_on(async {
            let mut end = EndSignal::new()?;
            let (mut stage, verdict) = tokio::select! {
                biased;
                () = end.wait() => return Err(Failure::failed("interrupted; nothing is left behind")),
                done = self.quickstart() => done?,
            };
            if verdict.is_err() {
                stage.cluster.keep_files();
                line(format!("\nThe nodes' logs and data stay in {}", stage.cluster.dir().display()))?;
            }
            if self.keep {
                line("")?;
                print_cluster(&stage.cluster)?;
                line("\nCtrl-C ends it and removes its files.")?;
                end.wait().await;
            }
            verdict
        })
    }

    /// The cluster, still up, and whether the promises were kept.
    async fn quickstart(&self) -> Outcome<(Stage, Outcome)> {
        let began = Instant::now();
        let input = match &self.input {
            Some(path) => Input::from_file(path, self.key.as_deref())?,
            None => Input::flights(self.key.as_deref())?,
        };
        let mut stage = start(began, &input).await?;
        let verdict = stage.play(&input, self.stream_seconds).await;
        Ok((stage, verdict))
    }
}

async fn start(began: Instant, input: &Input) -> Outcome<Stage> {
    line(format!("Input: {}, {} records", input.name, thousands(input.records.len() as u64)))?;
    // Shorter than usual, so that nobody waits ten seconds to see a dead member's partitions taken over.
    let config = LocalClusterConfig { controllers: NODES, brokers: NODES, ..LocalClusterConfig::new(this_binary()?) }
        .setting("broker.group_session_timeout_ms", 3000)
        .setting("broker.group_heartbeat_interval_ms", 500);
    let starting = Instant::now();
    let mut cluster = LocalCluster::prepare(config)?;
    cluster.start_all()?;
    cluster.wait_ready(STEP_MAX).await?;
    let (took, dir) = (starting.elapsed().as_secs_f64(), cluster.dir().display());
    line(format!("Cluster: {NODES} controllers and {NODES} brokers serve after {took:.1} s, in {dir}"))?;
    let client = Client::builder().bootstrap([cluster.bootstrap()]).connect_timeout(STEP_MAX).build().await;
    let client = client.map_err(Failure::unreachable)?;
    let topic = input.topic.clone();
    let new = NewTopic::new(&topic, PARTITIONS, NODES).config("min.insync.replicas", "2");
    client.admin().create_topic(new).await?;
    line(format!(
        "Topic: {topic}, {PARTITIONS} partitions of {NODES} replicas, min.insync.replicas 2, fsynced on each"
    ))?;
    Ok(Stage { cluster, client, topic, history: History::new(), began })
}

impl Stage {
    async fn play(&mut self, input: &Input, over: Duration) -> Outcome {
        let streamed = self.stream(input, over).await?;
        let verified = self.verify(input).await?;
        let grouped = self.group(input).await?;
        let transacted = self.transact().await?;
        summary::print(self, input, &streamed, &verified)?;
        summary::print_second_act(self, &grouped, &transacted)?;
        if verified.kept() { Ok(()) } else { Err(Failure::verification(verified.what_broke())) }
    }

    /// Waits until every partition has all its replicas in sync again; says how long that took.
    async fn wait_in_sync(&self) -> Outcome<Duration> {
        let since = Instant::now();
        let whole = self.client.metadata_when(|metadata| {
            metadata.topic(&self.topic).is_some_and(|topic| {
                topic.partitions.iter().all(|it| it.leader.is_some() && it.isr.len() == it.replicas.len())
            })
        });
        match tokio::time::timeout(STEP_MAX, whole).await {
            Ok(_) => Ok(since.elapsed()),
            Err(_) => Err(Failure::verification(format!(
                "the broker that was started again did not catch up within {STEP_MAX:?}; its log may say why"
            ))),
        }
    }

    /// Who leads which partitions, now.
    fn leaders(&self) -> Vec<(u32, Option<BrokerId>)> {
        let metadata = self.client.metadata();
        let topic = metadata.topic(&self.topic);
        topic.map(|it| it.partitions.iter().map(|p| (p.id.get(), p.leader)).collect()).unwrap_or_default()
    }
}
