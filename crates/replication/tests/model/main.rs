//! Leaders and followers of one partition against everything that networks, disks and processes do to them.
//!
//! A [`world::World`] holds 3 to 5 nodes that run the real `Leader`, `Follower` and `AckQueue`, a controller reduced to
//! what replication needs of it, and every message in flight. A test case is a list of steps: appends, fetches, lost,
//! repeated and reordered messages, syncs, crashes, power losses, fencing, late metadata. After each step all of
//! [`invariants`] must hold; when the faults stop, everything must converge. proptest shrinks what fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod controller;
mod healing;
mod invariants;
mod log;
mod node;
mod regressions;
mod steps;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use steps::{Setup, Step};
use world::World;

fn run(setup: &Setup, steps: &[Step]) -> Result<World, String> {
    let mut world = World::new(setup);
    for (index, step) in steps.iter().enumerate() {
        world.apply(step);
        invariants::check(&world).map_err(|broken| format!("after step {index}, {step:?}: {broken}"))?;
    }
    Ok(world)
}

fn holds(setup: &Setup, steps: &[Step]) -> TestCaseResult {
    let mut world = run(setup, steps).map_err(TestCaseError::fail)?;
    healing::heal(&mut world).map_err(|broken| TestCaseError::fail(format!("after the faults: {broken}")))
}

/// `PROPTEST_CASES` sets another number.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(600))]

    #[test]
    fn what_is_promised_with_durability_sync_holds_through_crashes_that_lose_the_unsynced_tail(
        setup in steps::setup(highwater_types::Durability::Sync),
        steps in steps::steps(250),
    ) {
        holds(&setup, &steps)?;
    }

    #[test]
    fn what_is_promised_with_durability_replicated_holds_while_a_copy_keeps_its_power(
        setup in steps::setup(highwater_types::Durability::Replicated),
        steps in steps::steps(250),
    ) {
        holds(&setup, &steps)?;
    }
}
