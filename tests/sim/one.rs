//! One seed in this process: runs it, tells its story, and after a failure looks for the fewest faults with which it still fails.

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use highwater_testkit::shrink::smallest;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::args::{Args, FAILED};
use crate::run::{Outcome, Progress, Task, run as simulate};

/// A run whose simulated time stands still for so long hangs.
const HUNG_AFTER: Duration = Duration::from_secs(90);

/// Returns whether the seed held.
pub fn run(args: &Args) -> io::Result<bool> {
    let task = Task {
        seed: args.seed.unwrap_or(1),
        kinds: args.faults.set.clone(),
        mix: args.mix(),
        load: args.load(),
        only: args.only.clone().map(BTreeSet::from_iter),
    };
    let (seed, began, progress) = (task.seed, Instant::now(), Progress::default());
    let result = watched(&task, args.log.clone(), &progress)?;
    let simulated = simulated_text(progress.simulated(), began.elapsed());
    let faults = task.schedule().chosen(task.only.as_ref()).count();
    let why = match result {
        // A run that wrote nothing shows nothing.
        Ok(outcome) if outcome.report.acknowledged == 0 => "nothing was acknowledged".to_owned(),
        Ok(outcome) => {
            if !args.brief {
                progress.story.print();
            }
            println!("seed {seed} held: {}; {faults} faults; {simulated}", outcome.report);
            if let Some(file) = &args.history {
                std::fs::write(file, outcome.history)?;
            }
            return Ok(true);
        }
        Err(why) => why,
    };
    progress.story.print();
    println!("seed {seed} FAILED with {faults} faults; {simulated}: {why}");
    println!("run it again with: highwater-sim {}", flags(&task, args, task.only.as_ref()).join(" "));
    if !args.no_shrink {
        shrink(&task, args)?;
    }
    Ok(false)
}

/// Runs the seed on a thread of its own, and watches that it goes on.
fn watched(task: &Task, log: Option<String>, progress: &Progress) -> io::Result<Result<Outcome, String>> {
    let (done, is_done) = mpsc::channel();
    // Deep futures of a whole cluster are polled on one stack.
    let thread = std::thread::Builder::new().name(format!("seed-{}", task.seed)).stack_size(16 << 20);
    let (task, shared) = (task.clone(), progress.clone());
    let running = thread.spawn(move || {
        let outcome = match log {
            Some(filter) => tracing::subscriber::with_default(subscriber(&filter), || simulate(&task, &shared)),
            None => simulate(&task, &shared),
        };
        // The receiver is gone if this took too long: then nobody wants it.
        let _ = done.send(outcome);
    })?;
    let mut last = (progress.simulated(), Instant::now());
    loop {
        match is_done.recv_timeout(Duration::from_secs(1)) {
            Ok(outcome) => return Ok(Ok(outcome)),
            Err(RecvTimeoutError::Disconnected) => {
                let panic = running.join().err().map_or_else(|| "it ended without a result".to_owned(), message);
                return Ok(Err(panic));
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = progress.simulated();
                if now != last.0 {
                    last = (now, Instant::now());
                } else if last.1.elapsed() > HUNG_AFTER {
                    return Ok(Err(format!("it hangs: for {HUNG_AFTER:?} the simulated time has been {now:?}")));
                }
            }
        }
    }
}

fn message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

const SIMULATED: &str = " s simulated in ";

fn simulated_text(simulated: Duration, took: Duration) -> String {
    format!("{:.1}{SIMULATED}{:.1} s", simulated.as_secs_f64(), took.as_secs_f64())
}

/// How much was simulated, from what a run printed.
pub fn simulated_of(printed: &str) -> Duration {
    let number = printed.lines().rev().find_map(|line| line.split_once(SIMULATED)?.0.rsplit(' ').next()?.parse().ok());
    Duration::from_secs_f64(number.unwrap_or_default())
}

/// What makes a run of this task with these of its faults.
fn flags(task: &Task, args: &Args, only: Option<&BTreeSet<usize>>) -> Vec<String> {
    let mut flags = vec!["--seed".to_owned(), task.seed.to_string()];
    if args.minutes != 0.5 {
        flags.extend(["--minutes".to_owned(), args.minutes.to_string()]);
    }
    let kinds = if only.is_some_and(BTreeSet::is_empty) { "none" } else { &args.faults.text };
    if kinds != "all" {
        flags.extend(["--faults".to_owned(), kinds.to_owned()]);
    }
    if args.workloads.set.is_some() {
        flags.extend(["--workloads".to_owned(), args.workloads.text.clone()]);
    }
    if let Some(only) = only.filter(|only| !only.is_empty()) {
        let numbers: Vec<String> = only.iter().map(usize::to_string).collect();
        flags.extend(["--only".to_owned(), numbers.join(",")]);
    }
    flags
}

/// Runs the seed again and again, with fewer and fewer of its faults.
fn shrink(task: &Task, args: &Args) -> io::Result<()> {
    let schedule = task.schedule();
    let all: BTreeSet<usize> = schedule.chosen(task.only.as_ref()).map(|(number, _)| number).collect();
    let (this, began) = (std::env::current_exe()?, Instant::now());
    let mut runs = 0;
    let fails = |part: &BTreeSet<usize>| {
        if began.elapsed() > args.shrink_for {
            return false;
        }
        runs += 1;
        let run = Command::new(&this).args(flags(task, args, Some(part))).args(["--no-shrink", "--brief"]).output();
        // Not one that could not run at all.
        run.is_ok_and(|run| run.status.code() == Some(FAILED.into()))
    };
    let fewest = smallest(&all, fails);
    let is_cut = if began.elapsed() > args.shrink_for { ", there was no time for more" } else { "" };
    println!("of its {} faults it fails with these {} alone ({runs} runs{is_cut}):", all.len(), fewest.len());
    for (number, episode) in schedule.chosen(Some(&fewest)) {
        for (at, fault) in episode {
            println!("  [{number}] {:>9.3} s after the load began: {fault}", at.as_secs_f64());
        }
    }
    println!("run that with: highwater-sim {}", flags(task, args, Some(&fewest)).join(" "));
    Ok(())
}

fn subscriber(filter: &str) -> impl tracing::Subscriber + Send + Sync + use<> {
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
