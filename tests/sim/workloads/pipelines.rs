//! Consume, transform, produce, and commit in one transaction: two hosts that do it as one group, and die and come back.

use std::time::Duration;

use highwater_client::Client;
use highwater_testkit::History;
use highwater_testkit::history::Event;
use highwater_testkit::workloads::members::all_have_left;
use highwater_testkit::workloads::pipeline::{self, not_copied, record_offsets, work};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Fallible, PATIENCE, TOPIC, connect, plain};
use crate::world::World;

const PIPELINES: u32 = 2;
const GROUP: &str = "totals";
/// What comes out.
pub const OUT: &str = "totals";

/// Clones share the group.
#[derive(Clone)]
pub struct Pipelines(watch::Sender<bool>);

fn host(number: u32) -> String {
    format!("pipeline-{number}")
}

pub fn hosts() -> Vec<String> {
    (1..=PIPELINES).map(host).collect()
}

pub fn described() -> Event {
    pipeline::described(GROUP, TOPIC, OUT)
}

impl Pipelines {
    /// Registers the hosts, where nothing happens if it does not work.
    pub fn start(sim: &mut turmoil::Sim<'_>, world: &World, works: bool) -> Self {
        let stop = watch::Sender::new(false);
        for number in 1..=PIPELINES {
            let (stop, world) = (stop.clone(), world.clone());
            sim.host(host(number), move || {
                let (stopping, world) = (stop.subscribe(), world.clone());
                async move {
                    // A host that faults may name, all the same.
                    if !works {
                        std::future::pending::<()>().await;
                    }
                    let client = connect(&world, &host(number), PATIENCE).await.map_err(plain)?;
                    work(&client, number, GROUP, [TOPIC, OUT], stopping).await;
                    Ok(())
                }
            });
        }
        Self(stop)
    }

    /// Waits until everything acknowledged has come out, ends them, and records where their group is.
    pub async fn have_done_all(&self, client: &Client, history: &History, patience: Duration) -> Fallible<()> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = not_copied(&history.events(), TOPIC, OUT);
            if missing.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                let what = format!("{} record(s) did not come out, such as {:?}", missing.len(), missing.first());
                return Err(format!("{what}; {}", held_up_by(client).await).into());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.0.send_replace(true);
        all_have_left(client, GROUP, patience).await?;
        record_offsets(client, history, GROUP, TOPIC, patience).await?;
        Ok(())
    }
}

/// What a pipeline that stands still may wait for.
async fn held_up_by(client: &Client) -> String {
    let admin = client.admin();
    let group = admin.describe_group(GROUP).await;
    let offsets = admin.group_offsets(GROUP).await;
    let transactions = admin.list_transactions().await;
    let hanging = admin.find_hanging_transactions(None, Duration::ZERO).await;
    format!("the group: {group:?}; its offsets: {offsets:?}; transactions: {transactions:?}; hanging: {hanging:?}")
}
