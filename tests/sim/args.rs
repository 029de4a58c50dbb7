//! The command line.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};

use crate::faults::Kind;
use crate::mutation::MutationArgs;
use crate::workloads::mix::{self, Mix, Work};

/// The exit code when a seed did not hold.
pub const FAILED: u8 = 1;

/// Runs a simulated cluster under faults drawn from seeds, and checks that it kept its promises.
///
/// Exit code 0: every seed held. 1: one did not; its story, the fewest faults with which it still fails, and how to run it again
/// are printed. 2: it could not be run.
#[derive(Debug, Clone, Parser)]
#[command(name = "highwater-sim", version)]
#[command(after_help = "\
Examples:
  highwater-sim --seed 7                         # one seed, and its story
  highwater-sim --seed 7 --only 3,17             # with those of its faults alone
  highwater-sim --seed 7 --faults crash,network  # with faults of these kinds
  highwater-sim --for 5m                         # fresh seeds for five minutes, on all cores
  highwater-sim --regressions tests/sim/seeds.txt")]
pub struct Args {
    /// The seed to run, or the first of several. With --for, by default one that is drawn from the clock.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the load lasts, in simulated minutes.
    #[arg(long, default_value_t = 0.5, value_parser = minutes)]
    pub minutes: f64,
    /// Kinds of faults to draw from: all, none, or a list of crash, power, hang, disk, bits, network, clock, restart, membership,
    /// members. Scenarios, which all does not have, one after the other: left-behind, rejoin, stale, shrink, cascade, offshoot, deposed,
    /// dark, amnesia, ballot, absent, rot, spoiled.
    #[arg(long, default_value = "all", value_name = "KINDS", value_parser = Kinds::parse)]
    pub faults: Kinds,
    /// What clients do besides writing to and reading a topic, alone and in a group: drawn (by the seed), all, none, or a list of
    /// transactions, zombies, pipeline, table, trims, lives, growth, thin, seeks, acks, retention, subscribers; and, which are drawn for
    /// no seed, held, hasty, leavers.
    #[arg(long, default_value = "drawn", value_name = "WORK", value_parser = Workloads::parse)]
    pub workloads: Workloads,
    /// Lets only these of the seed's faults happen, by the numbers that its story gives them.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", conflicts_with_all = ["seeds", "for_time", "regressions"])]
    pub only: Option<Vec<usize>>,
    /// After a failure, doesn't look for the fewest faults with which the seed still fails.
    #[arg(long)]
    pub no_shrink: bool,
    /// How long to look for them.
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = time)]
    pub shrink_for: Duration,
    /// Prints a line of a run that held, and not its story.
    #[arg(long)]
    pub brief: bool,
    /// Writes what clients did and saw to this file, an event a line, in JSON.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "for_time", "regressions"])]
    pub history: Option<PathBuf>,
    /// Prints what nodes and clients log, with the simulation's time, on stderr: error, warn, info, debug, trace, or by target
    /// (highwater_client=debug,highwater_broker=info).
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Runs so many seeds, from --seed on.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,
    /// Runs seeds, from --seed on, for so long: 90s, 5m, 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = time, conflicts_with = "seeds")]
    pub for_time: Option<Duration>,
    /// Runs the seeds in this file: on each line a seed, arguments of its own, and after a # the reason.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "for_time", "seed"])]
    pub regressions: Option<PathBuf>,
    /// How many seeds to run at a time, each in a process of its own. By default, as many as there are cores.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub jobs: Option<u64>,
    #[command(flatten)]
    pub mutation: MutationArgs,
}

impl Args {
    pub fn is_one_run(&self) -> bool {
        self.seeds.is_none() && self.for_time.is_none() && self.regressions.is_none()
    }

    /// What clients do.
    pub fn mix(&self) -> Mix {
        self.workloads.set.clone().unwrap_or_else(|| mix::draw(self.seed.unwrap_or(1)))
    }

    pub fn load(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }
}

/// Kinds of faults to draw from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kinds {
    pub set: BTreeSet<Kind>,
    /// As it was written.
    pub text: String,
}

impl Kinds {
    fn parse(text: &str) -> Result<Self, String> {
        let set = match text {
            "all" => Kind::value_variants().iter().copied().filter(|kind| !kind.is_directed()).collect(),
            "none" => BTreeSet::new(),
            list => list.split(',').map(|name| Kind::from_str(name.trim(), true)).collect::<Result<_, _>>()?,
        };
        Ok(Self { set, text: text.to_owned() })
    }
}

/// What clients do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    /// `None`: as the seed says.
    pub set: Option<Mix>,
    /// As it was written.
    pub text: String,
}

impl Workloads {
    fn parse(text: &str) -> Result<Self, String> {
        let set = match text {
            "drawn" => None,
            "all" => Some(Work::value_variants().iter().copied().collect()),
            "none" => Some(Mix::new()),
            list => Some(list.split(',').map(|name| Work::from_str(name.trim(), true)).collect::<Result<_, _>>()?),
        };
        Ok(Self { set, text: text.to_owned() })
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=600.0).contains(&minutes) => Ok(minutes),
        _ => Err("a number of minutes from 0.1 to 600 is needed".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is needed, such as 90s, 5m or 2h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(seconds) * number)
}
