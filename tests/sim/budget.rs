//! Many seeds, each in a process of its own, some at a time.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::args::Args;
use crate::one::simulated_of;

/// What to start a run with, and what it is for.
struct Run {
    flags: Vec<String>,
    reason: Option<String>,
}

#[derive(Default)]
struct Sum {
    runs: u64,
    simulated: Duration,
    /// What to run again.
    failed: Vec<String>,
}

/// Returns whether all seeds held.
pub fn run(args: &Args) -> io::Result<bool> {
    let runs: Box<dyn Iterator<Item = Run> + Send> = match &args.regressions {
        Some(file) => Box::new(regressions(file)?.into_iter()),
        None => {
            let first = args.seed.unwrap_or_else(|| if args.for_time.is_some() { from_clock() } else { 1 });
            println!("seeds from {first} on");
            let seeds = first..first.saturating_add(args.seeds.unwrap_or(u64::MAX - first));
            let minutes = args.minutes.to_string();
            let common = ["--minutes", &minutes, "--faults", &args.faults.text, "--workloads", &args.workloads.text]
                .map(str::to_owned);
            Box::new(seeds.map(move |seed| {
                let flags = [vec!["--seed".to_owned(), seed.to_string()], common.to_vec()].concat();
                Run { flags, reason: None }
            }))
        }
    };
    let began = Instant::now();
    let jobs = match args.jobs {
        Some(jobs) => jobs,
        None => std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
    };
    let (runs, sum) = (Mutex::new(runs), Mutex::new(Sum::default()));
    std::thread::scope(|scope| -> io::Result<()> {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| work(args, began, &runs, &sum))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))))
    })?;
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (hours, took) = (sum.simulated.as_secs_f64() / 3_600.0, began.elapsed().as_secs_f64() / 3_600.0);
    println!(
        "{} seeds, {} failed; {hours:.2} simulated hours in {:.0} s: {:.1} simulated hours per hour",
        sum.runs,
        sum.failed.len(),
        took * 3_600.0,
        hours / took
    );
    for failed in &sum.failed {
        println!("FAILED: highwater-sim {failed}");
    }
    Ok(sum.failed.is_empty())
}

fn from_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

fn work(
    args: &Args,
    began: Instant,
    runs: &Mutex<Box<dyn Iterator<Item = Run> + Send + '_>>,
    sum: &Mutex<Sum>,
) -> io::Result<()> {
    let this = std::env::current_exe()?;
    loop {
        if args.for_time.is_some_and(|time| began.elapsed() >= time) {
            return Ok(());
        }
        let Some(run) = runs.lock().unwrap_or_else(PoisonError::into_inner).next() else { return Ok(()) };
        let mut command = Command::new(&this);
        command.args(&run.flags).arg("--brief");
        if args.no_shrink {
            command.arg("--no-shrink");
        }
        command.args(["--shrink-for", &format!("{}s", args.shrink_for.as_secs())]);
        if let Some(filter) = &args.log {
            command.args(["--log", filter]);
        }
        let output = command.output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.runs += 1;
        sum.simulated += simulated_of(&printed);
        // Under the lock: what runs print is not mixed.
        print!("{printed}");
        if let Some(reason) = &run.reason {
            println!("  (kept for: {reason})");
        }
        if !output.status.success() {
            print!("{}", String::from_utf8_lossy(&output.stderr));
            sum.failed.push(run.flags.join(" "));
        }
    }
}

/// The seeds in a file: on each line a seed, arguments of its own, and after a # the reason.
fn regressions(file: &Path) -> io::Result<Vec<Run>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    let lines = text.lines().map(|line| line.split_once('#').unwrap_or((line, "")));
    let runs = lines.filter(|(run, _)| !run.trim().is_empty()).map(|(run, reason)| Run {
        flags: std::iter::once("--seed").chain(run.split_whitespace()).map(str::to_owned).collect(),
        reason: Some(reason.trim().to_owned()),
    });
    Ok(runs.collect())
}
