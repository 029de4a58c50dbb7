//! What goes wrong, and when: a schedule drawn from the seed.

mod apply;
mod directed;
mod draw;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

pub use apply::{MESSAGE_MAX, Wreckage};
pub use draw::Plan;

/// Kinds of faults to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// A process dies, also in the middle of what it does to its disk, also again while it starts.
    Crash,
    /// Machines lose power, one or all of them at once: what was not synced is gone, or half there.
    Power,
    /// A node hangs: nothing leaves it, reaches it or gets to its disk, and then everything does.
    Hang,
    /// A broker's disk is full, slow, or fails to sync, write or read.
    Disk,
    /// Bits of one broker's log turn.
    Bits,
    /// Links are cut, one or both ways, once or again and again; nodes are isolated; messages late; connections broken.
    Network,
    /// Wall clocks are wrong, and jump.
    Clock,
    /// Nodes are stopped in good order and started again, one after the other.
    Restart,
    /// Controllers are added to the quorum and removed from it.
    Membership,
    /// Members of groups and pipelines die, or lose their brokers.
    Members,
    /// Replicas die but one, which was cut off while they went on.
    LeftBehind,
    /// Replicas die but one, which has just joined the ISR, or is about to.
    Rejoin,
    /// What a leader has proposed reaches the controllers when it holds no more.
    Stale,
    /// The ISR shrinks to the leader alone, which dies.
    Shrink,
    /// Leaders die one after the other, cut off from each other.
    Cascade,
    /// Two leaders die with records that the next one lacks; the second leads again, and then the first.
    Offshoot,
    /// Leaders with records of their own are replaced, come back, and lead again.
    Deposed,
    /// All brokers lose power while their disks are slow or fail to sync.
    Dark,
    /// All controllers die when a leader has just been replaced.
    Amnesia,
    /// Two controllers are elected one after the other, with the vote of a third that dies in between.
    Ballot,
    /// A replica is away for long, and then leads.
    Absent,
    /// Bits of one broker's log turn, all brokers die, it last, and it is back first.
    Rot,
    /// The same with segments of which nothing is left.
    Spoiled,
}

impl Kind {
    /// Scenarios, which are not drawn with the others: they come only when they are asked for by name.
    pub fn is_directed(self) -> bool {
        self >= Self::LeftBehind
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies. With power loss, what was not synced goes with it.
    Crash {
        host: String,
        power_loss: bool,
    },
    /// The process dies after so many more calls to its disk.
    CrashAtCall {
        host: String,
        calls: u64,
        power_loss: bool,
    },
    Restart {
        host: String,
    },
    /// The process is told to end in good order. It is started again when it has.
    Stop {
        host: String,
    },
    /// Nothing leaves the host or reaches it, or gets to its disk.
    Hang {
        host: String,
    },
    /// What was held up by the hang arrives at once.
    Resume {
        host: String,
    },
    /// No more space on the disk than is taken.
    FullDisk {
        host: String,
    },
    Space {
        host: String,
    },
    /// Every sync fails: the broker must not go on as if nothing had happened (T44).
    FailSyncs {
        host: String,
    },
    /// Every write fails after a part of it was written.
    FailWrites {
        host: String,
    },
    FailReads {
        host: String,
    },
    /// Syncs, writes and reads succeed again.
    DiskWorks {
        host: String,
    },
    /// A bit of a log file turns, in the page cache and on the device.
    FlipBit {
        host: String,
    },
    /// A bit turns in a segment of those that were written first.
    FlipOldBit {
        host: String,
    },
    /// Bits turn all over a segment of those that were written first.
    Spoil {
        host: String,
    },
    /// The disk is another one, which is empty; for a host that is down.
    NewDisk {
        host: String,
    },
    /// Syncs and cold reads take a hundred times as long.
    SlowDisk {
        host: String,
    },
    FastDisk {
        host: String,
    },
    /// From now on the wall clock is wrong by so much.
    Clock {
        host: String,
        ms: i64,
    },
    /// No messages from any of the one to any of the other.
    Cut {
        from: Vec<String>,
        to: Vec<String>,
        way: Way,
    },
    Heal {
        from: Vec<String>,
        to: Vec<String>,
        way: Way,
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
    /// Messages between two hosts take up to so long.
    Delay {
        a: String,
        b: String,
        ms: u64,
    },
    NoDelay {
        a: String,
        b: String,
    },
    /// The connections of the host break; with a peer, those to it alone.
    Reset {
        host: String,
        peer: Option<String>,
    },
    /// The administrator changes the quorum of controllers.
    AddController {
        id: u64,
    },
    /// The removed controller's process is ended, and its disk wiped; it waits then to be added again.
    RemoveController {
        id: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    One,
    Both,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways = |way: &Way| if *way == Way::Both { "<->" } else { "->" };
        let with = |power_loss: &bool| if *power_loss { "loses power" } else { "is killed" };
        match self {
            Self::Crash { host, power_loss } => write!(f, "{host} {}", with(power_loss)),
            Self::CrashAtCall { host, calls, power_loss } => {
                write!(f, "{host} {} at the {calls}th disk call from now", with(power_loss))
            }
            Self::Restart { host } => write!(f, "{host} is started"),
            Self::Stop { host } => write!(f, "{host} is told to stop in good order"),
            Self::Hang { host } => write!(f, "{host} hangs"),
            Self::Resume { host } => write!(f, "{host} goes on"),
            Self::FullDisk { host } => write!(f, "the disk of {host} is full"),
            Self::Space { host } => write!(f, "the disk of {host} has space"),
            Self::FailSyncs { host } => write!(f, "syncs fail on {host}"),
            Self::FailWrites { host } => write!(f, "writes fail on {host}"),
            Self::FailReads { host } => write!(f, "reads fail on {host}"),
            Self::DiskWorks { host } => write!(f, "the disk of {host} works"),
            Self::FlipBit { host } => write!(f, "a bit turns on the disk of {host}"),
            Self::FlipOldBit { host } => write!(f, "an old bit turns on the disk of {host}"),
            Self::Spoil { host } => write!(f, "an old segment is spoiled on the disk of {host}"),
            Self::NewDisk { host } => write!(f, "{host} has got a new disk"),
            Self::SlowDisk { host } => write!(f, "the disk of {host} is slow"),
            Self::FastDisk { host } => write!(f, "the disk of {host} is fast"),
            Self::Clock { host, ms: 0 } => write!(f, "the clock of {host} is right"),
            Self::Clock { host, ms } => write!(f, "the clock of {host} is off by {:.3} s", *ms as f64 / 1_000.0),
            Self::Cut { from, to, way } => write!(f, "cut: {} {} {}", from.join("+"), ways(way), to.join("+")),
            Self::Heal { from, to, way } => write!(f, "healed: {} {} {}", from.join("+"), ways(way), to.join("+")),
            Self::Hold { a, b } => write!(f, "held: {a} <-> {b}"),
            Self::Release { a, b } => write!(f, "released: {a} <-> {b}"),
            Self::Delay { a, b, ms } => write!(f, "up to {ms} ms: {a} <-> {b}"),
            Self::NoDelay { a, b } => write!(f, "no delay: {a} <-> {b}"),
            Self::Reset { host, peer: Some(peer) } => write!(f, "connections reset: {host} <-> {peer}"),
            Self::Reset { host, peer: None } => write!(f, "connections reset: all of {host}"),
            Self::AddController { id } => write!(f, "controller {id} is to be added"),
            Self::RemoveController { id } => write!(f, "controller {id} is to be removed"),
        }
    }
}

/// A fault and its end. Times are from the beginning of the load.
pub type Episode = Vec<(Duration, Fault)>;

/// In the order of their beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(pub Vec<Episode>);

impl Schedule {
    /// The episodes that happen, with their numbers, if only those with these numbers do; with none named, all.
    pub fn chosen<'a>(&'a self, only: Option<&'a BTreeSet<usize>>) -> impl Iterator<Item = (usize, &'a Episode)> {
        self.0.iter().enumerate().filter(move |(number, _)| only.is_none_or(|only| only.contains(number)))
    }

    /// What happens when, with the number of its episode.
    pub fn events(&self, only: Option<&BTreeSet<usize>>) -> Vec<(Duration, usize, Fault)> {
        let chosen = self.chosen(only);
        let mut events: Vec<_> = chosen
            .flat_map(|(number, episode)| episode.iter().map(move |(at, it)| (*at, number, it.clone())))
            .collect();
        events.sort_by_key(|(at, ..)| *at);
        events
    }
}
