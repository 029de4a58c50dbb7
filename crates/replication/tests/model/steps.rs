//! What can happen to a cluster, as proptest values. Numbers choose among what there is, modulo how many there are.

use highwater_types::Durability;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub nodes: usize,
    pub min_insync: usize,
    pub durability: Durability,
    /// When the faults stop, this one stays silent, yet unfenced.
    pub silent: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Arrives,
    /// And will arrive once more.
    Repeats,
    Lost,
}

#[derive(Debug, Clone, Copy)]
pub enum Traffic {
    Fetches,
    Answers,
    Proposals,
    Decisions,
}

#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// At any broker that believes to lead.
    Append {
        leader: usize,
        count: usize,
        acks_all: bool,
    },
    Fetch(usize),
    /// A fetch, its answer and a sync, with nothing in between.
    Exchange(usize),
    Message {
        of: Traffic,
        at: usize,
        fate: Fate,
    },
    /// The caller of a proposal gives up waiting. The proposal itself may be on its way still.
    Unanswered(usize),
    Sync {
        node: usize,
        sixteenths: usize,
    },
    Metadata {
        node: usize,
        all: bool,
    },
    /// A view from before, out of order.
    OldView {
        node: usize,
        back: usize,
    },
    Time {
        ms: u64,
    },
    SessionClosed {
        leader: usize,
        follower: usize,
    },
    Crash(usize),
    PowerLoss {
        node: usize,
        sixteenths: usize,
    },
    Restart {
        node: usize,
        unfence: bool,
        choice: usize,
    },
    Fence {
        node: usize,
        choice: usize,
    },
    Unfence {
        node: usize,
        choice: usize,
    },
    Shutdown {
        node: usize,
        choice: usize,
    },
    Elect(usize),
    /// One of the ISR is elected and is the first to hear of it; it may write at once.
    Failover {
        node: usize,
        count: usize,
    },
    DeleteRecords {
        leader: usize,
        sixteenths: usize,
    },
    Checkpoint(usize),
}

pub fn setup(durability: Durability) -> impl Strategy<Value = Setup> {
    let nodes = prop_oneof![6 => Just(3usize), 3 => Just(4usize), 2 => Just(5usize)];
    let min_insync = prop_oneof![4 => Just(1usize), 5 => Just(2usize), 1 => Just(3usize)];
    (nodes, min_insync, prop::option::of(0usize..5)).prop_map(move |(nodes, min_insync, silent)| Setup {
        nodes,
        min_insync,
        durability,
        silent: silent.map(|node| node % nodes),
    })
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..most)
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0usize..60;
    let sixteenths = || 0usize..=16;
    let fate = prop_oneof![6 => Just(Fate::Arrives), 2 => Just(Fate::Repeats), 1 => Just(Fate::Lost)];
    let traffic = prop_oneof![
        4 => Just(Traffic::Fetches), 4 => Just(Traffic::Answers), 3 => Just(Traffic::Proposals), 2 => Just(Traffic::Decisions),
    ];
    prop_oneof![
        12 => (node(), 1usize..4, any::<bool>())
            .prop_map(|(leader, count, acks_all)| Step::Append { leader, count, acks_all }),
        10 => node().prop_map(Step::Fetch),
        22 => node().prop_map(Step::Exchange),
        30 => (traffic, node(), fate).prop_map(|(of, at, fate)| Step::Message { of, at, fate }),
        2 => node().prop_map(Step::Unanswered),
        6 => (node(), sixteenths()).prop_map(|(node, sixteenths)| Step::Sync { node, sixteenths }),
        14 => (node(), any::<bool>()).prop_map(|(node, all)| Step::Metadata { node, all }),
        3 => (node(), 0usize..6).prop_map(|(node, back)| Step::OldView { node, back }),
        8 => (10u64..1500).prop_map(|ms| Step::Time { ms }),
        1 => (node(), node()).prop_map(|(leader, follower)| Step::SessionClosed { leader, follower }),
        2 => node().prop_map(Step::Crash),
        2 => (node(), sixteenths()).prop_map(|(node, sixteenths)| Step::PowerLoss { node, sixteenths }),
        5 => (node(), any::<bool>(), node())
            .prop_map(|(node, unfence, choice)| Step::Restart { node, unfence, choice }),
        2 => (node(), node()).prop_map(|(node, choice)| Step::Fence { node, choice }),
        5 => (node(), node()).prop_map(|(node, choice)| Step::Unfence { node, choice }),
        1 => (node(), node()).prop_map(|(node, choice)| Step::Shutdown { node, choice }),
        1 => node().prop_map(Step::Elect),
        4 => (node(), 0usize..3).prop_map(|(node, count)| Step::Failover { node, count }),
        1 => (node(), sixteenths()).prop_map(|(leader, sixteenths)| Step::DeleteRecords { leader, sixteenths }),
        2 => node().prop_map(Step::Checkpoint),
    ]
}
