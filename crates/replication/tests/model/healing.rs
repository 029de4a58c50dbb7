//! Liveness: when the faults stop, what can recover does, by itself.

use std::time::Duration;

use highwater_types::{BrokerId, Durability};

use crate::invariants;
use crate::log::offset;
use crate::world::World;

const ROUNDS_MAX: usize = 400;

/// Everybody runs, is unfenced and reaches everybody; one broker may stay silent, though its session lives.
pub fn heal(world: &mut World) -> Result<(), String> {
    world.lose_all_messages();
    for node in 0..world.nodes.len() {
        let id = world.nodes[node].id;
        if !world.nodes[node].up || world.controller.brokers[&id].shutting_down {
            world.restart(node, true, 0);
        }
        world.unfence(node, 0);
    }
    let Some(leader) = world.controller.view.leader else {
        let view = &world.controller.view;
        if world.setup.durability == Durability::Sync || !view.isr.is_empty() || !view.elr.is_empty() {
            return Err(format!("nobody leads, though somebody could: {view:?}"));
        }
        // Every copy lost its power, and with it records. To go on is the operator's decision.
        return Ok(());
    };
    let silent = world.setup.silent.map(|node| world.nodes[node].id);
    let silent = silent.filter(|b| *b != leader && world.config.min_insync < world.nodes.len());
    let leader = usize::try_from(leader.get() - 1).unwrap();
    let mut appended = false;
    for _ in 0..ROUNDS_MAX {
        round(world, silent)?;
        if !is_converged(world, leader, silent) {
            continue;
        }
        if appended {
            return stays_quiet(world, silent);
        }
        // And it serves.
        let before = world.nodes[leader].log.end();
        world.append(leader, 2, true);
        if world.nodes[leader].log.end() == before {
            return Err("a converged leader refuses an append".to_owned());
        }
        appended = true;
    }
    Err(format!("no convergence: {world:#?}"))
}

fn round(world: &mut World, silent: Option<BrokerId>) -> Result<(), String> {
    world.joined.clear();
    world.advanced.clear();
    world.pass(Duration::from_millis(500));
    for node in 0..world.nodes.len() {
        if Some(world.nodes[node].id) != silent {
            world.deliver_image(node, world.controller.images.len() - 1);
            world.sync(node, 16);
            world.exchange(node);
        }
    }
    world.decide_all();
    invariants::check(world)
}

fn is_converged(world: &World, leader: usize, silent: Option<BrokerId>) -> bool {
    let Some(reign) = world.nodes[leader].reign() else { return false };
    let log = &world.nodes[leader].log;
    let end = offset(log.end());
    let view = reign.leader.view();
    // The silent one is welcome while it lacks nothing; it must leave when there is an append to wait for.
    world.nodes.iter().all(|node| Some(node.id) == silent || view.isr.contains(&node.id))
        && *view == world.controller.view
        && reign.leader.high_watermark() == end
        && reign.leader.high_watermark_is_certain()
        && reign.waiting.is_empty()
        && world.nodes.iter().filter(|node| Some(node.id) != silent).all(|node| {
            node.high_watermark() == end
                && (log.start().max(node.log.start())..log.end()).all(|at| node.log.get(at) == log.get(at))
                && node.log.end() == log.end()
        })
}

/// Nothing flaps: neither proposals nor another ISR.
fn stays_quiet(world: &mut World, silent: Option<BrokerId>) -> Result<(), String> {
    // What is pending still, as the confirmation of an unanswered proposal, may end first.
    let settling = world.config.lag_time_max + world.config.proposal_lifetime;
    for _ in 0..settling.as_millis() / 500 + 2 {
        round(world, silent)?;
    }
    let (proposed, view) = (world.proposed, world.controller.view.clone());
    for _ in 0..30 {
        round(world, silent)?;
    }
    if world.proposed != proposed || world.controller.view != view {
        return Err(format!("the ISR flaps: {} proposals in a quiet time", world.proposed - proposed));
    }
    Ok(())
}
