//! Random histories of 3 to 5 replicas of one partition: appends, fsyncs, messages lost, repeated and out of order, crashes
//! that lose what was not synced, clean stops, fencing, changes of `min.insync.replicas`, and metadata that arrives late.
//! Written apart from `tests/model`, against the same promises: each has found faults of the other's world (this one changes
//! `min.insync.replicas` and stops replicas cleanly; that one reorders views and gives up proposals), and neither trusts the
//! other's controller.
//!
//! After each event every invariant must hold; at the end, with everything up again, the partition must heal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod controller;
mod events;
mod invariants;
mod node;
mod world;

use highwater_types::Durability;
use proptest::prelude::*;

use events::{Event, event};
use world::World;

fn run(nodes: usize, min_insync: usize, durability: Durability, events: &[Event]) {
    let mut world = World::new(nodes, min_insync, durability);
    for event in events {
        world.apply(*event);
        invariants::check(&world);
    }
    world.heal();
    invariants::check(&world);
}

/// `PROPTEST_CASES` sets another number.
fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    // Nothing to persist: a failing case is shrunk and printed whole.
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Sync), Just(Durability::Replicated)]
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn any_history_keeps_the_invariants_and_heals(
        nodes in 3..=5_usize,
        min_insync in 1..=3_usize,
        durability in durability(),
        events in prop::collection::vec(event(), 1..400),
    ) {
        run(nodes, min_insync, durability, &events);
    }
}

/// Without this the model could pass by committing nothing.
#[test]
fn the_histories_commit_elect_truncate_and_change_the_isr() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = world::Seen::default();
    for round in 0..60 {
        let events = prop::collection::vec(event(), 300..400).new_tree(&mut runner).unwrap().current();
        let durability = if round % 2 == 0 { Durability::Sync } else { Durability::Replicated };
        let mut world = World::new(3 + round % 3, 1 + round % 3, durability);
        for event in events {
            world.apply(event);
        }
        seen.add(&world.seen);
    }
    let counts = [seen.committed, seen.elections, seen.truncated, seen.joins, seen.shrinks, seen.crashes_with_loss];
    assert!(counts.iter().all(|n| *n > 20), "{seen:?}");
}
