//! A group of consumers, each a host of its own, that die and come back.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use highwater_client::GroupConfig;
use highwater_testkit::History;
use highwater_testkit::history::{Event, member_of};
use highwater_testkit::workloads::members;
use highwater_testkit::workloads::readers::unread;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Fallible, PARTITIONS, PATIENCE, TOPIC, connect, plain};
use crate::world::World;

/// As many as there are partitions; with one of them dead, another has two.
const MEMBERS: u32 = PARTITIONS;
pub const GROUP: &str = "billing";
/// A member's number in its n-th life is this times its host's, plus n.
const LIVES: u32 = 100;

/// Clones share the group.
#[derive(Clone)]
pub struct Members {
    history: History,
    /// How often the host has started.
    lives: Rc<BTreeMap<String, Cell<u32>>>,
    stop: watch::Sender<bool>,
}

pub fn host(number: u32) -> String {
    format!("member-{number}")
}

pub fn hosts() -> Vec<String> {
    (1..=MEMBERS).map(host).collect()
}

impl Members {
    /// Registers the hosts. The first is a static member: it has its partitions again when it is back in time.
    pub fn join(sim: &mut turmoil::Sim<'_>, world: &World, history: &History) -> Self {
        let lives = (1..=MEMBERS).map(|number| (host(number), Cell::new(0))).collect();
        let group = Self { history: history.clone(), lives: Rc::new(lives), stop: watch::Sender::new(false) };
        for number in 1..=MEMBERS {
            let (group, world) = (group.clone(), world.clone());
            sim.host(host(number), move || {
                let (group, world) = (group.clone(), world.clone());
                async move { group.live(&world, number).await.map_err(plain) }
            });
        }
        group
    }

    async fn live(self, world: &World, host_number: u32) -> Fallible<()> {
        let host = host(host_number);
        let life = &self.lives[&host];
        life.set(life.get() + 1);
        let number = host_number * LIVES + life.get();
        let config = GroupConfig { instance_id: (host_number == 1).then(|| host.clone()), ..GroupConfig::new(GROUP) };
        let client = connect(world, &host, PATIENCE).await?;
        members::work(&client, self.history.clone(), number, TOPIC, config, self.stop.subscribe()).await;
        Ok(())
    }

    /// To be told of every crash: what a dead member had may go to others.
    pub fn crashes(&self, host: &str, at: Duration) {
        if let Some(life) = self.lives.get(host) {
            let number = host.rsplit('-').next().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
            self.history.record_at(at, Event::MemberGone { member: number * LIVES + life.get() });
        }
    }

    /// Waits until the group has read every acknowledged record, and ends it.
    pub async fn have_read_all(&self, patience: Duration) -> Fallible<()> {
        let deadline = Instant::now() + patience;
        loop {
            let unread = unread(&self.history, TOPIC, |reader| member_of(reader).is_some());
            if unread.is_empty() {
                self.stop.send_replace(true);
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(
                    format!("the group did not read {} record(s), such as {:?}", unread.len(), unread.first()).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}
