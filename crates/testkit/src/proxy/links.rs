//! What is wrong with the network: a list of impairments, and what they make of one direction between two hosts.

use std::fmt;
use std::time::Duration;

use crate::local_cluster::NodeId;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Node(NodeId),
    /// Everything that is no node of the cluster.
    Clients,
}

/// The hosts that an impairment is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Node(NodeId),
    /// All nodes, but not the clients.
    Nodes,
    All,
}

impl Side {
    pub fn has(self, host: Host) -> bool {
        match self {
            Self::Node(node) => host == Host::Node(node),
            Self::Nodes => matches!(host, Host::Node(_)),
            Self::All => true,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Nodes => f.write_str("the other nodes"),
            Self::All => f.write_str("everybody"),
        }
    }
}

/// What happens to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// None pass.
    Cut,
    /// They arrive so much later, in order.
    Delay(Duration),
    /// So many a second, on each connection.
    Throttle(u64),
}

/// An effect on what goes from one side to the other. The other direction is another impairment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impairment {
    pub from: Side,
    pub to: Side,
    pub effect: Effect,
}

/// All effects on one direction, taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quality {
    pub is_cut: bool,
    pub delay: Duration,
    pub bytes_per_second: Option<u64>,
}

pub fn quality<'a>(impairments: impl Iterator<Item = &'a Impairment>, from: Host, to: Host) -> Quality {
    let mut quality = Quality::default();
    for impairment in impairments.filter(|it| it.from.has(from) && it.to.has(to)) {
        match impairment.effect {
            Effect::Cut => quality.is_cut = true,
            Effect::Delay(delay) => quality.delay += delay,
            Effect::Throttle(rate) => {
                quality.bytes_per_second = Some(quality.bytes_per_second.map_or(rate, |other| other.min(rate)));
            }
        }
    }
    quality
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impairments_add_up_in_the_direction_that_they_name_and_in_no_other() {
        let (one, two) = (NodeId::broker(1), NodeId::controller(2));
        let all = [
            Impairment { from: Side::Node(one), to: Side::Nodes, effect: Effect::Cut },
            Impairment { from: Side::All, to: Side::Node(two), effect: Effect::Delay(Duration::from_millis(5)) },
            Impairment { from: Side::Node(one), to: Side::All, effect: Effect::Delay(Duration::from_millis(2)) },
            Impairment { from: Side::Nodes, to: Side::All, effect: Effect::Throttle(7) },
            Impairment { from: Side::Nodes, to: Side::All, effect: Effect::Throttle(9) },
        ];
        let of = |from, to| quality(all.iter(), from, to);
        let ms = Duration::from_millis;
        assert_eq!(
            of(Host::Node(one), Host::Node(two)),
            Quality { is_cut: true, delay: ms(7), bytes_per_second: Some(7) }
        );
        assert_eq!(of(Host::Node(two), Host::Node(one)), Quality { bytes_per_second: Some(7), ..Quality::default() });
        assert_eq!(
            of(Host::Node(one), Host::Clients),
            Quality { delay: ms(2), bytes_per_second: Some(7), ..Quality::default() }
        );
        assert_eq!(of(Host::Clients, Host::Node(one)), Quality::default());
    }
}
