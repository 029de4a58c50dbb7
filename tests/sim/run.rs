//! One run of the simulation under one seed.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_testkit::History;
use highwater_testkit::history::Event;
use highwater_testkit::oracle::{self, Anomaly, Expectations, Report};

use crate::cluster;
use crate::faults::{Fault, Kind, MESSAGE_MAX, Plan, Schedule, Wreckage};
use crate::operator::Operator;
use crate::story::Story;
use crate::workloads::mix::{Mix, Work};
use crate::workloads::{self, Workloads};
use crate::world::World;

/// After the last fault, everything must work again within this time.
const RECOVERY: Duration = Duration::from_secs(30);
/// More than any run takes beyond its load.
const REST_MAX: Duration = Duration::from_secs(600);

/// What is run.
#[derive(Clone)]
pub struct Task {
    pub seed: u64,
    /// Kinds of faults to draw from.
    pub kinds: BTreeSet<Kind>,
    /// When the writers stop; faults are over before.
    pub load: Duration,
    /// What clients do besides.
    pub mix: Mix,
    /// Of the episodes only these, by number.
    pub only: Option<BTreeSet<usize>>,
}

impl Task {
    /// What goes wrong in it.
    pub fn schedule(&self) -> Schedule {
        let (clients, members) = (workloads::hosts(), workloads::mortals());
        Plan { seed: self.seed, kinds: self.kinds.clone(), lasts: self.load, clients, members }.draw()
    }
}

pub struct Outcome {
    pub history: String,
    pub report: Report,
}

/// What others see of a run while it runs, and if it fails. Clones are the same run's.
#[derive(Clone, Default)]
pub struct Progress {
    pub story: Story,
    /// Simulated milliseconds.
    simulated: Arc<AtomicU64>,
}

impl Progress {
    /// By the simulation's clock.
    pub fn simulated(&self) -> Duration {
        Duration::from_millis(self.simulated.load(Ordering::Relaxed))
    }

    fn is_at(&self, elapsed: Duration) {
        self.simulated.store(elapsed.as_millis() as u64, Ordering::Relaxed);
    }
}

/// Runs one seed. In a process of its own, or the same seed will not give the same history: tokio numbers the tasks of a
/// process from one counter, and drops those of a crashed host in an order that depends on their numbers.
///
/// # Panics
/// If a promise was broken, or the cluster does not work again after the faults.
pub fn run(task: &Task, progress: &Progress) -> Outcome {
    let story = progress.story.clone();
    let mut sim = turmoil::Builder::new()
        .rng_seed(task.seed)
        .simulation_duration(task.load + REST_MAX)
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(MESSAGE_MAX)
        .tcp_capacity(4096)
        .build();
    let world = World::new(task.seed);
    let nodes = cluster::build(&mut sim, &world, task.mix.contains(&Work::Retention));
    let history = History::timed_by(|| turmoil::sim_elapsed().unwrap_or_default());
    let operator = Operator::start(&mut sim, &world, &story);
    let work = Workloads::start(&mut sim, &world, &task.mix, &history, &operator);
    while !work.is_ready() {
        step(&mut sim, progress, &history);
    }
    let start = sim.elapsed();
    story.tell_at(start, "the load begins");
    let mut wreckage = Wreckage::new(world, nodes, workloads::hosts());
    let mut coming = task.schedule().events(task.only.as_ref()).into_iter().peekable();
    let is_calm = coming.peek().is_none();
    let mut is_over = false;
    loop {
        while let Some((_, number, fault)) = coming.next_if(|(at, ..)| start + *at <= sim.elapsed()) {
            story.tell_at(sim.elapsed(), format!("[{number}] {fault}"));
            history.record_at(sim.elapsed(), Event::Fault { what: fault.to_string() });
            if let Fault::Crash { host, .. } = &fault {
                work.crashes(host, sim.elapsed());
            }
            if let Fault::Clock { host, .. } = &fault {
                history.record_at(sim.elapsed(), Event::ClockWrong { node: host.clone() });
            }
            operator.take(&fault);
            wreckage.apply(&mut sim, &fault);
        }
        if let Some(removed) = operator.take_removed() {
            wreckage.retire(&mut sim, removed);
        }
        for told in wreckage.tend(&mut sim) {
            story.tell_at(sim.elapsed(), told);
        }
        for node in wreckage.take_powerless() {
            history.record_at(sim.elapsed(), Event::PowerLost { node });
        }
        // Some end a little after the load should: signs of life are looked for once nothing is broken any more.
        if !is_over && sim.elapsed() >= start + task.load && coming.peek().is_none() {
            story.tell_at(sim.elapsed(), "the load ends");
            work.stop();
            if is_calm {
                // Nothing had to heal: signs of life are looked for from here on.
                history.record_at(sim.elapsed(), Event::Healed);
            }
            is_over = true;
        }
        if step(&mut sim, progress, &history) {
            break;
        }
    }
    story.tell_at(sim.elapsed(), "everything works again, and was read");
    let report = history.assert_keeps(&Expectations::default().recovers(RECOVERY, work.signs()));
    Outcome { history: history.to_json_lines(), report }
}

fn step(sim: &mut turmoil::Sim<'_>, progress: &Progress, history: &History) -> bool {
    progress.is_at(sim.elapsed());
    match catch_unwind(AssertUnwindSafe(|| sim.step())) {
        Ok(Ok(is_over)) => is_over,
        Ok(Err(error)) => {
            let at = sim.elapsed().as_secs_f64();
            give_up(
                history,
                &format!("at {at:.3} s: {error}"),
                &format!("\n liveness\n  NotRecovered (at {at:.3} s): {error}"),
            )
        }
        // Where, and why, is printed already.
        Err(_) => give_up(history, &format!("at {:?}: a panic", sim.elapsed()), ""),
    }
}

/// The work could not be done to its end. What was seen until then may tell why.
fn give_up(history: &History, why: &str, also: &str) -> ! {
    let mut report = oracle::check(&history.events(), &Expectations::default());
    // Nobody is left to be answered.
    report.violations.retain(|violation| violation.anomaly != Anomaly::Unanswered);
    panic!("{why}; {report}{also}\n{}", history.left_in_a_file())
}
