//! Lets faults happen. They overlap: a link is whole when nothing cuts it any more, and a node runs when nothing keeps it down.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_storage::sim::{SimDisk, SimLatency};

use super::{Fault, Way};
use crate::cluster::{Nodes, controller_host};
use crate::node::{Node, Storage};
use crate::world::World;

/// How long a process that ended by itself waits for whoever starts it again, as systemd or Kubernetes do.
const STARTED_AFTER: Duration = Duration::from_millis(200);
/// A shutdown in good order takes no longer, whatever else is wrong (`highwater server` gives up after that, too).
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);
/// The longest time of a message when nothing delays it.
pub const MESSAGE_MAX: Duration = Duration::from_millis(3);

#[derive(Default)]
struct Link {
    /// How many faults cut it from the first host to the second, and back.
    cuts: [u32; 2],
    held: u32,
    is_held: bool,
}

/// What is broken now.
pub struct Wreckage {
    world: World,
    nodes: Nodes,
    /// All of them, with those of clients.
    hosts: Vec<String>,
    /// By the two hosts, in order.
    links: BTreeMap<(String, String), Link>,
    /// How many faults keep a host down.
    down: BTreeMap<String, u32>,
    /// Hosts that die at a call to their disk, how many faults say so, and whether by power loss.
    doomed: BTreeMap<String, (u32, bool)>,
    /// Processes that ended by themselves, and when they are started again.
    ended: BTreeMap<String, Duration>,
    /// Nodes that were told to stop, and when.
    stopping: BTreeMap<String, Duration>,
    /// Hosts that have lost power and are not asked for yet.
    powerless: Vec<String>,
}

impl Wreckage {
    pub fn new(world: World, nodes: Nodes, clients: Vec<String>) -> Self {
        let hosts = nodes.keys().cloned().chain(clients).collect();
        Self {
            world,
            nodes,
            hosts,
            links: BTreeMap::new(),
            down: BTreeMap::new(),
            doomed: BTreeMap::new(),
            ended: BTreeMap::new(),
            stopping: BTreeMap::new(),
            powerless: Vec::new(),
        }
    }

    pub fn apply(&mut self, sim: &mut turmoil::Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Crash { host, power_loss } => self.keep_down(sim, host, *power_loss),
            Fault::CrashAtCall { host, calls, power_loss } => {
                if let Some(node) = self.nodes.get(host) {
                    node.die_after(*calls);
                    let doom = self.doomed.entry(host.clone()).or_default();
                    *doom = (doom.0 + 1, *power_loss);
                }
            }
            Fault::Restart { host } => self.restart(sim, host),
            Fault::Stop { host } => {
                if !self.down.contains_key(host) && !self.ended.contains_key(host) {
                    self.node(host).switch.stop();
                    self.stopping.insert(host.clone(), sim.elapsed());
                }
            }
            Fault::Hang { host } => self.hang(sim, host, true),
            Fault::Resume { host } => self.hang(sim, host, false),
            Fault::FullDisk { host } => self.with_disk(host, |disk| disk.set_capacity(disk.used_bytes())),
            Fault::Space { host } => self.with_disk(host, |disk| disk.set_capacity(u64::MAX)),
            Fault::FailSyncs { host } => self.with_disk(host, |disk| disk.fail_syncs(Some(""))),
            Fault::FailWrites { host } => self.with_disk(host, |disk| disk.fail_writes(Some(""))),
            Fault::FailReads { host } => self.with_disk(host, |disk| disk.fail_reads(Some(""))),
            Fault::DiskWorks { host } => self.with_disk(host, |disk| {
                disk.fail_syncs(None);
                disk.fail_writes(None);
                disk.fail_reads(None);
            }),
            Fault::FlipBit { host } => self.with_disk(host, |disk| flip_bit(disk, NOT_THE_LAST_TWO)),
            Fault::FlipOldBit { host } => self.with_disk(host, |disk| flip_bit(disk, FIRST_HALF)),
            Fault::Spoil { host } => self.with_disk(host, spoil),
            Fault::NewDisk { host } => self.with_disk(host, SimDisk::replace),
            Fault::SlowDisk { host } => self.with_disk(host, |disk| disk.set_latency(slow())),
            Fault::FastDisk { host } => self.with_disk(host, |disk| disk.set_latency(SimLatency::ssd())),
            Fault::Clock { host, ms } => self.world.set_skew(host, *ms),
            Fault::Cut { from, to, way } => self.cut(sim, from, to, *way, true),
            Fault::Heal { from, to, way } => self.cut(sim, from, to, *way, false),
            Fault::Hold { a, b } => self.hold(sim, a, b, true),
            Fault::Release { a, b } => self.hold(sim, a, b, false),
            Fault::Delay { a, b, ms } => {
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), Duration::from_millis(*ms));
            }
            Fault::NoDelay { a, b } => sim.set_link_max_message_latency(a.as_str(), b.as_str(), MESSAGE_MAX),
            Fault::Reset { host, peer } => {
                self.world.connections.reset(|a, b| a == host && peer.as_ref().is_none_or(|peer| b == peer));
            }
            // The operator's work; see `operator`.
            Fault::AddController { .. } | Fault::RemoveController { .. } => {}
        }
    }

    /// What happens without a fault: processes that ended by themselves are started again, and those die that came to their last
    /// call. Returns what is to be told.
    ///
    /// # Panics
    /// If a node takes too long to stop.
    pub fn tend(&mut self, sim: &mut turmoil::Sim<'_>) -> Vec<String> {
        let mut told = Vec::new();
        let over: Vec<String> = self.doomed.keys().filter(|host| self.node(host).is_to_die()).cloned().collect();
        for host in over {
            let (faults, power_loss) = self.doomed.remove(&host).unwrap_or_default();
            told.push(format!("{host} dies at a call to its disk"));
            for _ in 0..faults {
                self.keep_down(sim, &host, power_loss);
            }
        }
        let ends: Vec<(String, String)> = self
            .nodes
            .iter()
            .filter_map(|(host, node)| node.switch.take_end().map(|why| (host.clone(), why)))
            .collect();
        for (host, why) in ends {
            told.push(format!("{host} has ended: {why}"));
            self.stopping.remove(&host);
            self.ended.insert(host, sim.elapsed() + STARTED_AFTER);
        }
        while let Some(host) = self.ended.iter().find(|(_, at)| **at <= sim.elapsed()).map(|(host, _)| host.clone()) {
            self.ended.remove(&host);
            told.push(format!("{host} starts again"));
            self.node(&host).crash(false);
            sim.bounce(host.as_str());
        }
        let late = self.stopping.iter().find(|(_, since)| sim.elapsed() > **since + SHUTDOWN_MAX);
        assert!(late.is_none(), "{late:?} was told to stop, and has not within {SHUTDOWN_MAX:?}");
        told
    }

    /// Hosts that have lost power since this was asked last, by whichever fault.
    pub fn take_powerless(&mut self) -> Vec<String> {
        std::mem::take(&mut self.powerless)
    }

    /// Ends the process of a controller that was removed, and leaves nothing on its disk; it waits to be added again.
    pub fn retire(&mut self, sim: &mut turmoil::Sim<'_>, id: u64) {
        let host = controller_host(id);
        self.kill(sim, &host, false);
        let node = self.node(&host);
        if let Storage::Store(store) = &node.storage {
            store.wipe();
        }
        node.switch.set_joins(true);
        if !self.down.contains_key(&host) {
            sim.bounce(host.as_str());
        }
    }

    fn node(&self, host: &str) -> &Node {
        &self.nodes[host]
    }

    fn disk(&self, host: &str) -> Option<&SimDisk> {
        self.nodes.get(host).and_then(Node::disk)
    }

    fn with_disk(&self, host: &str, work: impl FnOnce(&SimDisk)) {
        if let Some(disk) = self.disk(host) {
            work(disk);
        }
    }

    fn keep_down(&mut self, sim: &mut turmoil::Sim<'_>, host: &str, power_loss: bool) {
        *self.down.entry(host.to_owned()).or_default() += 1;
        self.kill(sim, host, power_loss);
    }

    fn kill(&mut self, sim: &mut turmoil::Sim<'_>, host: &str, power_loss: bool) {
        self.ended.remove(host);
        self.stopping.remove(host);
        let others: BTreeSet<String> = self.hosts.iter().filter(|other| *other != host).cloned().collect();
        if power_loss {
            self.powerless.push(host.to_owned());
            // Nobody is left to close its connections.
            others.iter().for_each(|other| sim.partition(host, other.as_str()));
        }
        sim.crash(host);
        if power_loss {
            others.iter().for_each(|other| self.show(sim, host, other));
        }
        if let Some(node) = self.nodes.get(host) {
            node.crash(power_loss);
            node.switch.take_end();
        }
    }

    fn restart(&mut self, sim: &mut turmoil::Sim<'_>, host: &str) {
        if let Some(faults) = self.down.get_mut(host) {
            *faults -= 1;
            if *faults == 0 {
                self.down.remove(host);
                sim.bounce(host);
            }
            return;
        }
        // It did not come to its last call.
        if let Some((faults, power_loss)) = self.doomed.remove(host) {
            if faults > 1 {
                self.doomed.insert(host.to_owned(), (faults - 1, power_loss));
            }
            self.kill(sim, host, power_loss);
            sim.bounce(host);
        }
    }

    fn hang(&mut self, sim: &mut turmoil::Sim<'_>, host: &str, hangs: bool) {
        let others: Vec<String> = self.hosts.iter().filter(|other| *other != host).cloned().collect();
        others.iter().for_each(|other| self.hold(sim, host, other, hangs));
        self.node(host).stall(hangs);
    }

    fn link(&mut self, a: &str, b: &str) -> (&mut Link, usize) {
        let (first, second) = if a < b { (a, b) } else { (b, a) };
        (self.links.entry((first.to_owned(), second.to_owned())).or_default(), usize::from(a > b))
    }

    fn cut(&mut self, sim: &mut turmoil::Sim<'_>, from: &[String], to: &[String], way: Way, is_cut: bool) {
        for (a, b) in from.iter().flat_map(|a| to.iter().map(move |b| (a, b))) {
            let (link, forth) = self.link(a, b);
            let directions = if way == Way::Both { vec![0, 1] } else { vec![forth] };
            for direction in directions {
                let cuts = &mut link.cuts[direction];
                *cuts = if is_cut { *cuts + 1 } else { cuts.saturating_sub(1) };
            }
            self.show(sim, a, b);
        }
    }

    fn hold(&mut self, sim: &mut turmoil::Sim<'_>, a: &str, b: &str, is_held: bool) {
        let (link, _) = self.link(a, b);
        link.held = if is_held { link.held + 1 } else { link.held.saturating_sub(1) };
        self.show(sim, a, b);
    }

    /// Makes the simulated link what it is to be now.
    fn show(&mut self, sim: &turmoil::Sim<'_>, a: &str, b: &str) {
        let (first, second) = if a < b { (a, b) } else { (b, a) };
        let (link, _) = self.link(a, b);
        if link.is_held && link.held == 0 {
            // What was held arrives, but what a cut takes.
            sim.release(first, second);
        }
        link.is_held = link.held > 0;
        sim.repair(first, second);
        if link.is_held {
            sim.hold(first, second);
        }
        if link.cuts[0] > 0 {
            sim.partition_oneway(first, second);
        }
        if link.cuts[1] > 0 {
            sim.partition_oneway(second, first);
        }
    }
}

/// How many segments of a log, of so many, are not near its end, where a flip can't be told from a torn write. Above the recovery point
/// it can't either, but sound batches follow it. The last is written to, and the one before may not be synced yet.
type Old = fn(usize) -> usize;
const NOT_THE_LAST_TWO: Old = |segments| segments.saturating_sub(2);
/// Of logs that have been written to for long.
const FIRST_HALF: Old = |segments| segments / 2;

fn flip_bit(disk: &SimDisk, of: Old) {
    if let Some(file) = disk.one_of(&first_segments(disk, of)) {
        // Empty: nothing to turn.
        let _ = disk.flip_random_bit(file);
    }
}

/// No batch is without a bit that turns.
fn spoil(disk: &SimDisk) {
    if let Some(file) = disk.one_of(&first_segments(disk, FIRST_HALF)) {
        // Until its end.
        let _ = (0..).step_by(16).try_for_each(|byte| disk.flip_bit(file, byte, 0));
    }
}

/// Of all logs.
fn first_segments(disk: &SimDisk, of: Old) -> Vec<PathBuf> {
    let mut logs: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    // Sorted by base offset.
    for file in disk.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
        logs.entry(file.parent().map(Path::to_owned).unwrap_or_default()).or_default().push(file);
    }
    let first = logs.into_values().flat_map(|segments| {
        let count = of(segments.len());
        segments.into_iter().take(count)
    });
    first.collect()
}

fn slow() -> SimLatency {
    let ssd = SimLatency::ssd();
    SimLatency { sync: (ssd.sync.0 * 100, ssd.sync.1 * 100), read: (ssd.read.0 * 100, ssd.read.1 * 100) }
}
