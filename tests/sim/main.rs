//! `highwater-sim`: a cluster of real controllers, brokers and clients in one process, on simulated network, disks, clock and
//! entropy, under faults drawn from a seed. Every acknowledged record must be there in the end, unchanged and in order,
//! transactions whole, the newest value of every key in a compacted topic; and the same seed gives the same history, or a failure could not be looked at twice.

mod cluster;
mod faults;
mod members;
mod pipelines;
mod run;
mod table;
mod workload;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use clap::Parser;
use highwater_testkit::shrink::smallest;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::faults::{Episode, Schedule};

/// Runs a simulated cluster under faults drawn from seeds, and checks that it kept its promises.
///
/// Exit code 0: every seed held. 1: one did not; its story and how to run it again are printed.
#[derive(Parser)]
#[command(name = "highwater-sim", version)]
struct Args {
    /// The seed to run, or the first of --seeds.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, from --seed on, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Writes what happened to this file, an event a line, in JSON. With --seeds, the last seed's.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Prints the faults too, with their numbers.
    #[arg(long)]
    faults: bool,
    /// Lets only these of the seed's faults happen, by number, as --faults prints them.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", conflicts_with = "seeds")]
    only: Option<Vec<usize>>,
    /// After a failure, finds the fewest of its faults with which the seed still fails. Takes some dozens of runs.
    #[arg(long)]
    shrink: bool,
    /// Prints what nodes and clients log, with the simulation's time, on stderr: error, warn, info, debug, trace, or by target
    /// (highwater_client=debug,highwater_broker=info).
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let held = if args.seeds == 1 { one(&args) } else { each_in_its_process(&args) };
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn one(args: &Args) -> std::io::Result<bool> {
    let seed = args.seed;
    let began = Instant::now();
    // Deep futures of a whole cluster are polled on one stack.
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(16 << 20);
    let (log, only) = (args.log.clone(), args.only.clone().map(BTreeSet::from_iter));
    let running = thread.spawn(move || match log {
        Some(filter) => tracing::subscriber::with_default(subscriber(&filter), || run::run(seed, only.as_ref())),
        None => run::run(seed, only.as_ref()),
    })?;
    let Ok(outcome) = running.join() else {
        eprintln!(
            "seed {seed} failed; run it again with: highwater-sim --seed {seed}{}",
            only_text(args.only.as_deref())
        );
        if args.shrink {
            shrink(args)?;
        }
        return Ok(false);
    };
    let (lasted, took) = (outcome.lasted.as_secs_f64(), began.elapsed().as_secs_f64());
    println!(
        "seed {seed}: {}; {}; {} faults; {lasted:.1} s simulated in {took:.1} s",
        outcome.report,
        outcome.ledger,
        chosen(&outcome.schedule, args.only.as_deref()).count()
    );
    if args.faults {
        print_faults(&outcome.schedule, args.only.as_deref());
    }
    if let Some(file) = &args.history {
        std::fs::write(file, outcome.history)?;
    }
    // A run that wrote nothing shows nothing.
    Ok(outcome.report.acknowledged > 0)
}

fn chosen<'a>(schedule: &'a Schedule, only: Option<&'a [usize]>) -> impl Iterator<Item = (usize, &'a Episode)> {
    schedule.0.iter().enumerate().filter(move |(number, _)| only.is_none_or(|only| only.contains(number)))
}

fn print_faults(schedule: &Schedule, only: Option<&[usize]>) {
    for (number, episode) in chosen(schedule, only) {
        for (at, fault) in episode {
            println!("  {number:>3} {:>9.3} s {fault:?}", at.as_secs_f64());
        }
    }
}

/// More than any seed has; those that it does not have change nothing.
const EPISODES_MAX: usize = 64;

fn numbers_text(numbers: &[usize]) -> String {
    match numbers {
        // A list can't be empty.
        [] => EPISODES_MAX.to_string(),
        numbers => numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
    }
}

fn only_text(only: Option<&[usize]>) -> String {
    only.map(|only| format!(" --only {}", numbers_text(only))).unwrap_or_default()
}

/// Runs the seed again and again, with fewer and fewer of its faults.
fn shrink(args: &Args) -> std::io::Result<()> {
    let all = args.only.clone().map_or_else(|| (0..EPISODES_MAX).collect(), BTreeSet::from_iter);
    let this = std::env::current_exe()?;
    let seed = args.seed.to_string();
    let fails = |part: &BTreeSet<usize>| {
        let numbers: Vec<usize> = part.iter().copied().collect();
        let mut run = Command::new(&this);
        run.args(["--seed", &seed, "--only", &numbers_text(&numbers)]);
        // Not one that could not run at all.
        let fails = run.output().is_ok_and(|run| run.status.code() == Some(1));
        eprintln!("{} faults: {}", part.len(), if fails { "fails" } else { "holds" });
        fails
    };
    let fewest: Vec<usize> = smallest(&all, fails).into_iter().collect();
    eprintln!("it fails with these alone: highwater-sim --seed {seed}{}", only_text(Some(&fewest)));
    Ok(())
}

fn subscriber(filter: &str) -> impl tracing::Subscriber + Send + Sync {
    struct Simulated;
    impl FormatTime for Simulated {
        fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
            write!(w, "{:>9.3} s", turmoil::sim_elapsed().unwrap_or_default().as_secs_f64())
        }
    }
    let filter = EnvFilter::new(format!("{filter},turmoil[node]=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(Simulated)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .finish()
}

fn each_in_its_process(args: &Args) -> std::io::Result<bool> {
    let mut held = true;
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let mut run = Command::new(std::env::current_exe()?);
        run.args(["--seed", &seed.to_string()]);
        if args.faults {
            run.arg("--faults");
        }
        if args.shrink {
            run.arg("--shrink");
        }
        if let Some(filter) = &args.log {
            run.args(["--log", filter]);
        }
        if let Some(file) = &args.history {
            run.arg("--history").arg(file);
        }
        held &= run.status()?.success();
    }
    Ok(held)
}
