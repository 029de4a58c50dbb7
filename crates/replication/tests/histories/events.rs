//! What can happen.

use proptest::prelude::*;

/// Numbers choose among what there is, modulo.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// To a replica that believes it leads.
    Append {
        node: u8,
        records: u8,
    },
    /// All that the replica has is on its disk.
    Sync {
        node: u8,
    },
    /// A follower states where it is.
    Fetch {
        node: u8,
    },
    Deliver {
        message: u8,
    },
    /// Delivered, and it will come again.
    Repeat {
        message: u8,
    },
    Lose {
        message: u8,
    },
    /// The replica sees the next images.
    Metadata {
        node: u8,
        images: u8,
    },
    Crash {
        node: u8,
    },
    StopClean {
        node: u8,
    },
    Start {
        node: u8,
    },
    /// The controller believes the broker dead.
    Fence {
        node: u8,
    },
    Unfence {
        node: u8,
    },
    Tick {
        node: u8,
        ms: u16,
    },
    MinInsync {
        replicas: u8,
    },
    CloseSession {
        leader: u8,
        follower: u8,
    },
    /// Nothing but replication as it should be, for some rounds.
    Calm {
        rounds: u8,
    },
}

pub fn event() -> impl Strategy<Value = Event> {
    let any = || any::<u8>();
    prop_oneof![
        12 => (any(), 1..4_u8).prop_map(|(node, records)| Event::Append { node, records }),
        10 => any().prop_map(|node| Event::Sync { node }),
        20 => any().prop_map(|node| Event::Fetch { node }),
        40 => any().prop_map(|message| Event::Deliver { message }),
        4 => any().prop_map(|message| Event::Repeat { message }),
        4 => any().prop_map(|message| Event::Lose { message }),
        20 => (any(), 1..4_u8).prop_map(|(node, images)| Event::Metadata { node, images }),
        2 => any().prop_map(|node| Event::Crash { node }),
        1 => any().prop_map(|node| Event::StopClean { node }),
        5 => any().prop_map(|node| Event::Start { node }),
        3 => any().prop_map(|node| Event::Fence { node }),
        5 => any().prop_map(|node| Event::Unfence { node }),
        8 => (any(), prop_oneof![1..300_u16, 8_000..12_000_u16]).prop_map(|(node, ms)| Event::Tick { node, ms }),
        1 => (1..4_u8).prop_map(|replicas| Event::MinInsync { replicas }),
        2 => (any(), any()).prop_map(|(leader, follower)| Event::CloseSession { leader, follower }),
        3 => (1..3_u8).prop_map(|rounds| Event::Calm { rounds }),
    ]
}
