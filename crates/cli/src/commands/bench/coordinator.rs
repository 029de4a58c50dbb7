//! `highwater bench coordinator`.

use std::time::{Duration, Instant};

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use highwater_client::{Offset, OffsetToCommit, Position};
use highwater_testkit::NodeId;
use highwater_types::{BrokerId, LeaderEpoch, PartitionId};
use serde::Serialize;

use super::place::{Bench, PlaceArgs};
use crate::failure::{Failure, Outcome};
use crate::output::{OutputArgs, facts, thousands};

/// Measure a group coordinator: how fast it takes commits, and, once its broker is killed (kill -9), how soon the next one has
/// read them all and answers.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater bench coordinator --local -p 1000 --commits 1000000
  highwater bench coordinator --local -p 1000 --commits 1000000 --wait 60   # time for compaction")]
pub struct Coordinator {
    /// Offsets to commit, all of one group; a request carries one for each partition of the topic.
    #[arg(long, default_value = "100000", value_parser = clap::value_parser!(u64).range(1..), value_name = "COUNT")]
    commits: u64,
    /// How long to wait between the last commit and the kill, in seconds.
    #[arg(long, default_value = "0", value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Commits on their way at a time.
const IN_FLIGHT: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize)]
struct Report {
    what: &'static str,
    commits: u64,
    partitions: usize,
    commits_per_second: f64,
    /// From the kill of the coordinator to the answer of the next one, in seconds: detection, election, and loading.
    taken_over: f64,
}

impl Report {
    fn words(&self) -> String {
        facts(&[
            ("benchmark", self.what.to_owned()),
            ("group", format!("{} commits over {} partitions", thousands(self.commits), self.partitions)),
            ("commits", format!("{} offsets/s", thousands(self.commits_per_second as u64))),
            ("taken over", format!("{:.2} s from kill -9 to the next coordinator's first answer", self.taken_over)),
        ])
    }
}

impl Coordinator {
    pub async fn run(self) -> Outcome {
        if !self.place.local {
            return Err(Failure::usage("this kills a broker: it needs a cluster of its own, --local"));
        }
        let mut bench = Bench::set_up(&self.place).await?;
        let (admin, group) = (bench.client.admin(), format!("{}-group", bench.topic));
        let partitions = bench.shape.partitions;
        let commit = |number: i64| {
            let offset = |partition: usize| OffsetToCommit {
                topic: bench.topic.clone(),
                partition: PartitionId::new(u32::try_from(partition).unwrap_or(u32::MAX)),
                position: Position { offset: Offset::new(number), leader_epoch: LeaderEpoch::NONE },
                metadata: String::new(),
            };
            let offsets: Vec<OffsetToCommit> = (0..partitions).map(offset).collect();
            let (admin, group) = (admin.clone(), group.clone());
            async move { admin.alter_group_offsets(&group, &offsets).await }
        };
        // Finds the coordinator, and has the internal topic made.
        commit(0).await?;
        let requests = self.commits.div_ceil(partitions as u64);
        let began = Instant::now();
        let all = futures::stream::iter(1..=i64::try_from(requests).unwrap_or(i64::MAX)).map(commit);
        all.buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        let took = began.elapsed();
        tokio::time::sleep(Duration::from_secs(self.wait)).await;

        let coordinator = BrokerId::new(admin.describe_group(&group).await?.coordinator);
        bench.kill(NodeId::Broker(coordinator))?;
        let killed = Instant::now();
        let offsets = loop {
            match admin.group_offsets(&group).await {
                Ok(offsets) => break offsets,
                Err(error) if error.code.is_retriable() && killed.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.into()),
            }
        };
        let taken_over = killed.elapsed().as_secs_f64();
        if offsets.len() != partitions {
            let found = offsets.len();
            return Err(Failure::verification(format!("{found} of {partitions} committed offsets are there")));
        }
        let commits = requests * partitions as u64;
        let commits_per_second = commits as f64 / took.as_secs_f64();
        let report = Report { what: "coordinator", commits, partitions, commits_per_second, taken_over };
        self.output.print(&report, Report::words)?;
        bench.tear_down().await
    }
}
