//! What goes wrong, and when: a schedule drawn from the seed.

use std::time::Duration;

use highwater_seams::{Entropy, SeededEntropy};
use highwater_storage::sim::Crash;

use crate::cluster::Hardware;

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
    /// No messages between two hosts, both ways.
    Cut {
        a: String,
        b: String,
    },
    Heal {
        a: String,
        b: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(pub Vec<(Duration, Fault)>);

impl Schedule {
    /// Faults from `start` to `end`, all over by `end`; at most one node is down at a time, so that every partition keeps a
    /// quorum to be served by, and cuts come on top of that.
    pub fn draw(seed: u64, hosts: &[String], start: Duration, end: Duration) -> Self {
        let random = SeededEntropy::new(seed.rotate_left(17));
        let millis = |low: u64, high: u64| Duration::from_millis(low + random.below(high - low));
        let host = || hosts[random.below(hosts.len() as u64) as usize].clone();
        let mut events = Vec::new();
        let mut at = start;
        while at + Duration::from_secs(5) < end {
            let until = at + millis(300, 4_000);
            if random.below(3) < 2 {
                let host = host();
                let power_loss = random.below(2) == 0;
                events.push((at, Fault::Crash { host: host.clone(), power_loss }));
                events.push((until, Fault::Restart { host }));
            } else {
                let (a, b) = (host(), host());
                if a != b {
                    events.push((at, Fault::Cut { a: a.clone(), b: b.clone() }));
                    events.push((until, Fault::Heal { a, b }));
                }
            }
            at = until + millis(500, 3_000);
        }
        Self(events)
    }
}

pub fn apply(sim: &mut turmoil::Sim<'_>, hardware: &Hardware, fault: &Fault) {
    match fault {
        Fault::Crash { host, power_loss } => {
            sim.crash(host.as_str());
            hardware.crash(host, if *power_loss { Crash::Power } else { Crash::Process });
        }
        Fault::Restart { host } => sim.bounce(host.as_str()),
        Fault::Cut { a, b } => sim.partition(a.as_str(), b.as_str()),
        Fault::Heal { a, b } => sim.repair(a.as_str(), b.as_str()),
    }
}
