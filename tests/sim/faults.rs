//! What goes wrong, and when: a schedule drawn from the seed.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_seams::{Entropy, SeededEntropy};
use highwater_storage::sim::{Crash, SimLatency};

use crate::cluster::Hardware;
use crate::{members, pipelines};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies. With power loss, what was not synced goes with it.
    Crash {
        host: String,
        power_loss: bool,
    },
    Restart {
        host: String,
    },
    /// No more space on the disk than is taken.
    FullDisk {
        host: String,
    },
    Space {
        host: String,
    },
    /// Every fsync fails: the broker must not go on as if nothing had happened (T44). It is crashed and gets a working disk
    /// before it is restarted.
    FailSyncs {
        host: String,
    },
    /// A bit of a log file turns, in the page cache and on the device.
    FlipBit {
        host: String,
    },
    /// Syncs and cold reads take a hundred times as long.
    SlowDisk {
        host: String,
    },
    FastDisk {
        host: String,
    },
    /// The wall clock is wrong by so much.
    Skew {
        host: String,
        ms: i64,
    },
    /// No messages between two hosts, both ways.
    Cut {
        a: String,
        b: String,
    },
    Heal {
        a: String,
        b: String,
    },
    /// No messages from one host to another; those the other way arrive.
    CutOneWay {
        from: String,
        to: String,
    },
    HealOneWay {
        from: String,
        to: String,
    },
    /// What is sent between two hosts arrives later, all at once.
    Hold {
        a: String,
        b: String,
    },
    Release {
        a: String,
        b: String,
    },
}

/// A fault and its end.
pub type Episode = Vec<(Duration, Fault)>;

/// In the order of their beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(pub Vec<Episode>);

impl Schedule {
    /// Faults from `start` to `end`, all over by `end`, in tracks that overlap: nodes and disks, one at a time, so that every
    /// partition keeps a quorum to be served by; networks and clocks, and members of the group, on top of that. Bits flip on one host only: of the
    /// others' copies it is to be healed.
    pub fn draw(seed: u64, hardware: &Hardware, start: Duration, end: Duration) -> Self {
        let draw = Draw { random: SeededEntropy::new(seed.rotate_left(17)), hardware };
        let mut episodes = draw.track(start, end, Draw::node_fault);
        episodes.extend(draw.track(start + Duration::from_secs(2), end, Draw::network_fault));
        episodes.extend(draw.track(start, end, Draw::member_fault));
        episodes.sort_by_key(|episode| episode.first().map(|(at, _)| *at));
        Self(episodes)
    }

    /// What happens when, if of the episodes only those with these numbers do; with none named, all.
    pub fn events(&self, only: Option<&BTreeSet<usize>>) -> Vec<(Duration, Fault)> {
        let chosen = self.0.iter().enumerate().filter(|(number, _)| only.is_none_or(|only| only.contains(number)));
        let mut events: Vec<_> = chosen.flat_map(|(_, episode)| episode.iter().cloned()).collect();
        events.sort_by_key(|(at, _)| *at);
        events
    }
}

struct Draw<'a> {
    random: SeededEntropy,
    hardware: &'a Hardware,
}

impl Draw<'_> {
    fn track(&self, start: Duration, end: Duration, one: fn(&Self, Duration, Duration) -> Episode) -> Vec<Episode> {
        let mut episodes = Vec::new();
        let mut at = start;
        while at + Duration::from_secs(5) < end {
            let until = at + self.millis(300, 4_000);
            episodes.push(one(self, at, until));
            at = until + self.millis(500, 3_000);
        }
        // Some draws come to nothing.
        episodes.retain(|episode| !episode.is_empty());
        episodes
    }

    fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.random.below(high - low))
    }

    fn one_of<'h>(&self, hosts: impl Iterator<Item = &'h String>) -> String {
        let hosts: Vec<_> = hosts.collect();
        hosts[self.random.below(hosts.len() as u64) as usize].clone()
    }

    fn any_host(&self) -> String {
        self.one_of(self.hardware.disks.keys().chain(self.hardware.stores.keys()))
    }

    fn broker(&self) -> String {
        self.one_of(self.hardware.disks.keys())
    }

    fn node_fault(&self, at: Duration, until: Duration) -> Episode {
        let pause = Duration::from_millis(100);
        match self.random.below(8) {
            0..=3 => {
                let (host, power_loss) = (self.any_host(), self.random.below(2) == 0);
                vec![(at, Fault::Crash { host: host.clone(), power_loss }), (until, Fault::Restart { host })]
            }
            4 => {
                let host = self.broker();
                vec![(at, Fault::FullDisk { host: host.clone() }), (until, Fault::Space { host })]
            }
            5 => {
                let host = self.broker();
                let crash = Fault::Crash { host: host.clone(), power_loss: true };
                vec![
                    (at, Fault::FailSyncs { host: host.clone() }),
                    (until, crash),
                    (until + pause, Fault::Restart { host }),
                ]
            }
            6 => vec![(at, Fault::FlipBit { host: self.hardware.disks.keys().next().cloned().unwrap_or_default() })],
            _ => {
                let host = self.broker();
                vec![(at, Fault::SlowDisk { host: host.clone() }), (until, Fault::FastDisk { host })]
            }
        }
    }

    fn member_fault(&self, at: Duration, until: Duration) -> Episode {
        let hosts = [members::hosts(), pipelines::hosts()].concat();
        let (host, broker) = (self.one_of(hosts.iter()), self.broker());
        match self.random.below(4) {
            0 | 1 => {
                vec![(at, Fault::Crash { host: host.clone(), power_loss: false }), (until, Fault::Restart { host })]
            }
            2 => {
                let (a, b) = (host, broker);
                vec![(at, Fault::Cut { a: a.clone(), b: b.clone() }), (until, Fault::Heal { a, b })]
            }
            _ => {
                let (a, b) = (host, broker);
                vec![(at, Fault::Hold { a: a.clone(), b: b.clone() }), (until, Fault::Release { a, b })]
            }
        }
    }

    fn network_fault(&self, at: Duration, until: Duration) -> Episode {
        let (a, b) = (self.any_host(), self.any_host());
        if a == b {
            return Vec::new();
        }
        match self.random.below(5) {
            0 | 1 => vec![(at, Fault::Cut { a: a.clone(), b: b.clone() }), (until, Fault::Heal { a, b })],
            2 => {
                let (from, to) = (a, b);
                let cut = Fault::CutOneWay { from: from.clone(), to: to.clone() };
                vec![(at, cut), (until, Fault::HealOneWay { from, to })]
            }
            3 => vec![(at, Fault::Hold { a: a.clone(), b: b.clone() }), (until, Fault::Release { a, b })],
            _ => {
                let ms = self.random.below(7_200_000) as i64 - 3_600_000;
                vec![(at, Fault::Skew { host: a.clone(), ms }), (until, Fault::Skew { host: a, ms: 0 })]
            }
        }
    }
}

pub fn apply(sim: &mut turmoil::Sim<'_>, hardware: &Hardware, fault: &Fault) {
    match fault {
        Fault::Crash { host, power_loss } => {
            sim.crash(host.as_str());
            hardware.crash(host, if *power_loss { Crash::Power } else { Crash::Process });
        }
        Fault::Restart { host } => {
            hardware.with_disk(host, |disk| disk.fail_syncs(None));
            sim.bounce(host.as_str());
        }
        Fault::FullDisk { host } => hardware.with_disk(host, |disk| disk.set_capacity(disk.used_bytes())),
        Fault::Space { host } => hardware.with_disk(host, |disk| disk.set_capacity(u64::MAX)),
        Fault::FailSyncs { host } => hardware.with_disk(host, |disk| disk.fail_syncs(Some(""))),
        Fault::FlipBit { host } => hardware.with_disk(host, |disk| {
            let logs = disk.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "log"));
            // The oldest: at rest, below the recovery point. (Above it a flip can't be told from a torn write.)
            if let Some(oldest) = logs.min_by_key(|path| path.file_name().map(ToOwned::to_owned)) {
                // Empty: nothing to turn.
                let _ = disk.flip_random_bit(&oldest);
            }
        }),
        Fault::SlowDisk { host } => hardware.with_disk(host, |disk| disk.set_latency(slow())),
        Fault::FastDisk { host } => hardware.with_disk(host, |disk| disk.set_latency(SimLatency::ssd())),
        Fault::Skew { host, ms } => hardware.set_skew(host, *ms),
        Fault::Cut { a, b } => sim.partition(a.as_str(), b.as_str()),
        Fault::Heal { a, b } => sim.repair(a.as_str(), b.as_str()),
        Fault::CutOneWay { from, to } => sim.partition_oneway(from.as_str(), to.as_str()),
        Fault::HealOneWay { from, to } => sim.repair_oneway(from.as_str(), to.as_str()),
        Fault::Hold { a, b } => sim.hold(a.as_str(), b.as_str()),
        Fault::Release { a, b } => sim.release(a.as_str(), b.as_str()),
    }
}

fn slow() -> SimLatency {
    let ssd = SimLatency::ssd();
    SimLatency { sync: (ssd.sync.0 * 100, ssd.sync.1 * 100), read: (ssd.read.0 * 100, ssd.read.1 * 100) }
}
