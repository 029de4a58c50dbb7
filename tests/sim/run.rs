//! One run of the simulation under one seed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use highwater_testkit::History;
use highwater_testkit::history::{Event, Report, Rules, check_ownership};
use highwater_testkit::transactors::{Done, Transactor};

use crate::faults::{Fault, Schedule};
use crate::members::Members;
use crate::pipelines::Pipelines;
use crate::{cluster, faults, pipelines, table, workload};

/// When the writers stop; faults are over before.
const LOAD: Duration = Duration::from_secs(30);
/// How long the cluster has to be whole again and give everything back.
const RECOVERY: Duration = Duration::from_secs(60);
const WRITERS: u32 = 2;
const TRANSACTORS: u32 = 2;

pub struct Outcome {
    pub history: String,
    pub report: Report,
    pub ledger: String,
    pub schedule: Schedule,
    /// By the simulation's clock.
    pub lasted: Duration,
}

/// Runs one seed. In a process of its own, or the same seed will not give the same history: tokio numbers the tasks of a
/// process from one counter, and drops those of a crashed host in an order that depends on their numbers.
/// With the numbers of episodes, only those of the seed's faults happen.
pub fn run(seed: u64, only: Option<&BTreeSet<usize>>) -> Outcome {
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(3))
        .tcp_capacity(4096)
        .build();
    let hardware = cluster::build(&mut sim, seed);
    let history = History::timed_by(|| turmoil::sim_elapsed().unwrap_or_default());
    let members = Members::join(&mut sim, seed, &history);
    let pipelines = Pipelines::start(&mut sim, seed);
    let stop_writing = Rc::new(Cell::new(false));
    let ready = Rc::new(Cell::new(false));
    let ledger: Rc<Cell<String>> = Rc::default();

    sim.client("client", {
        let (stop_writing, ready, told) = (Rc::clone(&stop_writing), Rc::clone(&ready), Rc::clone(&ledger));
        let (history, members) = (history.clone(), members.clone());
        async move {
            let client = workload::connect(seed, "client", RECOVERY).await?;
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
            Ok(())
        }
    });

    while !ready.get() {
        step(&mut sim, &history);
    }
    let start = sim.elapsed();
    let schedule = Schedule::draw(seed, &hardware, start + Duration::from_secs(1), start + LOAD);
    let events = schedule.events(only);
    let mut coming = events.iter().peekable();
    loop {
        while let Some((_, fault)) = coming.next_if(|(at, _)| *at <= sim.elapsed()) {
            history.record_at(sim.elapsed(), Event::Fault { what: format!("{fault:?}") });
            if let Fault::Crash { host, .. } = fault {
                members.crashes(host, sim.elapsed());
            }
            faults::apply(&mut sim, &hardware, fault);
        }
        if sim.elapsed() >= start + LOAD {
            stop_writing.set(true);
        }
        if step(&mut sim, &history) {
            break;
        }
    }
    let violations: Vec<String> = check_ownership(&history.events()).iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{}\n{}", violations.join("\n"), history.left_in_a_file());
    let report = history.assert_keeps(&Rules::idempotent());
    let lasted = sim.elapsed();
    Outcome { history: history.to_json_lines(), report, ledger: ledger.take(), schedule, lasted }
}

fn step(sim: &mut turmoil::Sim<'_>, history: &History) -> bool {
    sim.step().unwrap_or_else(|error| panic!("at {:?}: {error}; {}", sim.elapsed(), history.left_in_a_file()))
}
