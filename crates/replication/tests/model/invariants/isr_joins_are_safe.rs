//! Who joins the ISR is unfenced, runs in the incarnation that was seen to be in sync, and has, as durably as promised,
//! all that was ever shown and all that is older than the leader's epoch (T8, T9, T10).

use highwater_types::Durability;

use crate::log::index;
use crate::world::World;

pub fn check(world: &World) -> Result<(), String> {
    let view = &world.controller.view;
    for broker in &world.joined {
        let node = world.node(*broker);
        let standing = world.controller.brokers[broker];
        if standing.fenced || standing.shutting_down {
            return Err(format!("broker {broker} joined the ISR: {standing:?}"));
        }
        if node.lost_power {
            continue;
        }
        let has = match world.setup.durability {
            Durability::Sync => node.log.durable(),
            Durability::Replicated => node.log.end(),
        };
        if has < world.shown.len() {
            let shown = world.shown.len();
            return Err(format!("broker {broker} joined the ISR with {has} of {shown} committed"));
        }
        let leader = view.leader.map(|leader| world.node(leader)).and_then(|node| node.reign());
        if let Some(reign) = leader
            && reign.leader.leader_epoch() == view.leader_epoch
            && has < index(reign.leader.epoch_start())
        {
            return Err(format!("broker {broker} joined the ISR with {has}, before {}", reign.leader.epoch_start()));
        }
    }
    Ok(())
}
