//! Draws a schedule from a seed.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_seams::{Entropy, SeededEntropy};

use super::{Episode, Fault, Kind, Schedule, Way, directed};
use crate::cluster::{BROKERS, CONTROLLERS, broker_host, brokers, controllers};

/// What a schedule is drawn from. The same plan gives the same schedule.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// Each seed uses some of these.
    pub kinds: BTreeSet<Kind>,
    /// How long faults begin and end; all are over by then.
    pub lasts: Duration,
    /// Hosts of clients that may be cut off.
    pub clients: Vec<String>,
    /// Hosts of clients that may also die.
    pub members: Vec<String>,
}

/// A fault lasts so long at least and less than so much more.
const LASTS_MS: (u64, u64) = (300, 3_700);
/// Time from the end of a fault to the next of the same track.
const PAUSE_MS: (u64, u64) = (300, 2_700);
/// No fault begins so near to the end.
const LAST_BEGINS: Duration = Duration::from_secs(5);

impl Plan {
    /// Tracks of faults that overlap each other: several nodes may be down or out of reach at a time, and no partition have a
    /// quorum to be served by, until it heals. Bits turn on one host only: of the others' copies it is to be healed.
    pub fn draw(&self) -> Schedule {
        let random = SeededEntropy::new(self.seed.rotate_left(17));
        let (directed, asked): (Vec<Kind>, Vec<Kind>) = self.kinds.iter().partition(|kind| kind.is_directed());
        // Not every kind in every seed: what some of them do, others hide.
        let mut kinds: Vec<Kind> = asked.iter().copied().filter(|_| random.below(10) < 7).collect();
        if kinds.is_empty() {
            kinds = asked;
        }
        let damaged = broker_host(1 + random.below(BROKERS.into()) as u32);
        let tracks = 1 + random.below(3);
        let draw = Draw { random, plan: self, damaged };
        let mut episodes = directed::draw(self, &directed);
        let has = |kind: &Kind| kinds.contains(kind);
        let nodes: Vec<Kind> = kinds.iter().copied().filter(|kind| !matches!(kind, Kind::Members)).collect();
        for _ in 0..if nodes.is_empty() { 0 } else { tracks } {
            draw.track(&mut episodes, |at, until| {
                let kind = nodes[draw.random.below(nodes.len() as u64) as usize];
                draw.one(kind, at, until)
            });
        }
        if has(&Kind::Members) && !self.members.is_empty() {
            draw.track(&mut episodes, |at, until| draw.member(at, until));
        }
        episodes.retain(|episode| !episode.is_empty());
        episodes.sort_by_key(|episode| episode.first().map(|(at, _)| *at));
        Schedule(episodes)
    }
}

struct Draw<'a> {
    random: SeededEntropy,
    plan: &'a Plan,
    damaged: String,
}

impl Draw<'_> {
    fn track(&self, episodes: &mut Vec<Episode>, one: impl Fn(Duration, Duration) -> Episode) {
        let mut at = self.millis((500, 3_000));
        while at + LAST_BEGINS < self.plan.lasts {
            let until = at + self.millis(LASTS_MS);
            episodes.push(one(at, until));
            at = until + self.millis(PAUSE_MS);
        }
    }

    fn millis(&self, (low, range): (u64, u64)) -> Duration {
        Duration::from_millis(low + self.random.below(range))
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn one_of(&self, hosts: &[String]) -> String {
        hosts[self.random.below(hosts.len() as u64) as usize].clone()
    }

    fn node(&self) -> String {
        self.one_of(&[brokers(), controllers()].concat())
    }

    fn broker(&self) -> String {
        self.one_of(&brokers())
    }

    /// Nodes more often than clients.
    fn any_host(&self) -> String {
        if self.chance(25) { self.one_of(&self.plan.clients) } else { self.node() }
    }

    fn one(&self, kind: Kind, at: Duration, until: Duration) -> Episode {
        match kind {
            Kind::Crash => self.crash(at, until),
            Kind::Power => self.power(at, until),
            Kind::Hang => {
                let host = self.node();
                vec![(at, Fault::Hang { host: host.clone() }), (until, Fault::Resume { host })]
            }
            Kind::Disk => self.disk(at, until),
            Kind::Bits => vec![(at, Fault::FlipBit { host: self.damaged.clone() })],
            Kind::Network => self.network(at, until),
            Kind::Clock => self.clock(at, until),
            Kind::Restart => self.restart(at),
            Kind::Membership => self.membership(at),
            Kind::Members => self.member(at, until),
            // See `directed`.
            _ => Episode::new(),
        }
    }

    fn crash(&self, at: Duration, until: Duration) -> Episode {
        let power_loss = false;
        match self.random.below(4) {
            0 | 1 => {
                let host = self.node();
                vec![(at, Fault::Crash { host: host.clone(), power_loss }), (until, Fault::Restart { host })]
            }
            2 => self.crash_at_call(at, until, power_loss),
            // All of a kind at a time.
            _ => {
                let hosts = if self.chance(50) { brokers() } else { controllers() };
                self.all(&hosts, at, until, power_loss)
            }
        }
    }

    fn power(&self, at: Duration, until: Duration) -> Episode {
        let power_loss = true;
        match self.random.below(5) {
            0 | 1 => {
                let host = self.node();
                vec![(at, Fault::Crash { host: host.clone(), power_loss }), (until, Fault::Restart { host })]
            }
            2 => self.crash_at_call(at, until, power_loss),
            3 => self.all(&brokers(), at, until, power_loss),
            _ => self.all(&[brokers(), controllers()].concat(), at, until, power_loss),
        }
    }

    /// All of them at once; they come back one by one.
    fn all(&self, hosts: &[String], at: Duration, until: Duration, power_loss: bool) -> Episode {
        let down = hosts.iter().map(|host| (at, Fault::Crash { host: host.clone(), power_loss }));
        let up = hosts.iter().map(|host| (until + self.millis((0, 800)), Fault::Restart { host: host.clone() }));
        down.chain(up).collect()
    }

    /// In the middle of what it does to its files; and perhaps again while it recovers.
    fn crash_at_call(&self, at: Duration, until: Duration, power_loss: bool) -> Episode {
        let host = self.broker();
        let mut episode = vec![
            (at, Fault::CrashAtCall { host: host.clone(), calls: 1 + self.random.below(400), power_loss }),
            (until, Fault::Restart { host: host.clone() }),
        ];
        if self.chance(50) {
            let again = until + Duration::from_millis(2);
            episode.push((
                again,
                Fault::CrashAtCall { host: host.clone(), calls: 1 + self.random.below(300), power_loss },
            ));
            episode.push((again + self.millis((300, 700)), Fault::Restart { host }));
        }
        episode
    }

    fn disk(&self, at: Duration, until: Duration) -> Episode {
        let (host, soon) = (self.broker(), until + Duration::from_millis(100));
        // What a failed sync left in the page cache is not on the device, so that only a power loss shows what is there. (A
        // process that is merely started anew would take the cache for the device, on any system.)
        let after = |power_loss| {
            vec![
                (until, Fault::Crash { host: host.clone(), power_loss }),
                (until, Fault::DiskWorks { host: host.clone() }),
                (soon, Fault::Restart { host: host.clone() }),
            ]
        };
        let begins = |fault| vec![(at, fault)];
        match self.random.below(5) {
            0 => vec![(at, Fault::FullDisk { host: host.clone() }), (until, Fault::Space { host })],
            1 => [begins(Fault::FailSyncs { host: host.clone() }), after(true)].concat(),
            2 => [begins(Fault::FailWrites { host: host.clone() }), after(self.chance(50))].concat(),
            3 => [begins(Fault::FailReads { host: host.clone() }), after(self.chance(50))].concat(),
            _ => vec![(at, Fault::SlowDisk { host: host.clone() }), (until, Fault::FastDisk { host })],
        }
    }

    fn network(&self, at: Duration, until: Duration) -> Episode {
        let (a, b) = (self.any_host(), self.node());
        if a == b {
            return self.isolation(a, at, until);
        }
        match self.random.below(10) {
            0 | 1 => self.cut(vec![a], vec![b], at, until),
            2 => self.flapping(&a, &b, at, until),
            3 => self.isolation(b, at, until),
            4 => self.split(at, until),
            5 => vec![(at, Fault::Hold { a: a.clone(), b: b.clone() }), (until, Fault::Release { a, b })],
            6 => {
                let ms = 20 + self.random.below(1_500);
                vec![(at, Fault::Delay { a: a.clone(), b: b.clone(), ms }), (until, Fault::NoDelay { a, b })]
            }
            7 => vec![(at, Fault::Reset { host: a, peer: Some(b) })],
            8 => vec![(at, Fault::Reset { host: b, peer: None })],
            // Again and again.
            _ => {
                let mut resets = vec![(at, Fault::Reset { host: b.clone(), peer: None })];
                let mut next = at + self.millis((20, 500));
                while next < until {
                    resets.push((next, Fault::Reset { host: b.clone(), peer: None }));
                    next += self.millis((20, 500));
                }
                resets
            }
        }
    }

    fn way(&self) -> Way {
        if self.chance(60) { Way::Both } else { Way::One }
    }

    fn cut(&self, from: Vec<String>, to: Vec<String>, at: Duration, until: Duration) -> Episode {
        let way = self.way();
        vec![(at, Fault::Cut { from: from.clone(), to: to.clone(), way }), (until, Fault::Heal { from, to, way })]
    }

    /// The link goes and comes.
    fn flapping(&self, a: &str, b: &str, at: Duration, until: Duration) -> Episode {
        let (mut episode, mut at) = (Vec::new(), at);
        while at < until {
            let healed = at + self.millis((30, 600));
            episode.extend(self.cut(vec![a.to_owned()], vec![b.to_owned()], at, healed));
            at = healed + self.millis((30, 600));
        }
        episode
    }

    /// One host and all others; or all that it sends; or all that it is sent.
    fn isolation(&self, host: String, at: Duration, until: Duration) -> Episode {
        let mut others = [brokers(), controllers(), self.plan.clients.clone()].concat();
        others.retain(|other| *other != host);
        let (one, others) = (vec![host], others);
        if self.chance(50) { self.cut(one, others, at, until) } else { self.cut(others, one, at, until) }
    }

    /// Nodes fall into two parts. Clients reach both.
    fn split(&self, at: Duration, until: Duration) -> Episode {
        let (one, other): (Vec<_>, Vec<_>) =
            [brokers(), controllers()].concat().into_iter().partition(|_| self.chance(40));
        if one.is_empty() || other.is_empty() {
            return Episode::new();
        }
        self.cut(one, other, at, until)
    }

    /// The clock jumps, forth or back, some times, and then is right.
    fn clock(&self, at: Duration, until: Duration) -> Episode {
        let host = self.any_host();
        let (mut episode, mut at) = (Vec::new(), at);
        while at < until {
            let range = [2_000, 60_000, 7_200_000][self.random.below(3) as usize];
            let ms = self.random.below(range) as i64 - range as i64 / 2;
            episode.push((at, Fault::Clock { host: host.clone(), ms }));
            at += self.millis((200, 2_000));
        }
        episode.push((until, Fault::Clock { host, ms: 0 }));
        episode
    }

    /// One node after the other, as when a new version is rolled out; or one alone.
    fn restart(&self, at: Duration) -> Episode {
        let mut hosts = match self.random.below(4) {
            0 => brokers(),
            1 => controllers(),
            _ => vec![self.node()],
        };
        let first = self.random.below(hosts.len() as u64) as usize;
        hosts.rotate_left(first);
        let gap = self.millis((200, 3_000));
        hosts.into_iter().zip(0u32..).map(|(host, turn)| (at + gap * turn, Fault::Stop { host })).collect()
    }

    /// The waiting controller takes the place of another, and gives it back.
    fn membership(&self, at: Duration) -> Episode {
        let spare = CONTROLLERS + 1;
        let other = 1 + self.random.below(CONTROLLERS);
        let mut changes = match self.random.below(3) {
            0 => vec![Fault::AddController { id: spare }, Fault::RemoveController { id: spare }],
            1 => vec![Fault::RemoveController { id: other }, Fault::AddController { id: other }],
            _ => vec![
                Fault::AddController { id: spare },
                Fault::RemoveController { id: other },
                Fault::AddController { id: other },
                Fault::RemoveController { id: spare },
            ],
        };
        let gap = self.millis((0, 3_000));
        changes.drain(..).zip(0u32..).map(|(change, turn)| (at + gap * turn, change)).collect()
    }

    fn member(&self, at: Duration, until: Duration) -> Episode {
        let (host, broker) = (self.one_of(&self.plan.members), self.broker());
        match self.random.below(5) {
            0 | 1 => {
                vec![(at, Fault::Crash { host: host.clone(), power_loss: false }), (until, Fault::Restart { host })]
            }
            2 => self.cut(vec![host], vec![broker], at, until),
            3 => vec![(at, Fault::Reset { host, peer: None })],
            _ => {
                let (a, b) = (host, broker);
                vec![(at, Fault::Hold { a: a.clone(), b: b.clone() }), (until, Fault::Release { a, b })]
            }
        }
    }
}
