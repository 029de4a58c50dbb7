//! `highwater bench rebalance`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use highwater_client::{
    Client, ConsumeError, GroupCommitter, GroupConfig, PartitionId, RebalanceListener, TopicName, async_trait,
};
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::place::{Bench, PlaceArgs};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, facts};

/// Measure how long a consumer group takes until every partition has its owner again and the shares are even: when all members
/// join, when one more joins, and when one leaves.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench rebalance --local -p 1000 --members 3
  highwater bench rebalance --local -p 1000 --members 100")]
pub struct Rebalance {
    /// Members of the group; each with connections of its own.
    #[arg(long, short = 'm', default_value = "3", value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "COUNT")]
    members: u32,
    /// How often one more joins and leaves again.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..), value_name = "COUNT")]
    rounds: u32,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// No rebalance should come near to this.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Report {
    what: &'static str,
    members: u32,
    partitions: usize,
    /// From the first member's start, in seconds.
    all_joined: f64,
    one_more_joined: Vec<f64>,
    one_left: Vec<f64>,
}

impl Report {
    fn words(&self) -> String {
        let times = |times: &[f64]| times.iter().map(|time| format!("{time:.2} s")).collect::<Vec<_>>().join(", ");
        facts(&[
            ("benchmark", self.what.to_owned()),
            ("group", format!("{} members, {} partitions", self.members, self.partitions)),
            ("all joined", times(&[self.all_joined])),
            ("one more", times(&self.one_more_joined)),
            ("one left", times(&self.one_left)),
        ])
    }
}

impl Rebalance {
    pub async fn run(self) -> Outcome {
        let bench = Bench::set_up(&self.place).await?;
        let mut crew = Crew {
            bootstrap: bench.bootstrap.clone(),
            topic: bench.topic.clone(),
            partitions: bench.shape.partitions,
            changed: Arc::default(),
            members: Vec::new(),
        };
        let began = Instant::now();
        for _ in 0..self.members {
            crew.join();
        }
        crew.until_even().await?;
        let all_joined = began.elapsed().as_secs_f64();
        let (mut one_more_joined, mut one_left) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let began = Instant::now();
            crew.join();
            crew.until_even().await?;
            one_more_joined.push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            // Not the one that just came: another, whose partitions have been its own for longer.
            crew.leave(0).await?;
            crew.until_even().await?;
            one_left.push(began.elapsed().as_secs_f64());
        }
        while !crew.members.is_empty() {
            crew.leave(0).await?;
        }
        let partitions = bench.shape.partitions;
        let report =
            Report { what: "rebalance", members: self.members, partitions, all_joined, one_more_joined, one_left };
        self.output.print(&report, Report::words)?;
        bench.tear_down().await
    }
}

/// The members of the group.
struct Crew {
    bootstrap: String,
    topic: String,
    partitions: usize,
    changed: Arc<Notify>,
    members: Vec<Member>,
}

struct Member {
    held: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Outcome>,
}

impl Crew {
    fn join(&mut self) {
        let held = Arc::new(AtomicUsize::new(0));
        let (stop, stopping) = watch::channel(false);
        let listener = Counting { held: Arc::clone(&held), changed: Arc::clone(&self.changed) };
        let task = tokio::spawn(be_member(self.bootstrap.clone(), self.topic.clone(), listener, stopping));
        self.members.push(Member { held, stop, task });
    }

    async fn leave(&mut self, index: usize) -> Outcome {
        let member = self.members.remove(index);
        member.stop.send_replace(true);
        member.task.await.map_err(Failure::failed)?
    }

    /// Every partition has an owner, and no member more than one above another.
    fn is_even(&self) -> bool {
        let held = || self.members.iter().map(|member| member.held.load(Ordering::Relaxed));
        let least = self.partitions / self.members.len().max(1);
        held().sum::<usize>() == self.partitions && held().all(|held| (least..=least + 1).contains(&held))
    }

    async fn until_even(&self) -> Outcome {
        let even = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.is_even() {
                    return Ok(());
                }
                if self.members.iter().any(|member| member.task.is_finished()) {
                    return Err(Failure::failed("a member ended by itself"));
                }
                // Now and then, to see one that failed.
                let _ = timeout(Duration::from_secs(1), changed).await;
            }
        };
        let in_time = timeout(PATIENCE, even).await;
        in_time.map_err(|_| Failure::verification(format!("no even assignment within {PATIENCE:?}")))?
    }
}

async fn be_member(
    bootstrap: String,
    topic: String,
    listener: Counting,
    mut stopping: watch::Receiver<bool>,
) -> Outcome {
    let client = Client::connect(&bootstrap).await.map_err(Failure::failed)?;
    let config = GroupConfig { auto_commit: false, ..GroupConfig::new(format!("{topic}-group")) };
    let mut consumer = client.group_consumer(config).map_err(Failure::failed)?;
    consumer.subscribe_with(topic.as_str(), listener);
    loop {
        let polled: Result<_, ConsumeError> = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            polled = consumer.poll(Duration::from_secs(1)) => polled,
        };
        match polled {
            Ok(_) => {}
            Err(error) if error.is_retriable() => {}
            Err(error) => return Err(error.into()),
        }
    }
    consumer.close().await.map_err(Failure::from)
}

/// Counts what a member holds.
struct Counting {
    held: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl Counting {
    fn release(&self, partitions: usize) {
        self.held.fetch_sub(partitions, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

#[async_trait]
impl RebalanceListener for Counting {
    async fn assigned(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        self.held.fetch_add(partitions.len(), Ordering::Relaxed);
        self.changed.notify_one();
    }

    async fn revoked(&mut self, partitions: &[(TopicName, PartitionId)], _: &GroupCommitter) {
        self.release(partitions.len());
    }

    async fn lost(&mut self, partitions: &[(TopicName, PartitionId)]) {
        self.release(partitions.len());
    }
}
