//! What can be done to a cluster of processes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::local_cluster::NodeId;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $about:literal;)*) => {
        /// A kind of fault, to choose from.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind { $($(#[$doc])* $kind,)* }

        impl FaultKind {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
            /// In a few words.
            pub fn about(self) -> &'static str {
                match self { $(Self::$kind => $about,)* }
            }
        }
    };
}

kinds! {
    Kill = "kill", "kill -9 of a node, which is started again";
    Hang = "hang", "SIGSTOP of a node, and SIGCONT";
    Restart = "restart", "SIGTERM of a node, its end in good order, and its start";
    KillBrokers = "kill-brokers", "kill -9 of all brokers at once, and their start";
    KillControllers = "kill-controllers", "kill -9 of all controllers at once, and their start";
    KillAll = "kill-all", "kill -9 of every process at once, and their start";
    Cut = "cut", "no bytes between two nodes, either way";
    OneWay = "one-way", "no bytes from one node to another; those the other way arrive";
    Isolate = "isolate", "no bytes between a node and all others, clients among them";
    Flap = "flap", "a cut between two nodes that comes and goes";
    Delay = "delay", "what a node sends and is sent arrives late";
    Throttle = "throttle", "few bytes a second from and to a node";
    Reset = "reset", "all connections of a node are reset at once";
    DiskFull = "disk-full", "no space left on the disk of a broker";
}

impl FaultKind {
    /// Whether it needs a network that can be broken.
    pub fn is_of_network(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::OneWay | Self::Isolate | Self::Flap | Self::Delay | Self::Throttle | Self::Reset
        )
    }
    /// Whether it needs a disk that can be filled.
    pub fn is_of_disk(self) -> bool {
        self == Self::DiskFull
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FaultKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        Self::ALL.iter().copied().find(|kind| kind.name() == text).ok_or_else(|| format!("must be one of {}", names()))
    }
}

/// The node that a fault hits: one by name, or one by what it is at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Node(NodeId),
    /// Of this partition of the topic under load.
    Leader(u32),
    ActiveController,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Leader(partition) => write!(f, "the leader of partition {partition}"),
            Self::ActiveController => f.write_str("the active controller"),
        }
    }
}

/// One fault. What has a begin and an end says nothing of them: an [`Episode`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Kill(Target),
    Hang(Target),
    Restart(Target),
    KillBrokers,
    KillControllers,
    KillAll,
    Cut {
        between: [Target; 2],
        resets: bool,
    },
    OneWay {
        from: Target,
        to: Target,
        resets: bool,
    },
    Isolate {
        node: Target,
        resets: bool,
    },
    Flap {
        between: [Target; 2],
        period: Duration,
    },
    Delay {
        node: Target,
        delay: Duration,
    },
    Throttle {
        node: Target,
        bytes_per_second: u64,
    },
    Reset(Target),
    /// With so many bytes left.
    DiskFull {
        broker: NodeId,
        left: u64,
    },
}

impl Fault {
    pub fn kind(&self) -> FaultKind {
        match self {
            Self::Kill(_) => FaultKind::Kill,
            Self::Hang(_) => FaultKind::Hang,
            Self::Restart(_) => FaultKind::Restart,
            Self::KillBrokers => FaultKind::KillBrokers,
            Self::KillControllers => FaultKind::KillControllers,
            Self::KillAll => FaultKind::KillAll,
            Self::Cut { .. } => FaultKind::Cut,
            Self::OneWay { .. } => FaultKind::OneWay,
            Self::Isolate { .. } => FaultKind::Isolate,
            Self::Flap { .. } => FaultKind::Flap,
            Self::Delay { .. } => FaultKind::Delay,
            Self::Throttle { .. } => FaultKind::Throttle,
            Self::Reset(_) => FaultKind::Reset,
            Self::DiskFull { .. } => FaultKind::DiskFull,
        }
    }

    /// The nodes that it names.
    pub fn targets(&self) -> Vec<Target> {
        match self {
            Self::Kill(target) | Self::Hang(target) | Self::Restart(target) | Self::Reset(target) => vec![*target],
            Self::Isolate { node, .. } | Self::Delay { node, .. } | Self::Throttle { node, .. } => vec![*node],
            Self::Cut { between, .. } | Self::Flap { between, .. } => between.to_vec(),
            Self::OneWay { from, to, .. } => vec![*from, *to],
            Self::DiskFull { broker, .. } => vec![Target::Node(*broker)],
            Self::KillBrokers | Self::KillControllers | Self::KillAll => Vec::new(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |resets: &bool| if *resets { ", then resets" } else { "" };
        write!(f, "{}", self.kind())?;
        match self {
            Self::Kill(target) | Self::Hang(target) | Self::Restart(target) | Self::Reset(target) => {
                write!(f, " {target}")
            }
            Self::KillBrokers | Self::KillControllers | Self::KillAll => Ok(()),
            Self::Cut { between: [a, b], resets } => write!(f, " {a} <-> {b}{}", end(resets)),
            Self::OneWay { from, to, resets } => write!(f, " {from} -> {to}{}", end(resets)),
            Self::Isolate { node, resets } => write!(f, " {node}{}", end(resets)),
            Self::Flap { between: [a, b], period } => write!(f, " {a} <-> {b} every {period:?}"),
            Self::Delay { node, delay } => write!(f, " {node} by {delay:?}"),
            Self::Throttle { node, bytes_per_second } => write!(f, " {node} to {} KiB/s", bytes_per_second >> 10),
            Self::DiskFull { broker, left } => write!(f, " {broker}, {} KiB left", left >> 10),
        }
    }
}

/// A list of kinds as written on a command line: names, `all`, `none`, and `-NAME` to leave one out.
pub fn parse_kinds(text: &str) -> Result<BTreeSet<FaultKind>, String> {
    let mut kinds = BTreeSet::new();
    let words: Vec<&str> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.first().is_some_and(|word| word.starts_with('-')) {
        kinds.extend(FaultKind::ALL);
    }
    for word in words {
        match (word, word.strip_prefix('-')) {
            ("all", _) => kinds.extend(FaultKind::ALL),
            ("none", _) => kinds.clear(),
            (_, Some(name)) => _ = kinds.remove(&name.parse()?),
            (name, None) => _ = kinds.insert(name.parse()?),
        }
    }
    Ok(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_chosen_by_name() {
        let kinds = |text| parse_kinds(text).map(|kinds| kinds.into_iter().collect::<Vec<_>>());
        assert_eq!(kinds("kill, flap"), Ok(vec![FaultKind::Kill, FaultKind::Flap]));
        assert_eq!(kinds("all").unwrap(), FaultKind::ALL);
        assert_eq!(kinds("none"), Ok(vec![]));
        assert_eq!(kinds("-kill-all").unwrap().len(), FaultKind::ALL.len() - 1);
        assert!(kinds("meteor").unwrap_err().contains("disk-full"));
    }
}
