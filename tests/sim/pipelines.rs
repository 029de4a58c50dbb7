//! Consume, transform, produce, and commit in one transaction: two hosts that do it as one group, and die and come back.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_client::Client;
use highwater_testkit::history::{Event, PipelineViolation, check_exactly_once};
use highwater_testkit::pipeline::{read_committed, work};
use highwater_testkit::{History, RecordId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::workload::{self, Fallible};
use crate::world::World;

const PIPELINES: u32 = 2;
const GROUP: &str = "totals";
/// What comes out.
const OUT: &str = "totals";

/// Clones share the group.
#[derive(Clone)]
pub struct Pipelines(watch::Sender<bool>);

fn host(number: u32) -> String {
    format!("pipeline-{number}")
}

pub fn hosts() -> Vec<String> {
    (1..=PIPELINES).map(host).collect()
}

pub async fn make(client: &Client, patience: Duration) -> Fallible<()> {
    workload::create_topic(client, OUT, patience).await
}

impl Pipelines {
    /// Registers the hosts.
    pub fn start(sim: &mut turmoil::Sim<'_>, world: &World) -> Self {
        let stop = watch::Sender::new(false);
        for number in 1..=PIPELINES {
            let (stop, world) = (stop.clone(), world.clone());
            sim.host(host(number), move || {
                let (stopping, world) = (stop.subscribe(), world.clone());
                async move {
                    let client = workload::connect(&world, &host(number), workload::PATIENCE).await?;
                    work(&client, number, GROUP, [workload::TOPIC, OUT], stopping).await;
                    Ok(())
                }
            });
        }
        Self(stop)
    }

    /// Waits until everything acknowledged has come out, each record once, and ends them.
    pub async fn have_done_all(&self, client: &Client, history: &History, patience: Duration) -> Fallible<()> {
        let (mut inputs, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for timed in history.events() {
            match timed.event {
                Event::Acknowledged { id, .. } => _ = inputs.insert(id),
                Event::Unknown { id, .. } => _ = unknown.insert(id),
                _ => {}
            }
        }
        let deadline = Instant::now() + patience;
        loop {
            let violations = self.violations(client, &inputs, &unknown, patience).await?;
            let is_late = Instant::now() >= deadline;
            // What is missing may be on its way still; nothing else can come right.
            let is_wrong =
                |violation: &&PipelineViolation| is_late || !matches!(violation, PipelineViolation::Missing { .. });
            let wrong: Vec<String> = violations.iter().filter(is_wrong).map(ToString::to_string).collect();
            if !wrong.is_empty() {
                return Err(wrong.join("\n").into());
            }
            if violations.is_empty() {
                self.0.send_replace(true);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn violations(
        &self,
        client: &Client,
        inputs: &BTreeSet<RecordId>,
        unknown: &BTreeSet<RecordId>,
        patience: Duration,
    ) -> Fallible<Vec<PipelineViolation>> {
        let deadline = Instant::now() + patience;
        loop {
            match read_committed(client, OUT, patience).await {
                Ok(mut found) => {
                    found.retain(|(_, _, id)| !unknown.contains(id));
                    return Ok(check_exactly_once(inputs, &found));
                }
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}
