//! The test of the tests: each deliberate bug of `types::mutation` must be caught by the simulated cluster, as a broken promise, and
//! without it the same seeds must hold. A bug that is not caught means that a fault, a workload or a checker is missing.
//!
//! `cargo test -p highwater-tests --profile sim --features mutations --test mutations`; with `HIGHWATER_MUTATION=<name>` one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use highwater_types::mutation::Mutation;

/// Runs at a time.
const JOBS: usize = 2;

/// Under what a bug shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Setup {
    /// Kinds of faults to draw from.
    faults: &'static str,
    /// What clients do.
    workloads: &'static str,
    /// For how many simulated minutes.
    minutes: &'static str,
    /// Tried one after the other until the bug is caught.
    seeds: &'static [u64],
}

const fn setup(faults: &'static str, workloads: &'static str, seeds: &'static [u64]) -> Setup {
    Setup { faults, workloads, minutes: "0.5", seeds }
}

/// For as long as one scenario takes.
const fn scene(faults: &'static str, workloads: &'static str, seeds: &'static [u64]) -> Setup {
    Setup { faults, workloads, minutes: "0.1", seeds }
}

/// A scenario is against the rule that the bug breaks; whether whom it hits is who matters follows from the seed. Those that are known
/// to catch it come first, or the test takes long.
const SOME: &[u64] = &[1, 2, 3, 4, 5, 6];
const MANY: &[u64] = &[3, 2, 4, 1, 5, 6, 7, 8, 9, 10, 11, 12];

/// The faults and the work without which a bug does not show, and seeds that are known to have enough of them.
const fn setup_of(mutation: Mutation) -> Setup {
    use Mutation as M;
    match mutation {
        M::FolderNotSynced => setup("power", "none", &[1]),
        M::ReadAboveHighWatermark => setup("crash,network", "none", &[3]),
        M::DuplicateStoredAgain | M::DuplicateGetsNewOffset => setup("crash,network", "none", &[1]),
        M::FollowersLearnNoProducers => setup("crash", "none", &[2]),
        M::ForgetProducersOnRestart | M::MarkerForgotten => setup("crash", "transactions", &[1]),
        M::OldProducerTaken | M::OpenTransactionInherited => setup("members", "zombies", &[1]),
        M::ServeBeforeLoaded => setup("crash", "pipeline", &[1]),
        M::PartitionGivenTwice => setup("members", "none", &[1]),
        M::CompactionDropsNewest => setup("crash", "table", &[1]),
        M::ElectOutsideIsr | M::UncleanUnasked => scene("left-behind", "none", SOME),
        M::JoinWithoutCatchingUp | M::ForgetMaximalIsr => scene("rejoin", "none", MANY),
        M::IsrNotCompared | M::BrokerEpochNotChecked => scene("stale", "none", MANY),
        M::CommitBelowMinIsr | M::MinIsrNotChecked => scene("shrink", "none", SOME),
        M::TrustIsr | M::TruncateByHighWatermark | M::SkipDivergenceCheck | M::ForgetProducersOnTruncation => {
            scene("cascade", "none", MANY)
        }
        M::SuccessWhenDeposed => scene("deposed", "hasty", &[4, 1, 2, 3, 5, 6]),
        M::RefusalWhenDeposed => scene("deposed", "hasty", &[15, 18, 20, 24, 1, 4]),
        M::CoordinatorNotFenced => scene("deposed", "transactions", SOME),
        M::AckBeforeSync | M::FailedSyncForgotten => scene("dark", "none", SOME),
        M::EntriesNotSynced => scene("amnesia", "none", SOME),
        M::IdFromName | M::TombstonesGoAtOnce => scene("absent", "table,lives", SOME),
        M::CrcNotChecked => scene("rot", "none", SOME),
        M::DamageCutSilently => scene("spoiled", "none", SOME),
        M::AbortedNotListed | M::StableOffByOne | M::CommitNotFenced => scene("none", "held,leavers", &[1]),
        M::DedupWindowOfOne => setup("network", "hasty,trims", &[4, 1, 2, 3, 5, 6]),
        M::AnswerUncommitted => setup("crash,network", "pipeline", &[3, 1, 2, 4, 5, 6]),
        M::OffsetsCommittedAtOnce => setup("members", "pipeline", SOME),
        M::ForgetProducersOnRetention => setup("crash,network", "retention", &[1, 2]),
        M::VoteNotSynced => scene("ballot", "none", &[2, 5, 1, 3, 4, 6]),
        M::EpochsNotTruncated => scene("offshoot", "acks", &[6, 10, 4, 8, 9, 12]),
    }
}

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Held,
    /// Broken promises, and by which anomalies of each.
    Broke(BTreeMap<String, BTreeSet<String>>),
    /// Something else went wrong.
    Other(String),
}

fn run(mutation: Option<Mutation>, setup: Setup, seed: u64) -> (End, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater-sim"));
    command.args(flags(setup, seed)).arg("--no-shrink");
    command.env_remove("HIGHWATER_MUTATION");
    if let Some(mutation) = mutation {
        command.args(["--mutation", mutation.name()]);
    }
    let output = command.output().expect("highwater-sim starts");
    let text = text(&output);
    (end(&output, &text), text)
}

fn flags(Setup { faults, workloads, minutes, .. }: Setup, seed: u64) -> [String; 8] {
    let seed = seed.to_string();
    ["--seed", &seed, "--faults", faults, "--workloads", workloads, "--minutes", minutes].map(str::to_owned)
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// The oracle's report has a line for each promise, and under it, farther in, one for each violation: `Anomaly (at ...): ...`.
fn end(output: &Output, text: &str) -> End {
    if output.status.success() {
        return End::Held;
    }
    let mut broke: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut promise = None;
    for line in text.lines() {
        let inner = line.trim_start();
        let indent = line.len() - inner.len();
        let word = inner.split([' ', '(']).next().unwrap_or_default();
        match indent {
            1 if matches!(word, "P1" | "P2" | "P3" | "P4" | "P5" | "P6") => promise = Some(word),
            1 if word == "liveness" => promise = Some("L"),
            2 if inner.contains(" (at ") => {
                if let Some(promise) = promise {
                    broke.entry(promise.to_owned()).or_default().insert(word.to_owned());
                }
            }
            _ => promise = None,
        }
    }
    // A workload that is given an error with which it can't go on.
    if text.contains("panicked at crates/testkit/src/workloads") {
        broke.entry("L".to_owned()).or_default().insert("WorkloadGaveUp".to_owned());
    }
    // Raft's own check, in builds that have debug assertions: a leader contradicts what this controller has committed. It can't go on.
    if text.contains("assertion failed: Some(log_id) <= self.committed()") {
        broke.entry("L".to_owned()).or_default().insert("ControllerGaveUp".to_owned());
    }
    match broke.is_empty() {
        true => {
            End::Other(text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"))
        }
        false => End::Broke(broke),
    }
}

/// What became of one bug.
struct Caught {
    mutation: Mutation,
    by: BTreeMap<String, BTreeSet<String>>,
    setup: Setup,
    seed: u64,
    runs: usize,
    took: Duration,
}

impl fmt::Display for Caught {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<String> = self
            .by
            .iter()
            .map(|(promise, by)| format!("{promise} {}", by.iter().cloned().collect::<Vec<_>>().join(", ")))
            .collect();
        let Self { mutation, setup, seed, runs, took, .. } = self;
        let (name, trap, what) = (mutation.name(), mutation.trap(), mutation.what());
        let (faults, work) = (setup.faults, setup.workloads);
        let under = [("--faults", faults), ("--workloads", work)].into_iter().filter(|(_, kinds)| *kinds != "none");
        let under: Vec<String> = under.map(|(flag, kinds)| format!("`{flag} {kinds}`")).collect();
        write!(
            f,
            "| `{name}` | {trap} | {what} | {} | {} | {seed} | {runs} | {:.1} s |",
            by.join("; "),
            under.join(" "),
            took.as_secs_f64()
        )
    }
}

fn hunt((mutation, setup): (Mutation, Setup)) -> Result<Caught, String> {
    let began = Instant::now();
    let mut ends = Vec::new();
    for (runs, &seed) in setup.seeds.iter().enumerate() {
        let (end, _) = run(Some(mutation), setup, seed);
        match end {
            // Not merely anything: a promise that the bug is said to break.
            End::Broke(by) if by.keys().any(|promise| mutation.promises().split(' ').any(|one| one == promise)) => {
                return Ok(Caught { mutation, by, setup, seed, runs: runs + 1, took: began.elapsed() });
            }
            end => ends.push(format!("seed {seed}: {end:?}")),
        }
    }
    Err(format!("{} ({}) was not caught:\n{}", mutation.name(), mutation.what(), ends.join("\n")))
}

fn chosen() -> Vec<(Mutation, Setup)> {
    let only = std::env::var("HIGHWATER_MUTATION").ok();
    let is_chosen = |one: &&Mutation| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == one.name()));
    Mutation::ALL.iter().filter(is_chosen).map(|one| (*one, setup_of(*one))).collect()
}

/// Does `work` to each, some at a time.
fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let items = Mutex::new(items.into_iter());
    let one_after_the_other = || {
        let next = || items.lock().expect("no worker panics with it").next();
        std::iter::from_fn(next).map(&work).collect::<Vec<R>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..JOBS).map(|_| scope.spawn(&one_after_the_other)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect()
    })
}

#[test]
fn the_simulation_catches_every_deliberate_bug() {
    let mut hunts = side_by_side(chosen(), hunt);
    hunts.sort_by_key(|hunt| hunt.as_ref().map(|caught| caught.mutation).ok());
    let (caught, missed): (Vec<_>, Vec<_>) = hunts.into_iter().partition(Result::is_ok);
    println!(
        "| bug | trap | what it does | caught by | under | seed | runs | took |\n|---|---|---|---|---|---|---|---|"
    );
    caught.iter().flatten().for_each(|caught| println!("{caught}"));
    let missed: Vec<String> = missed.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{} not caught:\n{}", missed.len(), missed.join("\n"));
    hold_without(caught.iter().flatten());
}

/// Or it would not be the bug that was caught.
fn hold_without<'a>(caught: impl Iterator<Item = &'a Caught>) {
    let tried = |one: &Caught| {
        let setup = Setup { seeds: &[], ..one.setup };
        one.setup.seeds[..one.runs].iter().map(move |seed| (setup, *seed)).collect::<Vec<_>>()
    };
    let runs: BTreeSet<(Setup, u64)> = caught.flat_map(tried).collect();
    let ends = side_by_side(runs.into_iter().collect(), |(setup, seed)| {
        let (end, text) = run(None, setup, seed);
        (end != End::Held).then(|| format!("{}:\n{text}", flags(setup, seed).join(" ")))
    });
    let failed: Vec<String> = ends.into_iter().flatten().collect();
    assert!(failed.is_empty(), "without a bug {} do not hold: {}", failed.len(), failed.join("\n"));
}
