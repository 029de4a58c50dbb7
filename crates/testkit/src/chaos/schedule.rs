//! What goes wrong, and when: drawn from a seed, and nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use highwater_seams::{Entropy as _, SeededEntropy};

use super::fault::{Fault, FaultKind, Target};
use crate::local_cluster::NodeId;

/// What there is to be broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    pub nodes: Vec<NodeId>,
    /// Of the topic under load.
    pub partitions: u32,
    /// Brokers whose disk can be filled.
    pub small_disks: Vec<NodeId>,
    /// What the brokers keep free.
    pub disk_reserve_bytes: u64,
}

/// A fault and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    pub from: Duration,
    pub to: Duration,
    pub fault: Fault,
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} s to {:6.2} s  {}", self.from.as_secs_f64(), self.to.as_secs_f64(), self.fault)
    }
}

/// In the order of their beginnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule(pub Vec<Episode>);

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, episode)| writeln!(f, "{number:4}  {episode}"))
    }
}

/// Faults that exclude each other: of processes; of the network; of disks. Those of different tracks overlap.
const TRACKS: [&[FaultKind]; 3] = [
    &[
        FaultKind::Kill,
        FaultKind::Hang,
        FaultKind::Restart,
        FaultKind::KillBrokers,
        FaultKind::KillControllers,
        FaultKind::KillAll,
    ],
    &[
        FaultKind::Cut,
        FaultKind::OneWay,
        FaultKind::Isolate,
        FaultKind::Flap,
        FaultKind::Delay,
        FaultKind::Throttle,
        FaultKind::Reset,
    ],
    &[FaultKind::DiskFull],
];

impl Schedule {
    /// Faults of `kinds` from `start` on, all over by `end`. The same arguments give the same schedule.
    pub fn draw(seed: u64, ground: &Ground, kinds: &BTreeSet<FaultKind>, start: Duration, end: Duration) -> Self {
        let mut episodes = Vec::new();
        for (number, track) in TRACKS.iter().enumerate() {
            let kinds: Vec<FaultKind> = track.iter().copied().filter(|kind| kinds.contains(kind)).collect();
            let random = SeededEntropy::new(seed.rotate_left(17) ^ number as u64);
            let draw = Draw { random, ground };
            episodes.extend(draw.track(&kinds, start, end));
        }
        episodes.sort_by_key(|episode| episode.from);
        Self(episodes)
    }
}

struct Draw<'a> {
    random: SeededEntropy,
    ground: &'a Ground,
}

impl Draw<'_> {
    fn track(&self, kinds: &[FaultKind], start: Duration, end: Duration) -> Vec<Episode> {
        let mut episodes: Vec<Episode> = Vec::new();
        if kinds.is_empty() {
            return episodes;
        }
        // Each kind has its turn, in an order that the seed shuffles, before one comes again.
        let mut left: Vec<FaultKind> = Vec::new();
        let mut at = start + self.millis(0, 2_000);
        while at + Duration::from_millis(500) < end {
            if left.is_empty() {
                left = kinds.to_vec();
            }
            let kind = left.swap_remove(self.random.below(left.len() as u64) as usize);
            let lasts = match kind {
                FaultKind::Reset => Duration::ZERO,
                // Short of what a leader is replaced after, and longer.
                FaultKind::Hang | FaultKind::Isolate | FaultKind::Cut | FaultKind::OneWay => self.millis(500, 7_000),
                FaultKind::Kill | FaultKind::Restart => self.millis(100, 4_000),
                FaultKind::KillAll | FaultKind::KillBrokers | FaultKind::KillControllers => self.millis(50, 2_000),
                _ => self.millis(1_000, 5_000),
            };
            if let Some(fault) = self.fault(kind) {
                episodes.push(Episode { from: at, to: (at + lasts).min(end), fault });
            }
            at = at + lasts + self.millis(1_000, 5_000);
        }
        episodes
    }

    fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.random.below(high - low))
    }

    fn coin(&self) -> bool {
        self.random.below(2) == 0
    }

    /// Half of the time somebody that matters at that moment.
    fn target(&self) -> Option<Target> {
        match self.random.below(4) {
            0 => Some(Target::Leader(self.random.below(self.ground.partitions.into()) as u32)),
            1 if self.ground.nodes.iter().any(|node| !node.is_broker()) => Some(Target::ActiveController),
            _ => self.one_of(&self.ground.nodes).map(Target::Node),
        }
    }

    fn two(&self) -> Option<[Target; 2]> {
        // Two names for one node are found out when it comes to it, and pass without a fault.
        let first = self.target()?;
        (0..10).find_map(|_| self.target().filter(|second| *second != first)).map(|second| [first, second])
    }

    fn one_of(&self, nodes: &[NodeId]) -> Option<NodeId> {
        nodes.get(self.random.below(nodes.len() as u64) as usize).copied()
    }

    fn fault(&self, kind: FaultKind) -> Option<Fault> {
        Some(match kind {
            FaultKind::Kill => Fault::Kill(self.target()?),
            FaultKind::Hang => Fault::Hang(self.target()?),
            FaultKind::Restart => Fault::Restart(self.target()?),
            FaultKind::KillBrokers => Fault::KillBrokers,
            FaultKind::KillControllers => Fault::KillControllers,
            FaultKind::KillAll => Fault::KillAll,
            FaultKind::Cut => Fault::Cut { between: self.two()?, resets: self.coin() },
            FaultKind::OneWay => {
                let [from, to] = self.two()?;
                Fault::OneWay { from, to, resets: self.coin() }
            }
            FaultKind::Isolate => Fault::Isolate { node: self.target()?, resets: self.coin() },
            FaultKind::Flap => Fault::Flap { between: self.two()?, period: self.millis(100, 1_000) },
            FaultKind::Delay => Fault::Delay { node: self.target()?, delay: self.millis(5, 200) },
            FaultKind::Throttle => {
                Fault::Throttle { node: self.target()?, bytes_per_second: (20 + self.random.below(200)) << 10 }
            }
            FaultKind::Reset => Fault::Reset(self.target()?),
            FaultKind::DiskFull => {
                let broker = self.one_of(&self.ground.small_disks)?;
                // Less than what brokers keep free, which they notice; or nothing at all, of which a write tells.
                let left = if self.coin() { self.ground.disk_reserve_bytes / 2 } else { 0 };
                Fault::DiskFull { broker, left }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground() -> Ground {
        let controllers = (1..=3).map(NodeId::controller);
        Ground {
            nodes: controllers.chain((1..=3).map(NodeId::broker)).collect(),
            partitions: 3,
            small_disks: vec![NodeId::broker(3)],
            disk_reserve_bytes: 1 << 20,
        }
    }

    fn draw(seed: u64, kinds: &[FaultKind]) -> Schedule {
        let (start, end) = (Duration::from_secs(2), Duration::from_secs(120));
        Schedule::draw(seed, &ground(), &kinds.iter().copied().collect(), start, end)
    }

    #[test]
    fn a_seed_has_one_schedule_and_another_seed_another() {
        assert_eq!(draw(7, FaultKind::ALL), draw(7, FaultKind::ALL));
        assert_ne!(draw(7, FaultKind::ALL), draw(8, FaultKind::ALL));
    }

    #[test]
    fn every_kind_asked_for_comes_and_no_other_and_all_end_in_time() {
        for seed in 0..50 {
            for kinds in [FaultKind::ALL, &[FaultKind::Kill, FaultKind::Flap], &[]] {
                let schedule = draw(seed, kinds);
                let drawn: BTreeSet<FaultKind> = schedule.0.iter().map(|episode| episode.fault.kind()).collect();
                assert_eq!(drawn, kinds.iter().copied().collect(), "seed {seed}");
                let in_time = |it: &Episode| it.from >= Duration::from_secs(2) && it.to <= Duration::from_secs(120);
                assert!(schedule.0.iter().all(in_time), "seed {seed}:\n{schedule}");
                assert!(schedule.0.is_sorted_by_key(|episode| episode.from));
            }
        }
    }

    #[test]
    fn faults_of_one_track_do_not_overlap() {
        for seed in 0..50 {
            for track in TRACKS {
                let schedule = draw(seed, track);
                assert!(schedule.0.is_sorted_by(|one, next| one.to <= next.from), "seed {seed}:\n{schedule}");
            }
        }
    }

    #[test]
    fn without_a_small_disk_no_disk_fills_up() {
        let ground = Ground { small_disks: Vec::new(), ..ground() };
        let kinds = BTreeSet::from([FaultKind::DiskFull]);
        assert_eq!(Schedule::draw(1, &ground, &kinds, Duration::ZERO, Duration::from_secs(60)), Schedule::default());
    }
}
