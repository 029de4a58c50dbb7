//! `highwater chaos`: breaks a cluster under load, and says what that did to its clients.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use highwater_seams::Seams;
use highwater_testkit::chaos::{self, FaultKind, Report, Round, RoundConfig, Subject, parse_kinds};
use highwater_testkit::{Folder, LocalCluster, LocalClusterConfig};
use tokio::sync::watch;

use super::cluster::{EndSignal, check_controllers, this_binary};
use crate::args::{block_on, parse_pair};
use crate::failure::{Failure, Outcome};
use crate::output::OutputArgs;

/// Break a local cluster under load: kill, hang and restart its nodes, cut them off from each other, fill their disks; then hold
/// what clients did and saw against the guarantees, and show how long they had to wait.
///
/// What happens when is drawn from the seed. Without --running, a cluster is started for this alone; faults of the network and of
/// disks are for such a cluster only. It runs in rounds, each with a seed of its own: a round that fails can be played again
/// by itself. Ctrl-C ends the faults, waits for the cluster to heal, and reports what there is so far.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  highwater chaos --minutes 10
  highwater chaos --seed 7 --minutes 1 --faults kill,hang,flap
  highwater chaos --faults=-disk-full,-kill-all --output json
  highwater chaos --running ./data            # a cluster of `highwater cluster up --data-dir ./data`

Exit codes: 0 no anomaly; 1 anomalies, or it could not be finished; 2 wrong arguments; 3 no cluster.")]
pub struct Chaos {
    /// How long things break, in minutes.
    #[arg(long, short = 'm', default_value = "5", value_parser = parse_minutes, value_name = "MINUTES")]
    minutes: Duration,
    /// The seed of the first round; the next ones take the next numbers. Otherwise a random one, which is shown.
    #[arg(long, short = 's')]
    seed: Option<u64>,
    /// How long a round lasts, in seconds.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(5..), value_name = "SECONDS")]
    round: u64,
    /// The kinds of faults, separated by commas: kill, hang, restart, kill-brokers, kill-controllers, kill-all, cut, one-way, isolate,
    /// flap, delay, throttle, reset, disk-full; all; none; with a minus sign before it, one is left out.
    #[arg(long, default_value = "all", value_parser = |text: &str| parse_kinds(text).map(Kinds), allow_hyphen_values = true, value_name = "LIST")]
    faults: Kinds,
    /// Partitions of each of the two topics that are written to.
    #[arg(long, short = 'p', default_value = "6", value_parser = clap::value_parser!(u32).range(1..=1000))]
    partitions: u32,
    /// How long the cluster may take to be whole again after the last fault of a round, in seconds.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(1..), value_name = "SECONDS")]
    heals_within: u64,
    /// Break the cluster that `highwater cluster up --data-dir DIR` runs in this folder. Its topics stay; two are made and deleted.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["brokers", "controllers", "data_dir", "set"])]
    running: Option<PathBuf>,
    /// Brokers of the cluster that is started.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=100))]
    brokers: u32,
    /// Controllers of it: 1, 3 or 5.
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u32).range(1..=9))]
    controllers: u32,
    /// Keep its files in this folder; otherwise a temporary one, removed at the end unless there were anomalies.
    #[arg(long, short = 'd', value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A setting of all of its nodes, by name and as TOML; can be given several times.
    #[arg(long, value_parser = parse_pair, value_name = "NAME=VALUE")]
    set: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

/// So that clap takes it for one value.
#[derive(Debug, Clone)]
struct Kinds(BTreeSet<FaultKind>);

fn parse_minutes(text: &str) -> Result<Duration, String> {
    let minutes = text.parse::<f64>().ok().and_then(|minutes| Duration::try_from_secs_f64(minutes * 60.0).ok());
    minutes
        .filter(|it| *it >= Duration::from_secs(5))
        .ok_or_else(|| "must be a number of minutes, 0.1 at least".to_owned())
}

impl Chaos {
    pub fn run(self) -> Outcome {
        block_on(self.play())
    }

    async fn play(mut self) -> Outcome {
        let mut end = EndSignal::new()?;
        let seed = self.seed.unwrap_or_else(|| Seams::real().entropy.next_u64() >> 40);
        let (mut subject, left_out) = tokio::select! {
            biased;
            () = end.wait() => return Ok(()),
            subject = self.subject() => subject?,
        };
        left_out.iter().for_each(|text| eprintln!("{text}"));
        let (stop, mut stopping) = watch::channel(false);
        let stopper = tokio::spawn(async move {
            end.wait().await;
            eprintln!("ending the faults; the report follows once the cluster has healed");
            stop.send_replace(true);
            // Whoever presses it again can't wait.
            end.wait().await;
            std::process::exit(1);
        });
        let (rounds, failed) = self.rounds(&mut subject, seed, &mut stopping).await;
        stopper.abort();
        let report = Report::of(seed, left_out, rounds);
        if let Subject::Own(cluster) = &mut subject
            && (report.anomalies > 0 || failed.is_err())
        {
            cluster.keep_files();
            eprintln!("the nodes' files and logs are left in {}", cluster.dir().display());
        }
        subject.end().await?;
        self.output.print(&report, Report::to_string)?;
        failed?;
        match report.rounds.iter().find(|round| !round.findings.is_empty()) {
            None => Ok(()),
            Some(round) => Err(Failure::failed(format!(
                "{} anomalies; the first round with one can be played again with: {}",
                report.anomalies,
                self.again(round.seed)
            ))),
        }
    }

    async fn subject(&mut self) -> Outcome<(Subject, Vec<String>)> {
        if let Some(dir) = &self.running {
            let subject = Subject::in_folder(dir).await?;
            let kinds = &mut self.faults.0;
            let had = kinds.len();
            kinds.retain(|kind| !kind.is_of_network() && !kind.is_of_disk());
            let text = "faults of the network and of disks are left out: they need a cluster that is started for this";
            return Ok((subject, (kinds.len() < had).then(|| text.to_owned()).into_iter().collect()));
        }
        check_controllers(self.controllers)?;
        let config = LocalClusterConfig {
            controllers: self.controllers,
            brokers: self.brokers,
            folder: self.data_dir.clone().map_or(Folder::Temporary, Folder::At),
            settings: self.set.clone(),
            ..LocalClusterConfig::new(this_binary()?)
        };
        // Topics are deleted after each round; what groups and transactions leave behind is not.
        let disk_bytes = (256 << 20) + (self.minutes.as_secs() << 20);
        let (config, left_out) = chaos::cluster_config(config, &mut self.faults.0, disk_bytes);
        Ok((Subject::Own(Box::new(LocalCluster::start(config).await?)), left_out))
    }

    async fn rounds(
        &self,
        subject: &mut Subject,
        seed: u64,
        stopping: &mut watch::Receiver<bool>,
    ) -> (Vec<Round>, Outcome) {
        let start = Instant::now();
        let mut rounds = Vec::new();
        let mut broken = Duration::ZERO;
        // What is left after the last whole round is worth one only if something can happen in it.
        while !*stopping.borrow() && broken + Duration::from_secs(5) <= self.minutes {
            let length = Duration::from_secs(self.round).min(self.minutes - broken);
            let config = RoundConfig {
                seed: seed + rounds.len() as u64,
                length,
                kinds: self.faults.0.clone(),
                partitions: self.partitions,
                heals_within: Duration::from_secs(self.heals_within),
            };
            eprintln!("round {}, seed {}, {} s", rounds.len() + 1, config.seed, length.as_secs());
            let mut say = |text: &str| eprintln!("{:8.2} s  {text}", start.elapsed().as_secs_f64());
            match chaos::round(subject, &config, stopping, &mut say).await {
                Ok(round) => {
                    let whole =
                        round.whole_after.map_or("not whole in time".to_owned(), |it| format!("whole after {it:.1} s"));
                    eprintln!(
                        "  {} acknowledged, {whole}, {} anomalies",
                        round.counts.acknowledged,
                        round.findings.len()
                    );
                    rounds.push(round);
                }
                Err(error) => {
                    return (rounds, Err(Failure::from(error).with_context(&format!("seed {}", config.seed))));
                }
            }
            broken += length;
        }
        (rounds, Ok(()))
    }

    /// The command that plays one round again.
    fn again(&self, seed: u64) -> String {
        let kinds: Vec<_> = self.faults.0.iter().map(|kind| kind.name()).collect();
        let mut words = vec![
            "highwater chaos".to_owned(),
            format!("--seed {seed}"),
            format!("--minutes {}", self.round as f64 / 60.0),
        ];
        words.push(format!("--round {}", self.round));
        words.push(format!("--faults {}", kinds.join(",")));
        words.push(format!("--partitions {}", self.partitions));
        match &self.running {
            Some(dir) => words.push(format!("--running {}", dir.display())),
            None => words.push(format!("--brokers {} --controllers {}", self.brokers, self.controllers)),
        }
        words.extend(self.set.iter().map(|(name, value)| format!("--set '{name}={value}'")));
        words.join(" ")
    }
}

impl From<chaos::ChaosError> for Failure {
    fn from(error: chaos::ChaosError) -> Self {
        match error {
            chaos::ChaosError::Cluster(error) => error.into(),
            chaos::ChaosError::Connect(error) => Self::unreachable(error),
            chaos::ChaosError::Topic(error) => Self::from(error).with_context("the topics of a round can't be made"),
            error @ chaos::ChaosError::Disk { .. } => Self::failed(error),
        }
    }
}
