//! One run of the simulation under one seed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_testkit::History;
use highwater_testkit::history::{Event, Report, Rules, check_ownership};
use highwater_testkit::transactors::{Done, Transactor};

use crate::faults::{Fault, Kind, MESSAGE_MAX, Plan, Schedule, Wreckage};
use crate::members::Members;
use crate::operator::{self, Operator};
use crate::pipelines::Pipelines;
use crate::story::Story;
use crate::world::World;
use crate::{cluster, members, pipelines, table, workload};

/// How long the cluster has to be whole again and give everything back.
const RECOVERY: Duration = Duration::from_secs(60);
/// More than any run takes beyond its load.
const REST_MAX: Duration = Duration::from_secs(600);
const WRITERS: u32 = 2;
const TRANSACTORS: u32 = 2;
const CLIENT: &str = "client";

/// What is run.
#[derive(Clone)]
pub struct Task {
    pub seed: u64,
    /// Kinds of faults to draw from.
    pub kinds: BTreeSet<Kind>,
    /// When the writers stop; faults are over before.
    pub load: Duration,
    /// Of the episodes only these, by number.
    pub only: Option<BTreeSet<usize>>,
}

impl Task {
    /// What goes wrong in it.
    pub fn schedule(&self) -> Schedule {
        let members = [members::hosts(), pipelines::hosts()].concat();
        let clients = [vec![CLIENT.to_owned(), operator::HOST.to_owned()], members.clone()].concat();
        Plan { seed: self.seed, kinds: self.kinds.clone(), lasts: self.load, clients, members }.draw()
    }
}

pub struct Outcome {
    pub history: String,
    pub report: Report,
    pub ledger: String,
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
    let nodes = cluster::build(&mut sim, &world);
    let history = History::timed_by(|| turmoil::sim_elapsed().unwrap_or_default());
    let members = Members::join(&mut sim, &world, &history);
    let pipelines = Pipelines::start(&mut sim, &world);
    let operator = Operator::start(&mut sim, &world, &story);
    let stop_writing = Rc::new(Cell::new(false));
    let ready = Rc::new(Cell::new(false));
    let ledger: Rc<Cell<String>> = Rc::default();

    sim.client(CLIENT, {
        let (stop_writing, ready, told) = (Rc::clone(&stop_writing), Rc::clone(&ready), Rc::clone(&ledger));
        let (history, members, world, operator) = (history.clone(), members.clone(), world.clone(), operator.clone());
        async move {
            let client = workload::connect(&world, CLIENT, RECOVERY).await?;
            workload::create_topic(&client, workload::TOPIC, RECOVERY).await?;
            workload::create_topic(&client, workload::LEDGER, RECOVERY).await?;
            table::make(&client, RECOVERY).await?;
            pipelines::make(&client, RECOVERY).await?;
            ready.set(true);
            let table = table::write(client.clone(), Rc::clone(&stop_writing));
            let table = tokio::task::spawn_local(async move { table.await.map_err(|e| e.to_string()) });
            let stop_reading = Rc::new(Cell::new(false));
            let follower = workload::follow(client.clone(), history.clone(), 1, Rc::clone(&stop_reading));
            let follower = tokio::task::spawn_local(async move { follower.await.map_err(|e| e.to_string()) });
            let writers = (0..WRITERS).map(|writer| {
                let work = workload::write(client.clone(), history.clone(), writer, Rc::clone(&stop_writing));
                tokio::task::spawn_local(async move { work.await.map_err(|e| e.to_string()) })
            });
            let done = Done::default();
            let transactors: Vec<_> = (1..=TRANSACTORS)
                .map(|number| Transactor::start(&client, number, workload::LEDGER, workload::PARTITIONS, &done))
                .collect();
            for writer in writers.collect::<Vec<_>>() {
                writer.await??;
            }
            for transactor in transactors {
                transactor.stop().await;
            }
            let written = table.await??;
            let ledger = workload::check_ledger(&client, &done, RECOVERY).await?;
            told.replace(format!("{ledger}; {}", table::check(&client, &written, RECOVERY).await?));
            workload::read_whole(&client, &history, 2, RECOVERY).await?;
            stop_reading.set(true);
            follower.await??;
            members.have_read_all(RECOVERY).await?;
            pipelines.have_done_all(&client, &history, RECOVERY).await?;
            operator.has_done_all(RECOVERY).await?;
            operator::is_whole(&client, RECOVERY).await?;
            Ok(())
        }
    });

    while !ready.get() {
        step(&mut sim, progress, &history);
    }
    let start = sim.elapsed();
    story.tell_at(start, "the load begins");
    let clients = [vec![CLIENT.to_owned(), operator::HOST.to_owned()], members::hosts(), pipelines::hosts()].concat();
    let mut wreckage = Wreckage::new(world, nodes, clients);
    let mut coming = task.schedule().events(task.only.as_ref()).into_iter().peekable();
    loop {
        while let Some((_, number, fault)) = coming.next_if(|(at, ..)| start + *at <= sim.elapsed()) {
            story.tell_at(sim.elapsed(), format!("[{number}] {fault}"));
            history.record_at(sim.elapsed(), Event::Fault { what: fault.to_string() });
            if let Fault::Crash { host, .. } = &fault {
                members.crashes(host, sim.elapsed());
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
        if !stop_writing.get() && sim.elapsed() >= start + task.load {
            story.tell_at(sim.elapsed(), "the load ends");
            stop_writing.set(true);
        }
        if step(&mut sim, progress, &history) {
            break;
        }
    }
    story.tell_at(sim.elapsed(), "everything works again, and was read");
    let violations: Vec<String> = check_ownership(&history.events()).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}\n{}", violations.join("\n"), history.left_in_a_file());
    let report = history.assert_keeps(&Rules::idempotent());
    Outcome { history: history.to_json_lines(), report, ledger: ledger.take() }
}

fn step(sim: &mut turmoil::Sim<'_>, progress: &Progress, history: &History) -> bool {
    progress.is_at(sim.elapsed());
    sim.step().unwrap_or_else(|error| panic!("at {:?}: {error}; {}", sim.elapsed(), history.left_in_a_file()))
}
